"""What is compared with what in a batch, and which texts must not be each other's negative."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cse.batch import Batch, Views
from cse.objectives.functional import cosine_matrix

Similarity = Callable[[Tensor, Tensor], Tensor]  # (A, D'), (N, D') -> (A, N)


class InBatch(NamedTuple):
    """Anchors against the N = B P + B K candidates of the batch: all positives, then all hard negatives.

    Attributes:
        similarity: (B, N), cosines unless another similarity was asked for.
        positive: (B, N) 1 where the candidate is the row's own positive.
        own_negative: (B, N) 1 where it is the row's own hard negative.
        mask: (B, N) True where the two may be compared; None: everywhere.
    """

    similarity: Tensor
    positive: Tensor
    own_negative: Tensor
    mask: Tensor | None


class AllPairs(NamedTuple):
    """The A = B + B P anchors and positives of the batch against these and the B K hard negatives, N = A + B K.

    Columns are all anchors, then the candidates of `InBatch` in their order; rows are the first A columns. With one
    positive per row, `similarity[:B, :B]` is anchors against anchors, and `[:B, B : 2 * B]` anchors against positives.

    Attributes:
        similarity: (A, N), cosines unless another similarity was asked for.
        positive: (A, N) 1 where the candidate is another view of the same row; never at hard negatives.
        mask: (A, N) True where the two may be compared: never a view with itself.
        item: (N,) the row of the batch that each view belongs to, in [0, B).
    """

    similarity: Tensor
    positive: Tensor
    mask: Tensor
    item: Tensor

    def per_view(self, values: Tensor) -> Tensor:
        """A value of each row of the batch (B,) -> of each anchor and positive (A,)."""
        return values[self.item[: len(self.similarity)]]


def in_batch(views: Views, batch: Batch, similarity: Similarity = cosine_matrix) -> InBatch:
    """Lay out the batch's candidates.

    The mask is False where a view does not exist (`Batch.view_mask`), and where a candidate that is not the row's own
    positive has the text of the row's anchor or of one of its positives, or is the positive of an anchor with the same
    text (`Batch.text_id`): such a candidate must not be a negative.

    Raises:
        ValueError: Rows have no positive, or there is a single candidate, so that nothing can be contrasted.
    """
    size, positives, negatives = _sizes(views)
    if not positives:
        raise ValueError(ONE_VIEW)
    if size * (positives + negatives) < 2:
        raise ValueError(ONE_ROW)
    candidates = torch.cat([views.positive.flatten(0, 1), views.negative.flatten(0, 1)])  # (N, D')
    scores = similarity(views.anchor, candidates)
    own_positive, own_negative = _own(size, positives, scores), _own(size, negatives, scores)
    positive = torch.cat([own_positive, torch.zeros_like(own_negative)], 1)
    negative = torch.cat([torch.zeros_like(own_positive), own_negative], 1)
    return InBatch(scores, positive, negative, _mask(batch, positive))


def extend(pairs: InBatch, similarity: Tensor, *, target: float = 0.0, mask: Tensor | None = None) -> InBatch:
    """Append candidates that are not part of the batch, such as noise or the rows of a queue.

    Args:
        pairs: The candidates of the batch (B, N).
        similarity: (B, M) of the anchors and the further candidates.
        target: `positive` of the further candidates: 0 for negatives.
        mask: (B, M) True where the two may be compared; None: everywhere.

    Returns:
        (B, N + M), the further candidates last. None of them is anybody's own hard negative.
    """
    new = torch.ones_like(similarity, dtype=torch.bool) if mask is None else mask
    old = torch.ones_like(pairs.positive, dtype=torch.bool) if pairs.mask is None else pairs.mask
    return InBatch(
        torch.cat([pairs.similarity, similarity], 1),
        torch.cat([pairs.positive, torch.full_like(similarity, target, dtype=pairs.positive.dtype)], 1),
        torch.cat([pairs.own_negative, torch.zeros_like(similarity, dtype=pairs.own_negative.dtype)], 1),
        None if pairs.mask is None and mask is None else torch.cat([old, new], 1),
    )


def all_pairs(views: Views, batch: Batch, similarity: Similarity = cosine_matrix, *, single: bool = False) -> AllPairs:
    """Lay out every view of the batch against every view.

    The mask is False between a view and itself, where a view does not exist (`Batch.view_mask`), and between views of
    different rows, and of a row and a hard negative, where one has the text of the other's anchor or of one of its
    positives (`Batch.text_id`): such views must not be each other's negative.

    Args:
        views: The batch's vectors.
        batch: The batch.
        similarity: The function (A, D'), (N, D') -> (A, N).
        single: Whether rows may have a single view, since their positives are other rows, such as those of a label.

    Raises:
        ValueError: Rows have no positive, unless `single`, or the batch has one row, so that nothing can be contrasted.
    """
    size, positives, negatives = _sizes(views)
    if not positives and not single:
        raise ValueError(ONE_VIEW)
    if size < 2 and not negatives:
        raise ValueError(ONE_ROW)
    anchors = torch.cat([views.anchor, views.positive.flatten(0, 1)])  # (A, D')
    scores = similarity(anchors, torch.cat([anchors, views.negative.flatten(0, 1)]))
    row = torch.arange(size, device=scores.device)
    item = torch.cat([row, row.repeat_interleave(positives), row.repeat_interleave(negatives)])  # (N,)
    count = len(anchors)
    itself = torch.eye(*scores.shape, device=scores.device, dtype=torch.bool)
    own = (item[:count, None] == item[None, :]) & (torch.arange(len(item), device=item.device) < count) & ~itself
    mask = ~itself
    if batch.text_id is not None:
        mask &= own | ~_any_same_text(batch.text_id, batch.num_positives, item)
    if batch.view_mask is not None:
        present = torch.cat([batch.view_mask[:, 0], _by_role(batch.view_mask, batch.num_positives)])  # (N,)
        mask &= present[None, :] & present[:count, None]
    return AllPairs(scores, own.to(scores.dtype), mask, item)


def swapped(views: Views, batch: Batch) -> tuple[Views, Batch]:
    """The views and the batch with anchor and positive in each other's place, without hard negatives.

    An objective of both directions is called twice: on `views, batch` and on this.

    Raises:
        ValueError: Rows do not have one positive.
    """
    if views.positive.shape[1] != 1:
        raise ValueError(f"anchor and positive change places, so rows need one positive; got {views.positive.shape[1]}")
    exchanged = Views(views.positive[:, 0], views.anchor[:, None], views.negative[:, :0], views.embedding[:, [1, 0]])
    return exchanged, batch.with_views([1, 0])


ONE_VIEW = "rows have one view and so no positive; set collator.views to 2 or more"
ONE_ROW = "batch_size is 1: there are no in-batch negatives, so the loss is always 0; use 2 or more"


def _sizes(views: Views) -> tuple[int, int, int]:
    """B, P and K."""
    return len(views.anchor), views.positive.shape[1], views.negative.shape[1]


def _own(size: int, each: int, like: Tensor) -> Tensor:
    """(B, B `each`) 1 where the candidate belongs to the row; each row has `each` candidates."""
    return torch.eye(size, device=like.device, dtype=like.dtype).repeat_interleave(each, 1)


def _mask(batch: Batch, positive: Tensor) -> Tensor | None:
    """(B, N) which candidates may be compared with which anchors."""
    if batch.text_id is None and batch.view_mask is None:
        return None
    mask = torch.ones_like(positive, dtype=torch.bool)
    if batch.text_id is not None:
        mask &= ~_same_text(batch.text_id, batch.num_positives) | (positive > 0)
    if batch.view_mask is not None:
        mask &= _by_role(batch.view_mask, batch.num_positives)[None, :]
    return mask


def _same_text(text_id: Tensor, num_positives: int) -> Tensor:
    """(B, N) True where the text ids (B, V) show that candidate and row mean the same."""
    anchor, candidate = text_id[:, 0], _by_role(text_id, num_positives)  # (B,), (N,)
    same = anchor[:, None] == candidate[None, :]
    for p in range(1, 1 + num_positives):
        same |= text_id[:, p, None] == candidate[None, :]
    twins = (anchor[:, None] == anchor[None, :]).repeat_interleave(num_positives, 1)  # (B, B P)
    same[:, : twins.shape[1]] |= twins
    return same


def _any_same_text(text_id: Tensor, num_positives: int, item: Tensor) -> Tensor:
    """(A, N) True where the text ids (B, V) show that two views mean the same; `item` is the row of each view (N,)."""
    texts = text_id[:, : 1 + num_positives]  # (B, 1 + P)
    candidate = torch.cat([text_id[:, 0], _by_role(text_id, num_positives)])  # (N,)
    count = texts.numel()  # A
    known = (texts[:, :, None] == candidate).any(1)  # (B, N) the candidate's text is one of the row's
    same = known[item[:count]]  # (A, N)
    same[:, :count] |= known.T[:count][:, item[:count]]  # the view's text is one of those of the candidate's row
    return same


def _by_role(values: Tensor, num_positives: int) -> Tensor:
    """(B, V) per view -> (N,) per candidate: all positives, then all hard negatives."""
    p = num_positives
    return torch.cat([values[:, 1 : 1 + p].flatten(), values[:, 1 + p :].flatten()])
