"""Distillation by cosines of vectors: the first loss of Jasper (Zhang et al., 2024, arXiv:2412.19048)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import Count
from cse.interfaces import StepContext
from cse.objectives.feature_distillation import over_texts, projected, projection
from cse.objectives.parts.functional import normalize
from cse.objectives.parts.taught import Taught, teacher_vectors


class CosineDistillation(Taught):
    """One minus the cosine of a student's vector, in the teacher's space, with the teacher's.

        L = 1/(B V) sum_iv ( 1 - cos( W u_iv / |u_iv| + b, t_iv ) )

    u is the vector that a checkpoint exports, of each of the V texts of a row, and t the teacher's of the same text.
    The linear layer serves training only: the student learns what the teacher tells apart and keeps axes and a mean of
    its own, which is right where the teacher's space is another one, such as that of an `Ensemble`. W begins as the
    identity, or with orthogonal columns if the sizes differ, and b such that both have one mean over the first batch.
    The layer should learn faster than the encoder (`trainer.head_learning_rate`). The student needs no labels and no
    pairs, and a batch of any size will do.

    Args:
        teacher: A teacher that is asked in training, such as `cse.Ensemble`. None: the columns of the data
            (`data.teacher_columns`, written by `cse teach --vectors`).
        dim: Dt. None: the size of the teacher's vectors if a teacher is asked, and otherwise that of the student's.

    Deviations:
        In the paper the layer is part of the student, and two more losses compare similarities within the batch.

    Source: the paper; NovaSearch-Team/RAG-Retrieval has the authors' program.
    """

    contrasts = False
    weighs_rows = True

    dim: Count | None = None

    def setup(self, encoder: Encoder) -> None:
        super().setup(encoder)
        layer = projection(self.teacher, self.dim, encoder, always=True)
        assert isinstance(layer, nn.Linear)
        self.project = layer
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self._has_begun = False  # as `begun`, once it was read: the host waits for a GPU to read it

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        vectors = normalize(teacher_vectors(self.teacher, batch, ctx, "CosineDistillation"))  # (B, V, Dt)
        student = self.mapped(normalize(views.embedding), vectors)
        trains = torch.is_grad_enabled() and not self._has_begun
        self._has_begun |= trains
        if trains and not bool(self.get_buffer("begun")):  # the first batch that is trained on
            with torch.no_grad():
                apart = (vectors - student).unbind(-1)  # Dt of (B, V)
                self.project.bias.add_(torch.stack([over_texts(each, batch) for each in apart]))
                self.get_buffer("begun").fill_(True)
            student = self.mapped(normalize(views.embedding), vectors)
        cosine = (normalize(student) * vectors).sum(-1)  # (B, V)
        return LossOutput(over_texts(1 - cosine, batch), {"teacher_cosine": cosine.detach().mean()})

    def mapped(self, unit: Tensor, vectors: Tensor) -> Tensor:
        """Unit vectors (B, V, D) of the student in the space of the teacher's (B, V, Dt)."""
        return projected(self.project, unit, vectors, "CosineDistillation")
