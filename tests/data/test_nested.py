"""Views with nested spans left out: which words they lack, and what is refused."""

from collections import Counter

import pytest

from cse.augment import WordReordering
from cse.batch import Example
from cse.data.tokens import TokenStore
from cse.data.views.texts import NestedViews
from cse.encoder.model import Encoder
from cse.errors import UserError

TEN = "zero one two three four five six seven eight nine"


def lost(text, view):
    """The words that a view lacks, in order; the words of the text are distinct."""
    return [word for word in text.split() if word not in view.split()]


def rows(count, text=TEN):
    return [Example((text,), row_id=i) for i in range(count)]


def test_each_rendering_lacks_a_span_and_the_next_one_a_longer_span_around_it():
    for own, second, near, far in NestedViews().texts(rows(50)):
        assert own == second == TEN
        assert (len(lost(TEN, near)), len(lost(TEN, far))) == (2, 4)
        assert set(lost(TEN, near)) < set(lost(TEN, far))
        for view in (near, far):
            assert " ".join(lost(TEN, view)) in TEN


def test_every_place_is_as_likely_as_any_other():
    """The long span begins at one of 7 places, and the short one at one of 3 within it: 21 of 4,200 rows each."""
    places = Counter((lost(TEN, near)[0], lost(TEN, far)[0]) for *_, near, far in NestedViews().texts(rows(4200)))
    assert len(places) == 21
    assert min(places.values()) > 130  # 200 are expected, with a standard deviation of 14
    assert max(places.values()) < 270


def test_a_filler_stands_for_each_word():
    *_, near, far = NestedViews(filler="[MASK]").texts(rows(1))[0]
    assert Counter(near.split())["[MASK]"] == 2
    assert Counter(far.split())["[MASK]"] == 4
    assert len(far.split()) == 10


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


def test_views_depend_on_seed_epoch_and_row_alone():
    collator = NestedViews()
    first = collator.texts(rows(9), epoch=1, seed=3)
    assert collator.texts(rows(9)[::-1], epoch=1, seed=3) == first[::-1]
    assert collator.texts(rows(9), epoch=2, seed=3) != first
    assert collator.texts(rows(9), epoch=1, seed=4) != first


def test_an_augmentation_changes_the_second_view_alone():
    collator = NestedViews(augmentations=[WordReordering(distance=None)])
    own, second, near, _ = collator.texts(rows(1))[0]
    assert own == TEN
    assert second != TEN
    assert sorted(second.split()) == sorted(TEN.split())
    assert " ".join(w for w in TEN.split() if w in near.split()) == near
    assert not collator.needs_dropout(rows(1)[0])
    assert NestedViews().needs_dropout(rows(1)[0])


@pytest.mark.parametrize("shares", [[], [0.4, 0.2], [0.2, 0.2], [0.0, 0.2], [0.5, 1.0]])
def test_shares_grow_within_the_text(shares):
    with pytest.raises(UserError, match=r"collator\.shares"):
        NestedViews(shares=shares)


def test_a_row_of_several_texts_is_refused():
    with pytest.raises(UserError, match="NestedViews renders rows of one text, and a row has 2"):
        NestedViews().needs_dropout(Example(("a", "b")))
