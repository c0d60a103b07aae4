"""Views with nested spans left out, and the halves of a text: which words they have, and what is refused."""

from collections import Counter

import pytest

from cse import Encoder, Example, Halves
from cse.augment import WordReordering
from cse.commands.augment import views_of
from cse.data.tokens import TokenStore
from cse.data.views.texts import NestedViews, halves

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
