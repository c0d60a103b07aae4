"""CLIP-KD: three ways to distill a model of pairs (Yang et al., CVPR 2024, arXiv:2307.12732)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import Count, Positive, UserError
from cse.interfaces import StepContext
from cse.objectives.feature_distillation import projected, projection
from cse.objectives.parts.candidates import in_batch, swapped
from cse.objectives.parts.functional import contrast, cosine_matrix, kl_rows, normalize, weighted_mean
from cse.objectives.parts.taught import Taught, teacher_vectors


class ClipKD(Taught):
    """Symmetric InfoNCE of a student, with three terms that draw it to a teacher.

        L   = task InfoNCE(u, v) + fd FD + ckd CKD + icl ICL
        FD  = MSE(W u, t_u) + MSE(W' v, t_v)
        CKD = ( KL(softmax(T) || softmax(S)) + KL(softmax(T^T) || softmax(S^T)) ) / 2
        ICL = ( CE(W u . t_v / t_x) + CE(W' v . t_u / t_x) ) / 2

    u and v are the student's vectors of anchor and positive, t_u and t_v the teacher's of the same texts, all of unit
    length, also after the projections W; S and T are the B x B cosines of student and teacher over their temperatures.
    FD compares vectors (feature), CKD the distributions over the batch (contrastive relation), and ICL sets the student
    against the teacher's other side (interactive). A weight of 0 leaves a term out. Hard negatives are candidates of
    InfoNCE only. Rows have one positive.

    Args:
        teacher: A teacher that is asked in training. None: the columns of the data (`data.teacher_columns`), the
            vectors of anchor and positive one after the other, as `cse teach --vectors` writes them.
        dim: Dt. None: the size of the teacher's vectors if a teacher is asked, and otherwise that of the student's.
        temperature: The student's, dimensionless, > 0 (CLIP begins with 0.07).
        teacher_temperature: The teacher's in CKD, > 0 (that of a trained CLIP is 0.01).
        cross_temperature: t_x, > 0.
        task: Weight of InfoNCE, >= 0.
        fd: Weight of FD, >= 0 (paper: 2000, since unit vectors of D numbers differ by squares of about 1/D).
        ckd: Weight of CKD, >= 0 (paper: 1).
        icl: Weight of ICL, >= 0 (paper: 1).

    Deviations:
        The temperatures stand still; in the authors' program the student's is learned, as in CLIP, and ICL multiplies
        by a learned log(1/0.07) = 2.66, which is never exponentiated: that is a cross_temperature of 0.376. Duplicate
        texts are masked in InfoNCE and ICL as in `SimCSE`, and not in CKD. Anchor and positive have projections of
        their own, though they have one encoder here.

    Source: winycg/CLIP-KD, src/open_clip/loss.py:200-325.
    """

    weighs_rows = True

    dim: Count | None = None
    temperature: Positive = 0.07
    teacher_temperature: Positive = 0.05
    cross_temperature: Positive = 0.07
    task: Annotated[float, "in [0, inf)"] = 1.0
    fd: Annotated[float, "in [0, inf)"] = 2000.0
    ckd: Annotated[float, "in [0, inf)"] = 1.0
    icl: Annotated[float, "in [0, inf)"] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task + self.fd + self.ckd + self.icl:
            raise UserError("objective: all weights are 0, so nothing is learned\nfix: give one above 0")

    def setup(self, encoder: Encoder) -> None:
        super().setup(encoder)
        projects = self.fd or self.icl
        self.projections = nn.ModuleList(
            projection(self.teacher, self.dim, encoder) if projects else nn.Identity() for _ in range(2)
        )

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        vectors = teacher_vectors(self.teacher, batch, ctx, "ClipKD")  # (B, V, Dt)
        return self.loss(views.embedding, batch, vectors)

    def loss(self, embedding: Tensor, batch: Batch, vectors: Tensor) -> LossOutput:
        """The loss, given the student's vectors (B, V, D) and the teacher's (B, V, Dt)."""
        views = Views.split(embedding, embedding, batch.num_positives)
        sides = ((views, batch), swapped(views, batch))
        pairs = [in_batch(*side) for side in sides]  # (B, N) and (B, B)
        own = torch.eye(len(embedding), device=embedding.device)  # (B, B)
        taught = cosine_matrix(vectors[:, 0], vectors[:, 1]) / self.teacher_temperature  # (B, B)
        terms: dict[str, list[Tensor]] = {name: [] for name in ("task", "fd", "ckd", "icl")}
        for i, (side, relation) in enumerate(zip(pairs, (taught, taught.T), strict=True)):
            logits, mask = side.similarity / self.temperature, side.mask  # (B, N)
            terms["task"].append(contrast(logits, side.positive, mask=mask, weight=batch.weight).loss)
            relations = kl_rows(logits[:, : len(own)], relation)  # (B,)
            terms["ckd"].append(weighted_mean(relations, batch.weight))
            if self.fd or self.icl:
                student = projected(self.projections[i], embedding[:, i], vectors[:, i], "ClipKD")  # (B, Dt)
                error = (normalize(student) - normalize(vectors[:, i])).square().mean(1)  # (B,)
                terms["fd"].append(2 * weighted_mean(error, batch.weight))
                cross = cosine_matrix(student, vectors[:, 1 - i]) / self.cross_temperature  # (B, B)
                square = None if mask is None else mask[:, : len(own)]
                terms["icl"].append(contrast(cross, own, mask=square, weight=batch.weight).loss)
        means = {name: torch.stack(found).mean() for name, found in terms.items() if found}
        weights = {name: float(getattr(self, name)) for name in means}
        loss = torch.stack([weights[name] * value for name, value in means.items() if weights[name]]).sum()
        return LossOutput(loss, {f"loss_{name}": value.detach() for name, value in means.items()})
