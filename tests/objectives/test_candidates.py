"""What is compared with what, against loops over single views."""

import itertools

import pytest
import torch

from cse import Views
from cse.objectives.parts.candidates import all_pairs, extend, in_batch, swapped
from tests.objectives.helpers import batch_of

# Four rows of anchor, two positives and a hard negative. Text 0 is two anchors; 3 is a positive of one row and the
# anchor of another; 9 is a positive and a hard negative; 5 is both hard negative and anchor of one row.
TEXTS = torch.tensor([[0, 1, 2, 3], [3, 4, 9, 6], [0, 7, 8, 9], [5, 10, 1, 5]])
PRESENT = torch.tensor([[True] * 4, [True, True, True, False], [True] * 4, [True, True, False, True]])


def rows(size=4, views=4, seed=0):
    return torch.randn(size, views, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layout(size, positives, negatives):
    """(row, view) of every column, by the definition: anchors, positives, hard negatives."""
    later = [range(1, 1 + positives), range(1 + positives, 1 + positives + negatives)]
    return [(i, 0) for i in range(size)] + [p for views in later for p in itertools.product(range(size), views)]


def may_compare(one, other, positives):
    """Whether two views may be compared, by the definition, one text at a time."""
    (i, u), (j, v) = one, other
    if not (PRESENT[i, u] and PRESENT[j, v]) or one == other:
        return False
    if i == j and v <= positives:
        return True
    means = {int(t) for t in TEXTS[i, : 1 + positives]}
    theirs = {int(t) for t in TEXTS[j, : 1 + positives]} if v <= positives else set()
    return int(TEXTS[j, v]) not in means and int(TEXTS[i, u]) not in theirs


def test_all_pairs_by_the_definition():
    x = rows()
    found = all_pairs(Views.split(x, x, 2), batch_of(4, 4, 2, text_id=TEXTS, view_mask=PRESENT))
    columns = layout(4, 2, 1)
    assert found.similarity.shape == (12, 16)
    for a, one in enumerate(columns[:12]):
        for n, other in enumerate(columns):
            u, v = x[one], x[other]
            assert found.similarity[a, n].item() == pytest.approx(float(u @ v / (u.norm() * v.norm())))
            assert bool(found.positive[a, n]) == (one[0] == other[0] and one != other and other[1] <= 2)
            assert bool(found.mask[a, n]) == may_compare(one, other, 2), (one, other)
    assert found.item.tolist() == [row for row, _ in columns]
    assert found.per_view(torch.tensor([5, 6, 7, 8])).tolist() == [5 + row for row, _ in columns[:12]]


def test_pairs_agree_with_in_batch_on_the_block_that_both_have():
    x = rows(views=3)
    views, batch = Views.split(x, x, 1), batch_of(4, 3, 1, text_id=TEXTS[:, [0, 1, 3]], view_mask=PRESENT[:, :3])
    every, some = all_pairs(views, batch), in_batch(views, batch)
    assert torch.allclose(every.similarity[:4, 4:], some.similarity, rtol=1e-12)
    assert torch.equal(every.positive[:4, 4:], some.positive)
    assert torch.equal(every.mask[:4, 4:], some.mask)


def test_swapped_is_in_batch_from_the_other_side():
    x = rows(views=3)
    views, batch = Views.split(x, x, 1), batch_of(4, 3, 1, text_id=TEXTS[:, :3])
    other = swapped(views, batch)
    pairs, pair = Views.split(x[:, :2], x[:, :2], 1), batch_of(4, 2, 1, text_id=TEXTS[:, :2])
    there, back, again = in_batch(pairs, pair), in_batch(*other), in_batch(*swapped(*other))
    assert torch.equal(back.similarity, there.similarity.T)
    assert torch.equal(again.similarity, there.similarity)
    assert torch.equal(again.mask, there.mask)
    assert other[0].embedding.shape == (4, 2, 8)
    assert torch.equal(other[1].text_id, TEXTS[:, [1, 0]])
    assert other[1].input_ids.shape[:2] == (4, 2)


def test_refusals():
    x = rows(views=1)
    views, batch = Views.split(x, x, 0), batch_of(4, 1, 0)
    for layout_of in (in_batch, all_pairs):
        with pytest.raises(ValueError, match="rows have one view"):
            layout_of(views, batch)
    assert all_pairs(views, batch, single=True).similarity.shape == (4, 4)
    with pytest.raises(ValueError, match="need one positive; got 0"):
        swapped(views, batch)
    one = rows(1, 2)
    with pytest.raises(ValueError, match="batch_size is 1"):
        all_pairs(Views.split(one, one, 1), batch_of(1, 2))


def test_further_candidates_come_last_and_are_negatives():
    x, more = rows(views=3), torch.rand(4, 2, dtype=torch.float64)
    pairs = in_batch(Views.split(x, x, 1), batch_of(4, 3))
    wide = extend(pairs, more)
    assert wide.mask is None
    for part, old in zip(wide[:3], pairs[:3], strict=True):
        assert torch.equal(part[:, :8], old)
    assert torch.equal(wide.similarity[:, 8:], more)
    assert not wide.positive[:, 8:].any()
    assert not wide.own_negative[:, 8:].any()
    some = torch.tensor([[True, False]] * 4)
    assert extend(pairs, more, mask=some).mask.tolist() == [[True] * 9 + [False]] * 4
    masked = pairs._replace(mask=pairs.positive > 0)
    assert extend(masked, more).mask.sum(1).tolist() == [3] * 4
    assert extend(pairs, more, target=1).positive.sum(1).tolist() == [3] * 4
