"""In-batch candidates: the positives of all rows, then the hard negatives of all rows, and which may be compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cse.batch import Batch, Views
from cse.objectives.functional import cosine_matrix


class InBatch(NamedTuple):
    """Anchors against the N = B P + B K candidates of the batch.

    Attributes:
        cosine: (B, N).
        positive: (B, N) 1 where the candidate is the row's own positive.
        own_negative: (B, N) 1 where it is the row's own hard negative.
        mask: (B, N) True where the two may be compared; None: everywhere.
    """

    cosine: Tensor
    positive: Tensor
    own_negative: Tensor
    mask: Tensor | None


def in_batch(views: Views, batch: Batch) -> InBatch:
    """Lay out the batch's candidates.

    The mask is False where a view does not exist (`Batch.view_mask`), and where a candidate that is not the row's own
    positive has the text of the row's anchor or of one of its positives, or is the positive of an anchor with the same
    text (`Batch.text_id`): such a candidate must not be a negative.

    Raises:
        ValueError: Rows have no positive, or there is a single candidate, so that nothing can be contrasted.
    """
    size, positives, negatives = len(views.anchor), views.positive.shape[1], views.negative.shape[1]
    if not positives:
        raise ValueError("rows have one view and so no positive; set collator.views to 2 or more")
    if size * (positives + negatives) < 2:
        raise ValueError("batch_size is 1: there are no in-batch negatives, so the loss is always 0; use 2 or more")
    candidates = torch.cat([views.positive.flatten(0, 1), views.negative.flatten(0, 1)])  # (N, D')
    cosine = cosine_matrix(views.anchor, candidates)
    own_positive, own_negative = _own(size, positives, cosine), _own(size, negatives, cosine)
    positive = torch.cat([own_positive, torch.zeros_like(own_negative)], 1)
    negative = torch.cat([torch.zeros_like(own_positive), own_negative], 1)
    return InBatch(cosine, positive, negative, _mask(batch, positive))


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


def _by_role(values: Tensor, num_positives: int) -> Tensor:
    """(B, V) per view -> (N,) per candidate: all positives, then all hard negatives."""
    p = num_positives
    return torch.cat([values[:, 1 : 1 + p].flatten(), values[:, 1 + p :].flatten()])
