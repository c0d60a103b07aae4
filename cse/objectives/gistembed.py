"""GISTEmbed: Guided In-sample Selection of Training Negatives (Solatorio, 2024, arXiv:2402.16829)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import Positive
from cse.interfaces import Objective, StepContext, Teacher
from cse.objectives.parts.candidates import AllPairs, by_pair
from cse.objectives.parts.functional import Contrast, contrast, dot_matrix, normalize
from cse.teachers.frozen import FrozenViewEncoder


class GISTEmbed(Objective):
    """In-batch contrast of anchors and of positives, without the candidates that a guide finds closer than the pair.

        l_i = - log e^{s(a_i, p_i)} / sum_j ( [..] e^{s(a_i, p_j)} + [..] e^{s(a_i, a_j)} + [..] e^{s(p_i, p_j)}
                                              + [..] e^{s(a_i, n_j)} ),        s = cos / t
        [x, y] = 0 where g(x, y) > g(a_i, p_i) - margin        (absolute)
                    or   g(x, y) > g(a_i, p_i) - margin |g(a_i, p_i)|        (relative)

    g is the cosine of a guide, a larger model that stands still. The pair itself is always kept, and no text is ever
    its own negative. Rows have one positive.

    Args:
        guide: The guide, such as `cse.teachers.frozen.FrozenEncoder`, which may have any vocabulary. None: the
            encoder's backbone before training, with the encoder's pooler.
        temperature: t, dimensionless, > 0 (authors' program: 0.01).
        margin: The distance below the pair that a negative keeps, a cosine or a share of one
            (sentence-transformers: 0). A negative margin keeps more; -2 keeps all.
        margin_strategy: What the margin is compared with.
        contrast_anchors: Whether other anchors are candidates.
        contrast_positives: Whether the other positives are compared with the row's positive as well.

    Deviations:
        In the released programs a text is its own negative unless the guide's cosine of the pair is below 1, as it is
        not where a positive repeats its anchor; here never.

    Source: avsolatorio/GISTEmbed, gist_embed/trainer/loss.py:599; UKPLab/sentence-transformers, losses/gist_embed.py.
    """

    weighs_rows = True

    guide: Teacher | None = None
    temperature: Positive = 0.01
    margin: Annotated[float, "in [-2, 2]"] = 0.0
    margin_strategy: Literal["absolute", "relative"] = "absolute"
    contrast_anchors: bool = True
    contrast_positives: bool = True

    def setup(self, encoder: Encoder) -> None:
        if self.guide is None:
            self.guide = FrozenViewEncoder(source=encoder.source, pooler=encoder.pooler)
        super().setup(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        assert self.guide is not None  # setup gave one
        vectors = self.guide.embed(batch, ctx)  # (B, V, Dt)
        return self.loss(views, batch, vectors)

    def loss(self, views: Views, batch: Batch, vectors: Tensor) -> LossOutput:
        """The loss, given the guide's vectors (B, V, Dt) of the views."""
        judged = Views.split(vectors, vectors, batch.num_positives)
        every = torch.cat([judged.anchor, judged.positive.flatten(0, 1), judged.negative.flatten(0, 1)])  # (N, Dt)
        result, removed = by_pair(views, batch, partial(self._rows, normalize(every)))
        return LossOutput(result.loss, {"removed": removed.float().mean()})

    def _rows(self, guide: Tensor, anchors: AllPairs, positives: AllPairs) -> tuple[Contrast, Tensor]:
        """The loss of some rows, given the guide's unit vectors (N, Dt) and the candidates (R, N) of both texts.

        Returns:
            The loss, and (R,) how many candidates were removed.
        """
        size = anchors.texts // 2  # B
        logits = self._blocks(anchors.similarity, positives.similarity, size) / self.temperature  # (R, M)
        mask = self._blocks(anchors.mask, positives.mask, size)  # (R, M)
        near, far = (dot_matrix(guide[pairs.view], guide) for pairs in (anchors, positives))  # (R, N) each
        guided = self._blocks(near, far, size)  # (R, M)
        pair = guided.gather(1, anchors.view[:, None])  # (R, 1)
        slack = self.margin if self.margin_strategy == "absolute" else self.margin * pair.abs()
        target = F.pad(anchors.positive[:, size : 2 * size], (0, logits.shape[1] - size))  # (R, M)
        removed = (guided > pair - slack) & (target == 0) & mask
        return contrast(logits, target, mask=mask & ~removed, weight=anchors.weight), removed.sum(1)

    def _blocks(self, anchors: Tensor, positives: Tensor, size: int) -> Tensor:
        """The candidates (R, M) of some rows among those of their anchors and positives (R, N): ap, aa, pp, an."""
        asked, answers = slice(0, size), slice(size, 2 * size)
        blocks = [anchors[:, answers]]
        blocks += [anchors[:, asked]] if self.contrast_anchors else []
        blocks += [positives[:, answers]] if self.contrast_positives else []
        return torch.cat([*blocks, anchors[:, 2 * size :]], 1)
