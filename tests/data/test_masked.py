"""Masks are BERT's, in number, in place and in every rerun; by view, by word and within each other."""

import math

import pytest
import torch

from cse import Encoder, Example, Masked, TextViews
from tests.data.test_collators import ready, singles
from tests.encoder.helpers import bert
from tests.models import save_tiny
from tests.refusals import refuses


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert)


def test_masks_have_the_numbers_of_bert(encoder):
    """Each count within 5 standard deviations of its binomial."""
    rows, probability = 1000, 0.15
    batch, chosen = chosen_of(Masked(views=TextViews(max_length=12)), encoder, singles(rows))
    ids, masked, labels = batch.input_ids, batch.masked_ids, batch.mlm_labels
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    vocabulary, mask_id = len(encoder.tokenizer), encoder.tokenizer.mask_token_id
    total = int(chosen.sum())
    # A random token is the mask token or the original once in a vocabulary.
    expected = {
        "chosen": (total, rows * 2 * 10, probability),
        "mask": (int((masked[chosen] == mask_id).sum()), total, 0.8 + 0.1 / vocabulary),
        "same": (int((masked[chosen] == ids[chosen]).sum()), total, 0.1 + 0.1 / vocabulary),
    }
    for name, (count, trials, p) in expected.items():
        assert abs(count - trials * p) < 5 * math.sqrt(trials * p * (1 - p)), name
    other = masked[chosen & (masked != mask_id) & (masked != ids)]
    counts = torch.bincount(other, minlength=vocabulary).double()
    assert (counts > 0).sum() >= vocabulary - 1 - 1  # every token but the mask comes up; the smallest count is about 15
    assert masked.min() >= 0
    assert masked.max() < vocabulary


@pytest.mark.parametrize("template", [None, "the sun {text} on a mat"])
def test_only_the_text_itself_is_masked(tiny_bert, template):
    encoder = Encoder(tiny_bert, template=template)
    texts = ["red dog", "blue house tree moon unheard", "fast"]  # `unheard` becomes [UNK]
    examples = [Example((text,), row_id=i) for i, text in enumerate(texts)]
    collator = ready(Masked(views=TextViews(max_length=20), probability=0.9), encoder, examples)
    before = 1 + (2 if template else 0)  # [CLS], and the template's words
    allowed = torch.zeros_like(collator(examples).input_ids, dtype=torch.bool)
    for row, count in enumerate([2, 4, 1]):  # never `unheard`
        allowed[row, :, before : before + count] = True
    ever = torch.zeros_like(allowed)
    for epoch in range(60):
        batch = collator(examples, epoch)
        changed = (batch.mlm_labels != -100) | (batch.masked_ids != batch.input_ids)
        assert not (changed & ~allowed).any()
        ever |= changed
    assert torch.equal(ever, allowed)


def test_a_tokenizer_without_a_mask_token_is_refused(tiny_bert):
    encoder = Encoder(tiny_bert)
    encoder.tokenizer.mask_token = None
    refuses("mask token", ready, Masked(views=TextViews(max_length=12)), encoder, singles(2))


# By view, by word, within each other
def chosen_of(collator, encoder, examples):
    batch = ready(collator, encoder, examples)(examples)
    return batch, batch.mlm_labels != -100


def test_each_view_has_its_own_probability(encoder):
    """Each share within 5 standard deviations of its binomial; one of 0 leaves the view as it is."""
    rows, each = 600, [0.3, 0.0, 0.45]
    collator = Masked(views=TextViews(max_length=12, views=3), probability=each)
    batch, chosen = chosen_of(collator, encoder, singles(rows))
    for view, p in enumerate(each):
        count = int(chosen[:, view].sum())
        assert abs(count - rows * 10 * p) <= 5 * math.sqrt(rows * 10 * p * (1 - p))
    assert torch.equal(batch.masked_ids[:, 1], batch.input_ids[:, 1])


def test_mask_only_replaces_nothing_by_other_tokens(encoder):
    batch, chosen = chosen_of(Masked(views=TextViews(max_length=12), mask_only=True), encoder, singles(100))
    assert chosen.any()
    assert (batch.masked_ids[chosen] == encoder.tokenizer.mask_token_id).all()


def test_nested_masks_contain_each_other_and_have_their_probabilities(encoder):
    rows, each = 600, [0.3, 0.5]
    collator = Masked(views=TextViews(max_length=12), probability=each, mask_only=True, nested=True)
    _, chosen = chosen_of(collator, encoder, singles(rows))
    assert not (chosen[:, 0] & ~chosen[:, 1]).any()
    for view, p in enumerate(each):
        assert abs(int(chosen[:, view].sum()) - rows * 10 * p) < 5 * math.sqrt(rows * 10 * p * (1 - p))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """An encoder whose tokenizer cuts a word into its letters: `s`, `##u`, `##n`."""
    folder = tmp_path_factory.mktemp("pieces")
    bert(folder).save_pretrained(folder)
    return Encoder(save_tiny("bert", folder, folder / "model"))


def test_all_tokens_of_a_word_are_chosen_together(pieces):
    """Three words of 2, 1 and 3 tokens: 8 sets of words come up, each with its probability."""
    rows = [Example(("ab c def",), row_id=i) for i in range(1000)]
    collator = Masked(views=TextViews(max_length=10, views=1), probability=0.4, whole_words=True)
    _, chosen = chosen_of(collator, pieces, rows)
    text = chosen[:, 0, 1:7].int()
    assert torch.equal(text[:, 0], text[:, 1])
    assert torch.equal(text[:, 3], text[:, 4])
    assert torch.equal(text[:, 3], text[:, 5])
    sets = text[:, [0, 2, 3]]
    for choice in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3):
        p = 0.4 ** int(choice.sum()) * 0.6 ** (3 - int(choice.sum()))
        count = int((sets == choice).all(1).sum())
        assert abs(count - 1000 * p) < 5 * math.sqrt(1000 * p * (1 - p))


@pytest.mark.parametrize(
    ("start", "continues"),
    [("\u0120", [False, True, True, False]), ("\u2581", [False, True, True, False]), ("", [False] * 4)],
)
def test_where_words_begin_in_other_vocabularies(start, continues, tmp_path):
    """Byte-level and SentencePiece vocabularies mark the first token of a word, and word-level ones have only such."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from cse.data.tokens import TokenStore

    vocabulary = {f"{start}sun": 0, "moon": 1, "a": 2, f"{start or 'x'}": 3}
    model = models.BPE(vocabulary, []) if start else models.WordLevel(vocabulary, unk_token="x")
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), pad_token=f"{start}sun")
    assert TokenStore.build([f"{start}sun"], words, 8).continues.tolist() == continues
