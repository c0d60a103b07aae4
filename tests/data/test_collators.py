"""Collators: what a batch holds, and that masks are BERT's, in number, in place and in every rerun."""

from __future__ import annotations

import math

import pytest
import torch

from cse.batch import Example
from cse.data.collators import Masked, TextViews
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError
from tests.conftest import WORDS

ROW = " ".join(WORDS[:10])


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert)


def ready(collator, encoder, examples, seed=1):
    texts = [text for example in examples for text in example.texts]
    collator.setup(TokenStore.build(texts, encoder.tokenizer, collator.max_length), seed)
    return collator


def singles(count):
    return [Example((ROW,), row_id=i) for i in range(count)]


def words_of(encoder, ids, mask):
    return encoder.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)


# -- TextViews -------------------------------------------------------------------------------------------------------


def test_a_text_alone_is_repeated(encoder):
    examples = [Example(("the cat sat",), row_id=4), Example(("a dog",), row_id=9)]
    batch = ready(TextViews(max_length=8, views=3), encoder, examples)(examples)
    assert batch.input_ids.shape == (2, 3, 5)  # [CLS] and [SEP] beside three words
    assert batch.num_positives == 2
    assert torch.equal(batch.input_ids[:, 0], batch.input_ids[:, 2])
    assert batch.text_id[0].unique().numel() == 1
    assert batch.text_id[0, 0] != batch.text_id[1, 0]
    assert batch.row_id.tolist() == [4, 9]
    assert batch.attention_mask.sum(-1).tolist() == [[5, 5, 5], [4, 4, 4]]
    assert batch.view_mask is None
    assert batch.score is None


def test_unequal_numbers_of_hard_negatives(encoder):
    examples = [Example(("the cat", "a cat", "red sun", "blue sun")), Example(("the dog", "a dog", "the cat"))]
    batch = ready(TextViews(max_length=8), encoder, examples)(examples)
    assert batch.input_ids.shape[:2] == (2, 4)
    assert batch.num_positives == 1
    assert batch.view_mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert batch.text_id[0, 0] == batch.text_id[1, 2]  # one text, one identity
    for row, example in enumerate(examples):
        for view, text in enumerate(example.texts):
            assert words_of(encoder, batch.input_ids[row, view], batch.attention_mask[row, view]) == text


def test_scores_and_labels_are_kept_where_every_row_has_one(encoder):
    examples = [
        Example(("the cat", "a cat"), score=0.25, label=3, relevance=(2.0,)),
        Example(("red", "blue"), score=1.0, relevance=(0.5,)),
    ]
    batch = ready(TextViews(max_length=8), encoder, examples)(examples)
    assert batch.relevance.tolist() == [[2.0], [0.5]]
    assert batch.score.tolist() == [0.25, 1.0]
    assert batch.label is None


def test_rows_with_unequal_positives_are_refused(encoder):
    examples = [Example(("the cat", "a cat", "sun"), num_positives=2), Example(("the dog", "a dog", "sun"))]
    with pytest.raises(UserError, match="positives"):
        ready(TextViews(max_length=8), encoder, examples)(examples)


def test_long_texts_are_cut_before_the_end_token(encoder):
    batch = ready(TextViews(max_length=6), encoder, singles(1))(singles(1))
    assert batch.input_ids.shape == (1, 2, 6)
    assert batch.input_ids[0, 0, -1] == encoder.tokenizer.sep_token_id


def test_only_repeated_texts_need_dropout():
    assert TextViews().needs_dropout(Example(("a",)))
    assert not TextViews(views=1).needs_dropout(Example(("a",)))
    assert not TextViews().needs_dropout(Example(("a", "b")))
    assert Masked(views=TextViews()).needs_dropout(Example(("a",)))


@pytest.mark.parametrize(
    ("options", "named"), [({"max_length": 1}, "collator.max_length"), ({"views": 0}, "collator.views")]
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(UserError, match=named):
        TextViews(**options)


# -- Masked ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.15, 0.5])
def test_masks_have_the_numbers_of_bert(encoder, probability):
    """Each count within 5 standard deviations of its binomial."""
    rows = 1000
    batch = ready(Masked(views=TextViews(max_length=12), probability=probability), encoder, singles(rows))(
        singles(rows)
    )
    ids, masked, labels = batch.input_ids, batch.masked_ids, batch.mlm_labels
    chosen = labels != -100
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


def test_a_mask_depends_on_seed_epoch_and_row_alone(encoder):
    examples = singles(6)

    def masks(order, seed=1, epoch=2):
        collator = ready(Masked(views=TextViews(max_length=12), probability=0.5), encoder, examples, seed)
        collator(examples, 7)  # what was drawn before has no say
        return collator([examples[i] for i in order], epoch).masked_ids

    want = masks(range(6))
    assert torch.equal(masks([3, 1]), want[[3, 1]])
    assert not torch.equal(masks(range(6), epoch=3), want)
    assert not torch.equal(masks(range(6), seed=2), want)
    assert not torch.equal(want[0], want[1])  # rows of one text
    assert not torch.equal(want[:, 0], want[:, 1])  # and views of one row


def test_probability_is_checked():
    with pytest.raises(UserError, match=r"collator\.probability is 1\.0"):
        Masked(views=TextViews(), probability=1.0)


def test_a_tokenizer_without_a_mask_token_is_refused(tiny_bert):
    encoder = Encoder(tiny_bert)
    encoder.tokenizer.mask_token = None
    with pytest.raises(UserError, match="mask token"):
        ready(Masked(views=TextViews(max_length=12)), encoder, singles(2))
