"""Lay out what is compared with what in a batch, and what is masked: whole, or a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, EncoderOutput, Views
from cse.interfaces import StepContext
from cse.objectives.parts.blocks import by_rows, fits, require_whole
from cse.objectives.parts.functional import Contrast, contrast, cosine_matrix, dot_matrix, normalize, uniformity

T = TypeVar("T")
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


def in_batch(views: Views, batch: Batch, similarity: Similarity = cosine_matrix) -> InBatch:
    """Lay out the batch's candidates, for what needs all rows at once. `by_anchor` takes less memory.

    The mask is False where a view does not exist (`Batch.view_mask`), and where a candidate that is not the row's own
    positive has the text of the row's anchor or of one of its positives, or is the positive of an anchor with the same
    text (`Batch.text_id`): such a candidate must not be a negative.

    Raises:
        ValueError: Rows have no positive, or there is a single candidate; or the matrix is too large.
    """
    anchors, candidates = _sides_in_batch(views)
    require_whole(len(anchors), len(candidates), anchors)
    return lay_out_anchors(views, batch, similarity, candidates, anchors, _numbers(anchors))


def by_anchor(
    views: Views,
    batch: Batch,
    loss: Callable[..., T],
    similarity: Similarity = cosine_matrix,
    shared: tuple[Tensor, ...] = (),
) -> T:
    """Compute `loss` of the layout `in_batch`, with its errors, in memory linear in the batch: see `by_rows`.

    Args:
        views: The batch's vectors.
        batch: The rows that they are of.
        loss: A function of the layout of some anchors, an `InBatch`, and of `shared`. It treats each anchor on its own,
            and returns a tensor (A, ...), or a tuple of such, as `contrast` does.
        similarity: The function (A, D'), (N, D') -> (A, N).
        shared: Further tensors that need a gradient, such as a learned temperature.
    """
    anchors, candidates = _sides_in_batch(views)
    anchors, candidates, similarity = _once(anchors, candidates, similarity)

    def rows(some: Tensor, row: Tensor, others: Tensor, *more: Tensor) -> T:
        return loss(lay_out_anchors(views, batch, similarity, others, some, row), *more)

    return by_rows(rows, (anchors, _numbers(anchors)), len(candidates), (candidates, *shared))


def info_nce(
    views: Views,
    batch: Batch,
    temperature: float,
    *,
    hard_negative_weight: float = 0.0,
    similarity: Similarity = cosine_matrix,
    denominator: Literal["all", "none"] = "all",
) -> Contrast:
    """The contrast of each anchor with its positives, against all other candidates of the batch: plain `SimCSE`."""

    def loss(pairs: InBatch) -> Contrast:
        bias = pairs.own_negative * hard_negative_weight if hard_negative_weight else None
        logits, mask, weight = pairs.similarity / temperature, pairs.mask, pairs.weight  # logits (A, N)
        return contrast(logits, pairs.positive, mask=mask, bias=bias, weight=weight, denominator=denominator)

    return by_anchor(views, batch, loss, similarity)


def extend(pairs: InBatch, similarity: Tensor, *, target: float = 0.0, mask: Tensor | None = None) -> InBatch:
    """Append candidates that are not part of the batch, such as noise or the rows of a queue.

    Their similarity and mask are (A, M), and `target` is their `positive`: 0 for negatives. They come last, and none of
    them is anybody's own hard negative.
    """
    new = torch.ones_like(similarity, dtype=torch.bool) if mask is None else mask
    old = torch.ones_like(pairs.positive, dtype=torch.bool) if pairs.mask is None else pairs.mask
    return pairs._replace(
        similarity=torch.cat([pairs.similarity, similarity], 1),
        positive=torch.cat([pairs.positive, torch.full_like(similarity, target, dtype=pairs.positive.dtype)], 1),
        own_negative=torch.cat([pairs.own_negative, torch.zeros_like(similarity, dtype=pairs.own_negative.dtype)], 1),
        mask=None if pairs.mask is None and mask is None else torch.cat([old, new], 1),
    )


def all_pairs(views: Views, batch: Batch, similarity: Similarity = cosine_matrix, *, single: bool = False) -> AllPairs:
    """Lay out every view of the batch against every view, for what needs all at once. `by_view` takes less memory.

    The mask is False between a view and itself, where a view does not exist (`Batch.view_mask`), and between views of
    different rows, and of a row and a hard negative, where one has the text of the other's anchor or of one of its
    positives (`Batch.text_id`): such views must not be each other's negative.

    With `single`, rows may have one view, since their positives are other rows, such as those of a label.

    Raises:
        ValueError: Rows have no positive, unless `single`, or the batch has one row; or the matrix is too large.
    """
    anchors, candidates = _sides_of_pairs(views, single)
    require_whole(len(anchors), len(candidates), anchors)
    return lay_out_views(views, batch, similarity, candidates, anchors, _numbers(anchors))


def by_view(
    views: Views,
    batch: Batch,
    loss: Callable[[AllPairs], T],
    similarity: Similarity = cosine_matrix,
    *,
    single: bool = False,
    candidates: Tensor | None = None,
) -> T:
    """Compute `loss` of the layout `all_pairs`, view by view, in memory linear in the batch, as `by_anchor` does.

    `candidates` (N, D') take the place of the views that the similarity compares with, in their order.
    """
    anchors, every = _sides_of_pairs(views, single)
    anchors, every, similarity = _once(anchors, every if candidates is None else candidates, similarity)

    def rows(some: Tensor, view: Tensor, others: Tensor) -> T:
        return loss(lay_out_views(views, batch, similarity, others, some, view))

    return by_rows(rows, (anchors, _numbers(anchors)), len(every), (every,))


def by_pair(views: Views, batch: Batch, loss: Callable[[AllPairs, AllPairs], T]) -> T:
    """Compute `loss` of two layouts `all_pairs` of some rows: of their anchors, and of their positives, row by row.

    For a row whose candidates are those of both of its texts, in memory linear in the batch: see `by_rows`.

    Raises:
        ValueError: Rows do not have one positive, or the batch has one row.
    """
    if views.positive.shape[1] != 1:
        raise ValueError(f"it compares both texts of a row, so rows need one positive; got {views.positive.shape[1]}")
    pairs, every = _sides_of_pairs(views, single=False)
    pairs, every, similarity = _once(pairs, every, cosine_matrix)
    size = len(views.anchor)

    def rows(anchors: Tensor, positives: Tensor, row: Tensor, others: Tensor) -> T:
        sides = (anchors, row), (positives, size + row)
        return loss(*(lay_out_views(views, batch, similarity, others, some, view) for some, view in sides))

    return by_rows(rows, (pairs[:size], pairs[size:], _numbers(views.anchor)), 2 * len(every), (every,))


def batch_uniformity(x: Tensor, t: float, texts: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """() `uniformity` of a vector of each row of the batch, x (B, D), in memory linear in the batch.

    Rows with a common text, of texts (B, n), do not count as a pair; weights (B,) are those of `uniformity`.
    """
    if fits(len(x), len(x), x):
        return uniformity(x, t, mask=None if texts is None else _different(texts, texts), weight=weight)

    def kernel(cosine: Tensor) -> Tensor:
        return (2 * t * (cosine - 1)).exp()  # |u - v|^2 = 2 - 2 u.v

    total, weights = pair_sums(x, kernel, texts=texts, weight=weight)
    return torch.where(weights > 0, total, 1.0).log() - torch.where(weights > 0, weights, 1.0).log()


def pair_sums(
    x: Tensor, *of: Callable[[Tensor], Tensor], texts: Tensor | None = None, weight: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Sum functions of the cosines of all pairs of rows of x (B, D), in memory linear in the batch.

    Rows with a common text, of texts (B, n), do not count as a pair; it counts by the product of its weights (B,).

    Returns:
        () The sum of each function over pairs, and () that of their weights; each pair is in them twice.
    """
    unit, number = normalize(x), _numbers(x)
    each = torch.ones_like(unit[:, 0]) if weight is None else weight.to(unit.dtype)  # (B,)

    def sums(some: Tensor, row: Tensor, others: Tensor) -> tuple[Tensor, ...]:
        """For each of some rows (R,): the sums over the other rows, and the sum of their weights."""
        counted = each * (row[:, None] != number)  # (R, B)
        counted = counted if texts is None else counted * _different(texts[row], texts)
        cosine = dot_matrix(some, others)
        return (*((function(cosine) * counted).sum(1) for function in of), counted.sum(1))

    return tuple((each * found).sum() for found in by_rows(sums, (unit, number), len(x), (unit,)))


def _different(some: Tensor, texts: Tensor) -> Tensor:
    """(R, B) True where no text of a row (R, n) is one of another's (B, n)."""
    return ~(some[:, None, :, None] == texts[None, :, None, :]).any(-1).any(-1)


def swapped(views: Views, batch: Batch) -> tuple[Views, Batch]:
    """The views and the batch with anchor and positive in each other's place, without hard negatives.

    An objective of both directions is called twice: on `views, batch` and on this.

    Raises:
        ValueError: Rows do not have one positive.
    """
    if views.positive.shape[1] != 1:
        raise ValueError(f"anchor and positive change places, so rows need one positive; got {views.positive.shape[1]}")
    exchanged = Views(
        views.positive[:, 0], views.anchor[:, None], views.negative[:, :0], views.embedding[:, :2].flip(1)
    )
    return exchanged, batch.with_views([1, 0])


ONE_VIEW = "rows have one view and so no positive; set collator.views to 2 or more"
ONE_ROW = "batch_size is 1: there are no in-batch negatives, so the loss is always 0; use 2 or more"


def _sides_in_batch(views: Views) -> tuple[Tensor, Tensor]:
    size, positives, negatives = sizes(views)
    if not positives:
        raise ValueError(ONE_VIEW)
    if size * (positives + negatives) < 2:
        raise ValueError(ONE_ROW)
    return views.anchor, torch.cat([views.positive.flatten(0, 1), views.negative.flatten(0, 1)])


def _sides_of_pairs(views: Views, single: bool) -> tuple[Tensor, Tensor]:
    """Anchors and positives (A, D'), and these with the hard negatives (N, D')."""
    size, positives, negatives = sizes(views)
    if not positives and not single:
        raise ValueError(ONE_VIEW)
    if size < 2 and not negatives:
        raise ValueError(ONE_ROW)
    anchors = torch.cat([views.anchor, views.positive.flatten(0, 1)])
    return anchors, torch.cat([anchors, views.negative.flatten(0, 1)])


def _once(anchors: Tensor, candidates: Tensor, similarity: Similarity) -> tuple[Tensor, Tensor, Similarity]:
    """The same, with what cosines share computed once, if there will be several blocks."""
    if similarity is not cosine_matrix or fits(len(anchors), len(candidates), anchors):
        return anchors, candidates, similarity
    return normalize(anchors), normalize(candidates), dot_matrix


def _numbers(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)
