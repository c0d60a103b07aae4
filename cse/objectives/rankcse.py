"""RankCSE: Unsupervised Sentence Representation Learning via Learning to Rank (Liu et al., ACL 2023)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import NotNegative, Positive, Share, UserError
from cse.interfaces import Objective, StepContext, Teacher
from cse.objectives.parts.candidates import in_batch
from cse.objectives.parts.functional import contrast, cosine_matrix, weighted_mean
from cse.teachers.frozen import FrozenViewEncoder

Form = Literal["paper", "program"]
FLOOR = 1e-7  # of probabilities and of sums, in the program


class RankCSE(Objective):
    """SimCSE whose rows rank the batch alike in both directions, and as their teachers rank it.

        L = SimCSE + b mean_i JS( P_i, Q_i ) + g mean_i rank(S_i, T_i)
        S_ij = cos(z_i, z+_j) / t,    P_i = softmax(S_i.),  Q_i = softmax(S_.i),    T = ( a T_1 + (1 - a) T_2 ) / u

        listnet:  - sum_{j != i} softmax_{j != i}(T_i)_j log softmax_{j != i}(S_i)_j
        listmle:  sum_k log sum_{l >= k} e^{S_i o(l)} - S_i o(k),    o the order of T_i, from the largest

    T_1 and T_2 are the teachers' cosines of the first view of i with the second of j, which are the texts' own where a
    teacher has one vector per text. Hard negatives are candidates in the first term alone. Rows have one positive.

    Args:
        teachers: One or two, such as `cse.teachers.frozen.FrozenEncoder`, which may have any vocabulary. None: the
            encoder's backbone before training, with the encoder's pooler.
        first_weight: a, the share of the first of two teachers, in [0, 1] (program: 0.33).
        temperature: t, > 0 (program: 0.05).
        teacher_temperature: u, > 0 (program: 0.05, and half of it with `listnet`). `listmle` does not depend on it.
        ranking: The third term. `listmle` is a sum over the texts of the batch, so it outweighs the others in large
            batches; an earlier version of the program divides it by their number.
        consistency_weight: b, >= 0 (1 in the program, whatever its option says).
        ranking_weight: g, >= 0 (program: 1).
        form: `paper` is the loss above. `program` is what the community's program computes: its second term is minus
            the mean entropy of P_i and Q_i, since a clamp removes their mean from the divergence, so that it rewards
            flat rankings; probabilities are at least 1e-7 there, and in listmle 1e-7 is added to each sum, relative to
            the row's largest e^S.

    Deviations:
        The authors' program was not found; what is called the program is an independent one. Texts that equal the
        row's are left out of all rankings. Equal teacher scores are ordered as the rows are; the program shuffles them.

    Source: perceptiveshawty/RankCSE, rankcse/models.py:48-110, 262-295.
    """

    weighs_rows = True

    teachers: list[Teacher] | None = None
    first_weight: Share = 0.33
    temperature: Positive = 0.05
    teacher_temperature: Positive = 0.05
    ranking: Literal["listmle", "listnet"] = "listmle"
    consistency_weight: NotNegative = 1.0
    ranking_weight: NotNegative = 1.0
    form: Form = "paper"

    def __post_init__(self) -> None:
        teachers = self.teachers or []
        if self.teachers is not None and len(teachers) not in (1, 2):
            raise UserError(f"objective.teachers has {len(teachers)} teachers\nfix: give one or two, or leave it out")
        self.teachers = nn.ModuleList(teachers)  # type: ignore[assignment]
        super().__post_init__()

    def setup(self, encoder: Encoder) -> None:
        assert self.teachers is not None  # `__post_init__` made a list
        if not self.teachers:
            self.teachers.append(FrozenViewEncoder(source=encoder.source, pooler=encoder.pooler))
        super().setup(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if views.positive.shape[1] != 1:
            raise ValueError(f"RankCSE needs one positive per row; got {views.positive.shape[1]}")
        vectors = [teacher.embed(batch, ctx) for teacher in self.teachers or ()]  # (B, V, Dt) each
        cosines = [cosine_matrix(v[:, 0], v[:, 1]) for v in vectors]  # (B, B) each
        judged = cosines[0]
        if len(cosines) == 2:
            judged = self.first_weight * cosines[0] + (1 - self.first_weight) * cosines[1]
        return self.loss(views, batch, judged / self.teacher_temperature)

    def loss(self, views: Views, batch: Batch, judged: Tensor) -> LossOutput:
        """The loss, given the teachers' logits (B, B)."""
        pairs = in_batch(views, batch)
        logits, size = pairs.similarity / self.temperature, len(judged)  # (B, N)
        nce = contrast(logits, pairs.positive, mask=pairs.mask, weight=batch.weight)
        square = logits[:, :size]  # (B, B)
        present = torch.ones_like(square, dtype=torch.bool) if pairs.mask is None else pairs.mask[:, :size]
        flat = divergence(square, square.T, present & present.T, self.form)  # (B,)
        consistency = weighted_mean(flat, batch.weight)
        if self.ranking == "listmle":
            ranked = weighted_mean(list_mle(square, judged, present, self.form), batch.weight)
        else:
            others = present & ~torch.eye(size, dtype=torch.bool, device=square.device)
            target = judged.masked_fill(~others, torch.finfo(judged.dtype).min).softmax(-1)  # (B, B)
            ranked = contrast(square, target, mask=others, weight=batch.weight).loss
        parts = {"contrast": nce.loss, "consistency": consistency, "ranking": ranked}
        total = nce.loss + self.consistency_weight * consistency + self.ranking_weight * ranked
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})


def divergence(logits: Tensor, other: Tensor, present: Tensor, form: Form = "paper") -> Tensor:
    """(A,) the Jensen-Shannon divergence, in [0, log 2], of the softmaxes of each row (A, N) and of the other's.

    Entries that are not `present` (A, N) have probability 0. `program`: minus the mean of the two entropies.
    """
    nothing = torch.finfo(logits.dtype).min / 2  # finite, so that 0 times it is 0
    p, q = (x.masked_fill(~present, nothing).log_softmax(-1) for x in (logits, other))  # (A, N) logarithms
    if form == "paper":
        middle = torch.logaddexp(p, q) - math.log(2)
        terms = p.exp() * (p - middle) + q.exp() * (q - middle)
    else:
        p, q = p.clamp_min(math.log(FLOOR)), q.clamp_min(math.log(FLOOR))
        terms = (p.exp() * (p - FLOOR) + q.exp() * (q - FLOOR)).masked_fill(~present, 0.0)
    return terms.sum(-1) / 2


def list_mle(logits: Tensor, judged: Tensor, present: Tensor, form: Form = "paper") -> Tensor:
    """(A,) how unlikely the order of `judged` (A, N) is if the logits (A, N) are drawn from without replacement.

    Entries that are not `present` (A, N) take no part.
    """
    nothing = torch.finfo(logits.dtype).min / 2
    order = judged.masked_fill(~present, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    scores, counted = logits.masked_fill(~present, nothing).gather(-1, order), present.gather(-1, order)
    rest = scores.flip(-1).logcumsumexp(-1).flip(-1)  # (A, N) of the entry and all that follow it
    if form == "program":
        rest = torch.logaddexp(rest, scores.amax(-1, keepdim=True) + math.log(FLOOR))
    return (rest - scores).masked_fill(~counted, 0.0).sum(-1)
