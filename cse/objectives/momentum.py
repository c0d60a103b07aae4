"""ESimCSE: contrast with a queue of keys of a moving average of the encoder (Wu et al., COLING 2022, arXiv:2109.04380).

MoCoSE and a dual view with a filter are other settings of it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.heads import Dense
from cse.encoder.model import Encoder
from cse.errors import Count, Positive, Share, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import ONE_VIEW, InBatch, by_anchor, extend, swapped
from cse.objectives.parts.functional import Contrast, contrast, cosine_matrix, normalize
from cse.teachers.copy import Average, EncoderCopy
from cse.teachers.queue import Queue

Schedule = Literal["constant", "cosine"]


class Momentum(Objective):
    """In-batch contrast with the keys of earlier batches, from a moving average of the encoder, as further negatives.

        l_i = - log e^{cos(q_i, c_i)/t} / ( sum_j e^{cos(q_i, c_j)/t} + sum_n e^{cos(q_i, Q_n)/t} )
        a  <- m a + (1 - m) w        after each step, for the weights w of the encoder and a of its average

    q are the anchors, c the positives and hard negatives of the batch, and Q the last keys of the average, without
    gradient: those of the anchors or, if c are keys, those of the positives. The defaults are ESimCSE's
    (arXiv:2109.04380, section 3.2), whose positive is the text with words repeated. MoCoSE (arXiv:2202.13093) has
    `candidates: keys`, `key_head: average`, `schedule: cosine` and `asymmetric: true`. The dual view (arXiv:2501.16360)
    has `dual_view: true` and `hardest`. With `dual_view`, rows have one positive.

    Args:
        temperature: t, dimensionless, > 0 (all three: 0.05).
        momentum: m, in [0, 1] (ESimCSE: 0.995; MoCoSE: 0.75 at first).
        schedule: `constant`, or `cosine`: in step s of S, m is 1 - (1 - momentum) (cos(pi s / S) + 1) / 2, which is 1
            in step S and falls again afterwards.
        schedule_steps: S (MoCoSE's program: 15,000, however long it trains). None: the steps of the run.
        queue_size: Most keys in Q (ESimCSE: 2.5 batches of 64; MoCoSE: 256). 0: no queue.
        queue_start: Number of random unit vectors in Q before the first step (MoCoSE: 256, a full queue, of which its
            program counts 128 at first and reads 128 more than it counts).
        candidates: What c is: `views`, the encoder's own vectors, with gradient (ESimCSE), or `keys` of the average.
        key_head: The head that makes a key of a vector of the average: the `online` one, which is trained (ESimCSE), or
            its own moving `average` (MoCoSE).
        asymmetric: Whether MoCoSE's heads follow the encoder in training: two linear layers and a layer norm, which
            keys pass as well, and a predictor, which anchors alone pass: linear, layer norm, linear, tanh.
        dual_view: Whether the positive is an anchor too, of the anchor's own candidate; the losses are added.
        hardest: The number of rows of Q, those with the largest cosine, that each anchor is compared with. Its
            positives and its own hard negatives are then the only candidates of the batch. None: all.
        ceiling: Rows of Q whose cosine with the anchor exceeds it are left out, in [-1, 1]. None: none is left out.

    Deviations:
        The programs update the average before the anchors are encoded (MoCoSE) or after (ESimCSE); here after the step
        before, which gives the same weights. Keys have no gradient and no dropout: MoCoSE's program detaches neither
        keys nor their weights. MoCoSE's adversarial step of 5e-9 on the embeddings, which rounding removes, its shared
        embeddings and the dropout of its heads are left out, and its first linear layer starts at random. ESimCSE's
        program drops hard negatives once it has a queue; here they are candidates. Of the dual view no program is
        known, and its experiments are on images: the details are ours. Duplicate texts are masked as in `SimCSE` within
        the batch, not in Q.

    Source: caskcsg/sentemb, ESimCSE/esimcse/models.py:110-170, 233-300, trainers.py:614-640; xbdxwyh/mocose,
    mocose.py:29-131, 355-366, 578-594.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    momentum: Share = 0.995
    schedule: Schedule = "constant"
    schedule_steps: Annotated[int, "> 0"] | None = None
    queue_size: Annotated[int, ">= 0"] = 160
    queue_start: Annotated[int, ">= 0"] = 0
    candidates: Literal["views", "keys"] = "views"
    key_head: Literal["online", "average"] = "online"
    asymmetric: bool = False
    dual_view: bool = False
    hardest: Count | None = None
    ceiling: Annotated[float, "in [-1, 1]"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue_start > self.queue_size:
            raise UserError(
                f"objective.queue_start is {self.queue_start}, but the queue has room for {self.queue_size}\n"
                f"fix: give an integer from 0 to {self.queue_size}, or a larger queue_size"
            )
        self._found: list[Tensor] = []  # keys of this step's parts, each (B, D')

    def setup(self, encoder: Encoder) -> None:
        width = encoder.dim
        self.copy = EncoderCopy(momentum=self.momentum)
        super().setup(encoder)
        self.projection, self.predictor = heads(width) if self.asymmetric else (nn.Identity(), nn.Identity())
        self.key_projection = Average(self.projection)
        self.queue = Queue(self.queue_size, width)
        self.queue.push(normalize(torch.randn(self.queue_start, width)))

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if not views.positive.shape[1]:
            raise ValueError(ONE_VIEW)
        own = self.projection(
            views.projected
        )  # (B, V, D'), before the keys: autocast keeps the weights that it converts
        if self.candidates == "views":
            candidate, pushed = own, self._keys(batch.with_views([0]), ctx)[:, 0]
        else:
            every = range(0 if self.dual_view else 1, batch.views)
            keys = self._keys(batch.with_views(every), ctx)
            candidate = keys if self.dual_view else torch.cat([keys[:, :1], keys], 1)  # nobody reads that of view 0
            pushed = candidate[:, 1]
        if self.training:  # not in the rehearsal before the first step
            self._found.append(pushed)
        return self.loss(self.predictor(own), candidate, batch)

    def loss(self, query: Tensor, candidate: Tensor, batch: Batch) -> LossOutput:
        """The loss, given each view's vector as an anchor and as a candidate, both (B, V, D')."""
        positives = batch.num_positives
        rows = Views.split(torch.cat([query[:, :1], candidate[:, 1:]], 1), query, positives)
        there = by_anchor(rows, batch, self._rows)
        loss = there.loss
        if self.dual_view:
            back = Views.split(torch.cat([candidate[:, :1], query[:, 1:]], 1), query, positives)
            loss = loss + by_anchor(*swapped(back, batch), self._rows).loss
        return LossOutput(loss, {"skipped": there.skipped.float(), "queue": self.queue.filled.float()})

    def after_step(self, ctx: StepContext) -> None:
        if self._found:
            self.queue.push(torch.cat(self._found))
            self._found = []
        momentum = self.momentum
        if self.schedule == "cosine":
            # The programs count updates, of which the first, before the first step, changes nothing.
            momentum = cosine_momentum(momentum, ctx.step + 2, self.schedule_steps or ctx.max_steps)
        self.copy.follow(ctx.encoder, momentum)
        self.key_projection.follow(self.projection, momentum)

    @torch.no_grad()
    def _keys(self, batch: Batch, ctx: StepContext) -> Tensor:
        """The keys (B, V, D') of the views of all processes."""
        vectors = self.copy.embed(batch, ctx)  # (B, V, D)
        if self.key_head == "online":
            keys: Tensor = self.projection(ctx.encoder.head(vectors))
        else:
            keys = self.key_projection(self.copy.encoder.head(vectors))
        return keys

    def _rows(self, pairs: InBatch) -> Contrast:
        """Each anchor against the candidates of the batch, then those of the queue."""
        if self.hardest is not None:
            own = pairs.positive + pairs.own_negative > 0  # (A, N)
            pairs = pairs._replace(mask=own if pairs.mask is None else own & pairs.mask)
        cosine = cosine_matrix(pairs.anchor, self.queue.rows())  # (A, n)
        pairs = extend(pairs, cosine, mask=hard_filter(cosine, self.hardest, self.ceiling))
        return contrast(pairs.similarity / self.temperature, pairs.positive, mask=pairs.mask, weight=pairs.weight)


def cosine_momentum(start: float, update: int, total: int) -> float:
    """MoCoSE's m in an update, counted from 1; m is 1 in update `total`, and falls again afterwards."""
    return 1 - (1 - start) * (math.cos(math.pi * update / total) + 1) / 2


def hard_filter(cosine: Tensor, hardest: int | None, ceiling: float | None) -> Tensor:
    """(B, n) True at each row's largest cosines: at most `hardest` of them, and none above `ceiling`."""
    allowed = torch.ones_like(cosine, dtype=torch.bool) if ceiling is None else cosine <= ceiling
    if hardest is None or hardest >= cosine.shape[1]:
        return allowed
    chosen = cosine.masked_fill(~allowed, -torch.inf).topk(hardest, 1).indices  # (B, hardest)
    return allowed & torch.zeros_like(allowed).scatter(1, chosen, True)


def heads(width: int) -> tuple[nn.Module, nn.Module]:
    """MoCoSE's layers after the encoder, and the predictor behind them."""
    first, second, third = (Dense(width, width, activation="identity") for _ in range(3))
    return (
        nn.Sequential(first, second, nn.LayerNorm(width)),
        nn.Sequential(third, nn.LayerNorm(width), Dense(width, width)),
    )
