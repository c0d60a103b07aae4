"""ConGraT: Contrastive Pretraining for Joint Graph and Text Embeddings (Brannon et al., 2024, arXiv:2305.14321)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import Positive, Share
from cse.interfaces import Objective, StepContext, Teacher
from cse.objectives.parts.candidates import in_batch, swapped
from cse.objectives.parts.functional import contrast, cosine_matrix
from cse.teachers.frozen import FrozenViewEncoder

HIGHEST = 100.0  # of s


class ConGraT(Objective):
    """InfoNCE in both directions whose targets are spread over rows that a teacher finds similar.

        T = (1 - a) I + a g(S),    g(S)_ij = ( f_ij S_ij - min_k f_ik S_ik ) / sum_j ( the same )
        L = ( CE(s cos(x, y), T) + CE(s cos(y, x), T') ) / 2

    S has the teacher's cosines of the anchors, and 0 on the diagonal; f is a function of the rank of S_ij in its row.
    T' is T of the transposed f S. In the paper S is the similarity of two nodes of a graph, and x, y are a node and its
    text; here x and y are texts, and what else relates two rows is the opinion of another model. Hard negatives are
    candidates of the anchors without a target. Rows have one positive.

    Args:
        teacher: The teacher, such as `cse.teachers.frozen.FrozenEncoder`. None: the encoder's backbone before training.
        alpha: a, the share of the target that is spread, in [0, 1] (authors' program: 0.1).
        ranks: The function f of the rank r from 0: `identity` is 1, `exp` is e^{-r}, and `exp_thick_tail` is
            e^{-r/sqrt(B)}.
        temperature: 1/s before training, > 0; s is learned, up to 100 (authors' program: e^{-3.5}).

    Deviations:
        Equal similarities have one rank. A row of constant similarities is trained on its own pair with the full mass,
        not with 1 - a.

    Source: wwbrannon/congrat, src/clip_graph/losses.py.
    """

    weighs_rows = True

    teacher: Teacher | None = None
    alpha: Share = 0.1
    ranks: Literal["identity", "exp", "exp_thick_tail"] = "identity"
    temperature: Positive = 0.0302

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / self.temperature).log())

    def setup(self, encoder: Encoder) -> None:
        if self.teacher is None:
            self.teacher = FrozenViewEncoder(source=encoder.source, pooler=encoder.pooler)
        super().setup(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        assert self.teacher is not None  # setup gave one
        vectors = self.teacher.embed(batch.with_views([0]), ctx)[:, 0]  # (B, Dt)
        return self.loss(views, batch, cosine_matrix(vectors, vectors).fill_diagonal_(0.0))

    def loss(self, views: Views, batch: Batch, similarity: Tensor) -> LossOutput:
        """The loss, given the similarities S (B, B)."""
        spread = similarity * self._of_rank(similarity)  # (B, B)
        losses = []
        for side, rows in (((views, batch), spread), (swapped(views, batch), spread.T)):
            pairs = in_batch(*side)
            target = self.alpha * F.normalize(rows - rows.amin(1, keepdim=True), p=1, dim=1)  # (B, B)
            target = target + (1 - self.alpha) * torch.eye(len(rows), device=rows.device)
            target = F.pad(target, (0, pairs.similarity.shape[1] - len(rows)))  # (B, N)
            logits = pairs.similarity * self.log_scale.exp()
            losses.append(contrast(logits, target, mask=pairs.mask, weight=batch.weight).loss)
        return LossOutput(torch.stack(losses).mean(), {"scale": self.log_scale.detach().exp()})

    @torch.no_grad()
    def after_step(self, ctx: StepContext) -> None:
        self.log_scale.clamp_(max=math.log(HIGHEST))
        super().after_step(ctx)

    def _of_rank(self, similarity: Tensor) -> Tensor:
        """(B, B) f of the number of larger entries in the row."""
        if self.ranks == "identity":
            return torch.ones_like(similarity)
        rank = torch.searchsorted((-similarity).sort(1).values, -similarity.contiguous()).to(similarity.dtype)
        return (-rank / (len(rank) ** 0.5 if self.ranks == "exp_thick_tail" else 1.0)).exp()
