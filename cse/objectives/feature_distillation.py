"""Feature distillation: a student learns a teacher's vectors (Reimers and Gurevych, EMNLP 2020, arXiv:2004.09813)."""

from __future__ import annotations

from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.heads import Dense, in_float32
from cse.encoder.model import Encoder
from cse.errors import Count
from cse.interfaces import StepContext, Teacher
from cse.objectives.parts.functional import normalize, weighted_mean
from cse.objectives.parts.taught import Taught, teacher_vectors


class FeatureDistillation(Taught):
    """Mean squared error between the vectors of a student and of a teacher.

        L = 1/(B V Dt) sum_iv | W u_iv - t_iv |^2

    u is the vector that a checkpoint exports, of each of the V texts of a row, and t the teacher's vector of the same
    text (equation 1 of the paper, for one language). W is the identity if both have one size, and otherwise a linear
    layer that serves training only. The student needs no labels and no pairs, and a batch of any size will do.

    Args:
        teacher: A teacher that is asked in training, such as `cse.teachers.frozen.FrozenEncoder`, which encodes every
            text once. None: the columns of the data (`data.teacher_columns`, written by `cse teach --vectors`).
        dim: Dt. None: the size of the teacher's vectors if a teacher is asked, and otherwise that of the student's.
        unit: Whether W u and t are scaled to length 1 before they are compared, as in CLIP-KD. Without it, the student
            also learns the length of the teacher's vectors. A student whose own vectors have another length, such as a
            plain backbone, needs it: otherwise its vectors shrink and lose what they knew before they learn.
        export_projection: Whether W becomes the last layer of the student, whose vectors are then in the teacher's
            space: a query of the small student finds documents of the large teacher (LEAF, arXiv:2509.12539).

    Deviations:
        sentence-transformers cuts a teacher's vectors to the student's size by principal components. Here the student's
        vectors are mapped to the teacher's space, by columns that are orthogonal before training.

    Source: UKPLab/sentence-transformers, losses/MSELoss.py; winycg/CLIP-KD, src/open_clip/loss.py:293.
    """

    contrasts = False
    weighs_rows = True

    dim: Count | None = None
    unit: bool = False
    export_projection: bool = False

    def setup(self, encoder: Encoder) -> None:
        super().setup(encoder)
        self.project = projection(self.teacher, self.dim, encoder)
        if self.export_projection and isinstance(self.project, nn.Linear):
            last = Dense(encoder.dim, self.project.out_features, activation="identity")
            last.linear, self.project = self.project, nn.Identity()
            encoder.append(last)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        vectors = teacher_vectors(self.teacher, batch, ctx, "FeatureDistillation")  # (B, V, Dt)
        return self.loss(views.embedding, batch, vectors)

    def loss(self, embedding: Tensor, batch: Batch, vectors: Tensor) -> LossOutput:
        """The loss, given the student's vectors (B, V, D) and the teacher's (B, V, Dt)."""
        student = projected(self.project, embedding, vectors, "FeatureDistillation")  # (B, V, Dt)
        if self.unit:
            student, vectors = normalize(student), normalize(vectors)
        loss = over_texts((student - vectors).square().mean(-1), batch)
        cosine = (normalize(student.detach()) * normalize(vectors)).sum(-1)  # (B, V)
        return LossOutput(loss, {"teacher_cosine": cosine.mean()})


def over_texts(error: Tensor, batch: Batch) -> Tensor:
    """The mean over rows of the mean over the texts that a row has, given the error (B, V) of each."""
    if batch.view_mask is not None:
        error = error * batch.view_mask * (batch.views / batch.view_mask.sum(1, keepdim=True))
    return weighted_mean(error.mean(1), batch.weight)


def projection(teacher: Teacher | None, dim: int | None, encoder: Encoder, *, always: bool = False) -> nn.Module:
    """A linear layer from the encoder's size to the teacher's, orthogonal at first.

    For equal sizes it is the identity: without weights, or with weights that begin as such if there is `always` one.
    """
    size = dim or (teacher.dim if teacher is not None else 0) or encoder.dim
    if size == encoder.dim and not always:
        return nn.Identity()
    layer = nn.Linear(encoder.dim, size)
    (nn.init.eye_ if size == encoder.dim else nn.init.orthogonal_)(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def projected(project: nn.Module, embedding: Tensor, vectors: Tensor, objective: str) -> Tensor:
    """The student's vectors (..., D) in the teacher's space (..., Dt), in float32 at least.

    Raises:
        ValueError: The student's vectors have another size than the teacher's (..., Dt).
    """
    student = in_float32(project, embedding)
    if student.shape[-1] != vectors.shape[-1]:
        raise ValueError(
            f"{objective}: the teacher's vectors have {vectors.shape[-1]} numbers, and those of the encoder "
            f"{student.shape[-1]}; set objective.dim to {vectors.shape[-1]}, which adds a projection"
        )
    return student
