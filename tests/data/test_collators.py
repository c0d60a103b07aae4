"""Collators: what a batch holds, and which stored positives are drawn."""

from collections import Counter

import pytest
import torch

from cse.batch import Example
from cse.data.tokens import TokenStore
from cse.data.views.around import BothWays
from cse.data.views.texts import TextViews
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


def test_only_repeated_texts_need_dropout():
    assert TextViews().needs_dropout(Example(("a",)))
    assert not TextViews(views=1).needs_dropout(Example(("a",)))
    assert not TextViews().needs_dropout(Example(("a", "b")))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_length": 1}, "collator.max_length"),
        ({"views": 0}, "collator.views"),
        ({"sample": 0}, "collator.sample is 0"),
        ({"keep_original": True}, "collator.keep_original is true, but positives are not drawn"),
    ],
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(UserError, match=named):
        TextViews(**options)


# -- Stored positives ------------------------------------------------------------------------------------------------

STORED = ("the cat", "a cat", "red cat", "slow cat", "fast cat")


def drawn(examples, *, epoch=0, seed=1, **options):
    return TextViews(**options).texts(examples, epoch=epoch, seed=seed)


def test_each_stored_positive_is_drawn_as_often_and_without_repetition():
    """Each count within 5 standard deviations of its binomial."""
    rows = [Example(STORED, num_positives=4, row_id=i) for i in range(2000)]
    counts = Counter()
    for anchor, *chosen in drawn(rows, sample=2):
        assert anchor == "the cat"
        assert len(set(chosen)) == 2
        counts.update(chosen)
    assert counts.keys() == set(STORED[1:])
    assert all(abs(count - 1000) < 5 * (2000 * 0.5 * 0.5) ** 0.5 for count in counts.values())


def test_a_draw_depends_on_seed_epoch_and_row_alone():
    rows = [Example(STORED, num_positives=4, row_id=i) for i in range(20)]
    want = drawn(rows, sample=1)
    assert drawn(rows[::-1], sample=1) == want[::-1]
    assert drawn(rows, sample=1, epoch=1) != want
    assert drawn(rows, sample=1, seed=2) != want
    assert [row[1] for row in want] != [want[0][1]] * 20


def test_the_original_may_be_drawn_and_stands_in_for_what_is_missing(encoder):
    rows = [Example(("the cat", "a cat"), row_id=i) for i in range(200)]
    assert {row[1] for row in drawn(rows, sample=1, keep_original=True)} == {"the cat", "a cat"}
    few = Example(("the cat", " ", "a cat", " ", "red sun"), num_positives=3, row_id=1)
    assert drawn([few], sample=2) == [["the cat", "a cat", "the cat", "red sun"]]  # the last is a hard negative
    batch = ready(TextViews(max_length=8, sample=2), encoder, [few])([few])
    assert batch.num_positives == 2
    assert batch.text_id[0, 0] == batch.text_id[0, 2]
    assert words_of(encoder, batch.input_ids[0, 3], batch.attention_mask[0, 3]) == "red sun"


def test_what_a_row_says_of_each_text_is_not_given_of_drawn_ones(encoder):
    rows = [Example(STORED[:3], num_positives=2, relevance=(1.0, 0.5), teacher=(1.0, 2.0), score=0.5)]
    collator = TextViews(max_length=8, sample=1)
    assert {"relevance", "teacher"}.isdisjoint(collator.provides)
    batch = ready(collator, encoder, rows)(rows)
    assert (batch.relevance, batch.teacher, batch.score.tolist()) == (None, None, [0.5])


def test_only_draws_that_may_be_the_anchor_need_dropout():
    assert not TextViews(sample=1).needs_dropout(Example(STORED, num_positives=4))
    assert TextViews(sample=1, keep_original=True).needs_dropout(Example(STORED, num_positives=4))


# -- Both orders -----------------------------------------------------------------------------------------------------


def test_two_views_in_both_orders(encoder):
    rows = [Example(("the cat", "a dog ran"), row_id=3), Example(("red sun", "blue moon"), row_id=4)]
    batch = ready(BothWays(views=TextViews(max_length=8)), encoder, rows)(rows)
    assert batch.num_positives == 3
    for row, example in enumerate(rows):
        a, b = example.texts
        for view, text in enumerate((a, b, b, a)):
            assert words_of(encoder, batch.input_ids[row, view], batch.attention_mask[row, view]) == text
    assert batch.text_id[0].tolist() == [batch.text_id[0, i].item() for i in (3, 2, 1, 0)]


def test_more_than_two_views_have_no_two_orders(encoder):
    rows = [Example(STORED[:3], num_positives=2)]
    with pytest.raises(UserError, match="BothWays puts two views in both orders, and rows have 3"):
        ready(BothWays(views=TextViews(max_length=8)), encoder, rows)(rows)


def test_rows_with_unequal_positives_are_refused(encoder):
    examples = [Example(("the cat", "a cat", "sun"), num_positives=2), Example(("the dog", "a dog", "sun"))]
    with pytest.raises(UserError, match="positives"):
        ready(TextViews(max_length=8), encoder, examples)(examples)
