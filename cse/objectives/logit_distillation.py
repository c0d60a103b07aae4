"""DSE: Distilled Sentence Embedding (Barkan et al., AAAI 2020, arXiv:1908.05161)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import Count, Share, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.functional import weighted_mean
from cse.objectives.parts.taught import DOT


class LogitDistillation(Objective):
    """A pair's logits, computed from two vectors, follow those of a cross-encoder that has read both texts together.

        L = (1 - c) L_task(y, label) + c mean_i sum_k ( y_ik - t_ik )^2

    y is u.v, or two linear layers with a ReLU between them on [u; v; u*v; |u - v|]; t are the teacher's logits, which
    `cse teach` writes once. L_task is the cross-entropy or the squared error of the same logits. Rows are pairs.

    Args:
        head: `dot`, one logit, which the vectors alone give; or `concat` (authors' default), whose layers serve
            training only.
        task: `binary` reads `Batch.score` as the probability of the one logit's class, `regression` as its value, and
            `classes` reads `Batch.label`.
        classes: C, the number of logits; more than 1 need `concat` and the task `classes`.
        hidden: The width of the first layer of `concat` (authors' program: 512).
        share: c in [0, 1] (paper: 0.5); 1 learns from the teacher alone, and needs no label.

    Deviations:
        A teacher with two logits for one class of ours gives l_1 - l_0, as in the authors' program. The authors' pooler
        concatenates the last four layers, each averaged over the tokens without [CLS], to 4 H numbers; no module of
        sentence-transformers does that, so a checkpoint could not be loaded there, and the encoder's own pooler is
        read. `mean_last_two` is the nearest that can be exported. Label k is the k-th that occurs in the data.

    Source: microsoft/Distilled-Sentence-Embedding, train/trainers/dse_trainer.py:36,
        models/dse_siamese_classifier.py:43.
    """

    contrasts = False
    weighs_rows = True

    head: Literal["dot", "concat"] = "dot"
    task: Literal["binary", "regression", "classes"] = "binary"
    classes: Count = 1
    hidden: Count = 512
    share: Share = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "dot" and self.classes > 1:
            raise UserError(
                f"objective.classes is {self.classes}, but a dot product is one logit\nfix: set head to concat"
            )
        if (self.task == "classes") != (self.classes > 1):
            raise UserError(
                f"objective.task is {self.task}, and objective.classes {self.classes}\n"
                "fix: give the task classes and two or more classes, or another task and one"
            )
        label = frozenset({"label" if self.task == "classes" else "score"})
        self.requires = frozenset({"teacher"}) | (label if self.share < 1 else frozenset())
        if self.head == "dot":
            self.note = DOT

    def setup(self, encoder: Encoder) -> None:
        layers = [nn.Linear(4 * encoder.dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.classes)]
        self.layers = nn.Sequential(*layers) if self.head == "concat" else nn.Sequential()

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        views.require_pair("LogitDistillation")
        pair = views.embedding if views.embedding.dtype == torch.float64 else views.embedding.float()  # (B, 2, D)
        with torch.autocast(pair.device.type, enabled=False):
            logits = self.logits(pair[:, 0], pair[:, 1])  # (B, C)
        distilled = weighted_mean((logits - self._taught(batch, logits)).square().sum(1), batch.weight)
        metrics = {"distilled": distilled.detach()}
        if self.share == 1:
            return LossOutput(distilled, metrics)
        task = weighted_mean(self._task(logits, batch), batch.weight)
        return LossOutput((1 - self.share) * task + self.share * distilled, {**metrics, "task": task.detach()})

    def logits(self, u: Tensor, v: Tensor) -> Tensor:
        """(B, C) the logits of pairs of vectors (B, D)."""
        if self.head == "dot":
            return (u * v).sum(1, keepdim=True)
        return self.layers(torch.cat([u, v, u * v, (u - v).abs()], 1))

    def _taught(self, batch: Batch, logits: Tensor) -> Tensor:
        """(B, C) the teacher's logits."""
        given = batch.require("teacher", "LogitDistillation")  # (B, C)
        if self.classes == 1 and given.shape[1] == 2:
            given = given[:, 1:] - given[:, :1]
        if given.shape != logits.shape:
            raise ValueError(f"LogitDistillation has {self.classes} logits; Batch.teacher has {given.shape[1]} numbers")
        return given

    def _task(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B,) the loss of each row by its label."""
        if self.task == "classes":
            label = batch.require("label", "LogitDistillation")  # (B,)
            if int(label.max()) >= self.classes:
                raise ValueError(f"LogitDistillation has {self.classes} classes; the data have more labels")
            return F.cross_entropy(logits, label, reduction="none")
        if self.task == "regression":
            return (logits[:, 0] - batch.require("score", "LogitDistillation")).square()
        score = batch.require_score("LogitDistillation").to(logits.dtype)  # (B,)
        return F.binary_cross_entropy_with_logits(logits[:, 0], score, reduction="none")
