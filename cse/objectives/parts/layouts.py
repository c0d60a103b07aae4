"""The layouts of a batch's similarities: what some of its vectors are compared with, and what is masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, EncoderOutput, Views
from cse.interfaces import StepContext

Similarity = Callable[[Tensor, Tensor], Tensor]  # (A, D'), (N, D') -> (A, N)


class InBatch(NamedTuple):
    """Anchors against the N = B P + B K candidates of the batch: all positives, then all hard negatives."""

    similarity: Tensor  # (A, N) cosines unless another similarity was asked for; A is B, or the size of a block of rows
    positive: Tensor  # (A, N) 1 where the candidate is the row's own positive
    own_negative: Tensor  # (A, N) 1 where it is the row's own hard negative
    mask: Tensor | None  # (A, N) True where the two may be compared; None: everywhere
    anchor: Tensor  # (A, D') the vectors of the anchors, perhaps scaled to unit length
    row: Tensor  # (A,) the row of the batch that each anchor belongs to, in [0, B)
    weight: Tensor | None  # (A,) the weights of these rows (`Batch.weight`); None: all alike


class AllPairs(NamedTuple):
    """The A = B + B P anchors and positives of the batch against these and the B K hard negatives, N = A + B K.

    Columns are all anchors, then the candidates of `InBatch` in their order; rows are the first A columns, or a block
    of them. With one positive per row, `similarity[:B, :B]` is anchors against anchors, and `[:B, B : 2 * B]` anchors
    against positives.
    """

    similarity: Tensor  # (A, N) cosines unless another similarity was asked for
    positive: Tensor  # (A, N) 1 where the candidate is another view of the same row; never at hard negatives
    mask: Tensor  # (A, N) True where the two may be compared: never a view with itself
    item: Tensor  # (N,) the row of the batch that each view belongs to, in [0, B)
    view: Tensor  # (A,) the column that each row is
    texts: int  # B + B P, the number of columns before the hard negatives
    weight: Tensor | None  # (A,) the weight of each view's row of the batch (`Batch.weight`); None: all alike

    def per_view(self, values: Tensor) -> Tensor:
        """A value of each row of the batch (B,) -> of each anchor and positive (A,)."""
        return values[self.item[self.view]]

    def same(self, values: Tensor) -> Tensor:
        """(A, N) True at views of rows of the batch with the same value (B,); False at hard negatives."""
        equal = self.per_view(values)[:, None] == values[self.item]
        equal[:, self.texts :] = False
        return equal


def lay_out_anchors(
    views: Views, batch: Batch, similarity: Similarity, candidates: Tensor, anchors: Tensor, row: Tensor
) -> InBatch:
    """The layout of some anchors (A, D'), those of the rows (A,) of the batch."""
    size, positives, negatives = sizes(views)
    scores = similarity(anchors, candidates)  # (A, N)
    positive = _own(row, 0, positives, scores)
    negative = _own(row, size * positives, negatives, scores)
    weight = None if batch.weight is None else batch.weight[row]
    return InBatch(scores, positive, negative, _mask(batch, row, positive), anchors, row, weight)


def lay_out_views(
    views: Views, batch: Batch, similarity: Similarity, candidates: Tensor, anchors: Tensor, view: Tensor
) -> AllPairs:
    """The layout of some of the anchors and positives (A, D'), those in the columns `view` (A,)."""
    size, positives, negatives = sizes(views)
    scores = similarity(anchors, candidates)  # (A, N)
    row = torch.arange(size, device=scores.device)
    item = torch.cat([row, row.repeat_interleave(positives), row.repeat_interleave(negatives)])  # (N,)
    count, column = size * (1 + positives), torch.arange(len(item), device=item.device)
    itself = view[:, None] == column
    own = (item[view, None] == item) & (column < count) & ~itself
    mask = ~itself
    if batch.text_id is not None:
        mask &= own | ~_any_same_text(batch.text_id, batch.num_positives, item, view)
    if batch.view_mask is not None:
        present = torch.cat([batch.view_mask[:, 0], _by_role(batch.view_mask, batch.num_positives)])  # (N,)
        mask &= present & present[view, None]
    weight = None if batch.weight is None else batch.weight[item[view]]
    return AllPairs(scores, own.to(scores.dtype), mask, item, view, count, weight)


def sizes(views: Views) -> tuple[int, int, int]:
    """B, P and K."""
    return len(views.anchor), views.positive.shape[1], views.negative.shape[1]


def _own(row: Tensor, first: int, each: int, like: Tensor) -> Tensor:
    """(A, N) 1 at the `each` columns of each row (A,) of the batch, of which those of row 0 begin at `first`."""
    columns = first + each * row[:, None] + torch.arange(each, device=row.device)  # (A, each)
    return torch.zeros_like(like).scatter(1, columns, 1.0)


def _mask(batch: Batch, row: Tensor, positive: Tensor) -> Tensor | None:
    """(A, N) which candidates may be compared with which anchors, those of the rows (A,)."""
    if batch.text_id is None and batch.view_mask is None:
        return None
    mask = torch.ones_like(positive, dtype=torch.bool)
    if batch.text_id is not None:
        mask &= ~_same_text(batch.text_id, batch.num_positives, row) | (positive > 0)
    if batch.view_mask is not None:
        mask &= _by_role(batch.view_mask, batch.num_positives)
    return mask


def _same_text(text_id: Tensor, num_positives: int, row: Tensor) -> Tensor:
    """(A, N) True where the text ids (B, V) show that candidate and row (A,) mean the same."""
    own, candidate = text_id[row], _by_role(text_id, num_positives)  # (A, V), (N,)
    same = own[:, :1] == candidate
    for p in range(1, 1 + num_positives):
        same |= own[:, p, None] == candidate
    twins = (own[:, :1] == text_id[:, 0]).repeat_interleave(num_positives, 1)  # (A, B P)
    same[:, : twins.shape[1]] |= twins
    return same


def _any_same_text(text_id: Tensor, num_positives: int, item: Tensor, view: Tensor) -> Tensor:
    """(A, N) True where the text ids (B, V) show that two views mean the same.

    `item` (N,) is the row of each view, and `view` (A,) the columns of the first of the two.
    """
    texts = text_id[:, : 1 + num_positives]  # (B, 1 + P)
    candidate = torch.cat([text_id[:, 0], _by_role(text_id, num_positives)])  # (N,)
    count = texts.numel()  # those before the hard negatives
    same = torch.zeros(len(view), len(item), dtype=torch.bool, device=view.device)
    for p in range(texts.shape[1]):
        same |= texts[item[view], p, None] == candidate  # the candidate's text is one of the row's
        same[:, :count] |= candidate[view, None] == texts[item[:count], p]  # or the view's one of the candidate's row
    return same


def _by_role(values: Tensor, num_positives: int) -> Tensor:
    """(B, V) per view -> (N,) per candidate: all positives, then all hard negatives."""
    p = num_positives
    return torch.cat([values[:, 1 : 1 + p].flatten(), values[:, 1 + p :].flatten()])


def views_of(output: EncoderOutput, batch: Batch, ctx: StepContext) -> Views:
    """The views of all processes, with gradient, given what an encoder makes of this process's rows (b V, ...)."""
    both = (output.projected, output.embedding)
    projected, embedding = (ctx.gather(v.view(-1, batch.views, v.shape[-1])) for v in both)  # (B, V, D'), (B, V, D)
    return Views.split(projected, embedding, batch.num_positives)


def gathered(vectors: Tensor, present: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
    """The spans of every process, with gradient: their vectors (B, ..., S, D), and where there is one (B, ..., S).

    Processes may have different S; all are padded with absent spans to the largest.
    """
    more = ctx.all_max(present.shape[-1]) - present.shape[-1]
    return ctx.gather(F.pad(vectors, (0, 0, 0, more))), ctx.gather(F.pad(present, (0, more)))
