"""Collators: what a batch holds, which stored positives are drawn, and which words nested spans and halves have."""

from collections import Counter

import pytest
import torch

from cse import BothWays, Encoder, Example, Halves, Masked, RandomSpans, TextViews
from cse.augment import WordReordering
from cse.commands.augment import views_of
from cse.data.tokens import TokenStore
from cse.data.views.texts import NestedViews, halves
from tests.conftest import WORDS
from tests.refusals import refuses

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


# TextViews
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
    assert not TextViews(sample=1).needs_dropout(Example(("a", "b", "c"), num_positives=2))
    assert TextViews(sample=1, keep_original=True).needs_dropout(Example(("a", "b", "c"), num_positives=2))


# Stored positives
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


DRAWN = {
    "positives": (TextViews(max_length=12, sample=1), STORED),
    "masks": (Masked(views=TextViews(max_length=12), probability=0.5), (ROW,)),
    "nested spans": (NestedViews(max_length=12), (ROW,)),
    "spans": (RandomSpans(views=TextViews(max_length=12, views=1), smallest=(1,), largest=(3,)), (ROW,)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_depends_on_seed_epoch_and_row_alone(name, encoder):
    collator, texts = DRAWN[name]
    rows = [Example(texts, num_positives=max(1, len(texts) - 1), row_id=i) for i in range(8)]

    def drawn(order=range(8), seed=1, epoch=2):
        ready(collator, encoder, rows, seed)(rows, 7)  # what was drawn before has no say
        return collator([rows[i] for i in order], epoch).tensors()

    def same(found, other):
        return all(torch.equal(found[key], other[key]) for key in found)

    want = drawn()
    assert same(drawn([3, 1]), {key: tensor[[3, 1]] for key, tensor in want.items()})
    assert not same(drawn(epoch=3), want)
    assert not same(drawn(seed=2), want)
    del want["row_id"]
    assert any(not torch.equal(tensor[i], tensor[0]) for tensor in want.values() for i in range(8))


# Both orders
def test_two_views_in_both_orders(encoder):
    rows = [Example(("the cat", "a dog ran"), row_id=3), Example(("red sun", "blue moon"), row_id=4)]
    batch = ready(BothWays(views=TextViews(max_length=8)), encoder, rows)(rows)
    assert batch.num_positives == 3
    for row, example in enumerate(rows):
        a, b = example.texts
        for view, text in enumerate((a, b, b, a)):
            assert words_of(encoder, batch.input_ids[row, view], batch.attention_mask[row, view]) == text
    assert batch.text_id[0].tolist() == [batch.text_id[0, i].item() for i in (3, 2, 1, 0)]


# What is refused
VIEWS, PAIR = TextViews(max_length=12), Example(("the cat", "a cat"))
UNEQUAL = [Example(("the cat", "a cat", "sun"), num_positives=2), Example(("the dog", "a dog", "sun"))]
ARGUMENTS = {  # what is said -> what is made
    "collator.max_length": lambda: TextViews(max_length=1),
    "collator.views": lambda: TextViews(views=0),
    "collator.sample is 0": lambda: TextViews(sample=0),
    "collator.keep_original is true, but positives are not drawn": lambda: TextViews(keep_original=True),
    r"collator.probability is 1.0\nfix: give a number in \(0, 1\)": lambda: Masked(views=VIEWS, probability=1.0),
    r"collator.probability is 1.0\nfix: give a number in \[0, 1\)": lambda: Masked(views=VIEWS, probability=[0.3, 1.0]),
    "give one above 0": lambda: Masked(views=VIEWS, probability=[0.0, 0.0]),
    "from small to large, since masks are nested": lambda: Masked(views=VIEWS, probability=[0.5, 0.3], nested=True),
    r"collator\.shares is \[\]": lambda: NestedViews(shares=[]),
    r"collator\.shares is \[0.4, 0.2\]": lambda: NestedViews(shares=[0.4, 0.2]),
    r"collator\.shares is \[0.2, 0.2\]": lambda: NestedViews(shares=[0.2, 0.2]),
    r"collator\.shares\[0\] is 0.0": lambda: NestedViews(shares=[0.0, 0.2]),
    r"collator\.shares\[1\] is 1.0": lambda: NestedViews(shares=[0.5, 1.0]),
    "per_size is 0": lambda: RandomSpans(views=VIEWS, per_size=0),
    "alpha is 0": lambda: RandomSpans(views=VIEWS, alpha=0.0),
    "beta is -1": lambda: RandomSpans(views=VIEWS, beta=-1.0),
    r"collator\.smallest is \[1, 4\]": lambda: RandomSpans(views=VIEWS, smallest=(1, 4)),
    r"collator\.smallest is \[\]": lambda: RandomSpans(views=VIEWS, smallest=(), largest=()),
    r"collator\.smallest is \[4\] and collator.largest is \[3\]": lambda: RandomSpans(
        views=VIEWS, smallest=(4,), largest=(3,)
    ),
    r"collator\.smallest is \[0\] and collator.largest is \[3\]": lambda: RandomSpans(
        views=VIEWS, smallest=(0,), largest=(3,)
    ),
    "NestedViews renders rows of one text, and a row has 2": lambda: NestedViews().needs_dropout(PAIR),
    r"a row has 2\nfix: ": lambda: Halves().needs_dropout(PAIR),
}
ROWS = {  # what is said -> a collator and its rows
    "BothWays puts two views in both orders, and rows have 3": (
        BothWays(views=TextViews(max_length=8)),
        [Example(STORED[:3], num_positives=2)],
    ),
    "positives": (TextViews(max_length=8), UNEQUAL),
    "probability has 3 numbers, and rows have 2 views": (Masked(views=VIEWS, probability=[0.1, 0.2, 0.3]), singles(1)),
    "the views of a row are different texts": (Masked(views=VIEWS, nested=True), [PAIR]),
}


@pytest.mark.parametrize("said", ARGUMENTS)
def test_arguments_that_are_refused(said):
    refuses(said, ARGUMENTS[said])


@pytest.mark.parametrize("said", ROWS)
def test_rows_that_are_refused(said, encoder):
    collator, rows = ROWS[said]
    refuses(said, lambda: ready(collator, encoder, rows)(rows))


TEN = "zero one two three four five six seven eight nine"


def lost(text, view):
    """The words that a view lacks, in order; the words of the text are distinct."""
    return [word for word in text.split() if word not in view.split()]


def rows(count, text=TEN):
    return [Example((text,), row_id=i) for i in range(count)]


def test_each_rendering_lacks_a_span_and_the_next_one_a_longer_span_around_it():
    """The long span begins at one of 7 places, and the short one at one of 3 within it: 21 of 4,200 rows each."""
    places = Counter()
    for own, second, near, far in NestedViews().texts(rows(4200)):
        assert own == second == TEN
        short, long = (" ".join(lost(TEN, view)) for view in (near, far))
        assert (short.count(" "), long.count(" ")) == (1, 3)
        assert short in long
        assert long in TEN
        places[short, long] += 1
    assert len(places) == 21
    assert min(places.values()) > 130  # 200 are expected, with a standard deviation of 14
    assert max(places.values()) < 270


def test_the_mask_token_is_read_as_one_token(tiny_bert):
    tokenizer = Encoder(tiny_bert, pooler="mean").tokenizer
    collator = NestedViews(filler="[MASK]", shares=[0.5], max_length=16)
    collator.setup(TokenStore.build(["the cat sat on"], tokenizer, 16), 1)
    batch = collator(rows(2, "the cat sat on"))
    assert batch.input_ids.shape[:2] == (2, 3)
    assert batch.num_positives == 2
    assert (batch.input_ids == tokenizer.mask_token_id).sum(-1).tolist() == [[0, 0, 2]] * 2
    assert (batch.text_id == 0).all()


def test_short_texts_keep_a_word():
    assert NestedViews().texts(rows(1, "word"))[0] == ["word"] * 4
    for row in NestedViews(shares=[0.5, 0.9]).texts(rows(20, "two words")):
        assert all(view.split() for view in row)


def test_an_augmentation_changes_the_second_view_alone():
    collator = NestedViews(augmentations=[WordReordering(distance=None)])
    own, second, near, _ = collator.texts(rows(1))[0]
    assert own == TEN
    assert second != TEN
    assert sorted(second.split()) == sorted(TEN.split())
    assert " ".join(w for w in TEN.split() if w in near.split()) == near
    assert not collator.needs_dropout(rows(1)[0])
    assert NestedViews().needs_dropout(rows(1)[0])


@pytest.mark.parametrize(
    ("text", "parts"), [("a b c d", ("a b", "c d")), ("a b c", ("a b", "c")), ("a  b", ("a", "b")), ("a", ("a", "a"))]
)
def test_by_pencil(text, parts):
    assert halves(text) == parts


def test_a_batch_of_wholes_and_halves(tiny_bert):
    tokenizer = Encoder(tiny_bert).tokenizer
    texts = ["the cat sat", "moon", "a dog ran fast " * 3]
    collator = Halves(max_length=8)
    collator.setup(TokenStore.build(texts, tokenizer, 8), 1)
    batch = collator([Example((text,), row_id=i) for i, text in enumerate(texts)])
    found = [
        [tokenizer.decode(ids[m == 1], skip_special_tokens=True) for ids, m in zip(*row, strict=True)]
        for row in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    assert found[0] == ["the cat sat", "the cat", "sat"]
    assert found[1] == ["moon", "moon", "moon"]
    assert found[2] == ["a dog ran fast a dog", "a dog ran fast a dog", "ran fast a dog ran fast"]  # cut after 6 words
    assert batch.num_positives == 2
    assert (batch.text_id == batch.text_id[:, :1]).all()
    assert batch.text_id[:, 0].unique().numel() == 3
    assert views_of(collator, [Example(("a b",))], epoch=0, seed=0) == [["a b", "a", "b"]]
