"""CoSENT: Consistent Sentence Embedding via Similarity Ranking (Su, 2022, kexue.fm/archives/8847)."""

from __future__ import annotations

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.blocks import require_whole
from cse.objectives.parts.functional import paired_cosine


class CoSENT(Objective):
    """The order of scored pairs, not their values: each pair should be closer than every pair with a lower score.

        L = log( 1 + sum_{(i, j): y_i > y_j} w_i w_j e^{(c_j - c_i)/t} ),    c_i = cos(u_i, v_i)

    The alternative to CLAIF's regression for scores whose scale is not a cosine's. Spearman's correlation, by which
    sentence embeddings are judged, depends on the order alone as well. The weights w are 1 unless rows have others
    (`Batch.weight`). A row of weight 2 counts as the row given twice. The loss is not a mean, so that a common factor
    of all weights changes it. Rows have two texts, and y is in [0, 1].

    Args:
        temperature: t, dimensionless, > 0 (Su: 0.05, as lambda = 20).

    Source: bojone/CoSENT, cosent.py; UKPLab/sentence-transformers, losses/CoSENTLoss.py.
    """

    requires = frozenset({"score"})
    contrasts = False
    weighs_rows = True

    temperature: Positive = 0.05

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        score = batch.require_score("CoSENT")  # (B,)
        scaled = paired_cosine(views.anchor, views.require_pair("CoSENT")) / self.temperature  # (B,)
        loss, inversions = rank_loss(scaled, score, batch.weight)
        return LossOutput(loss, {"inversions": inversions})


def rank_loss(scaled: Tensor, score: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The loss of `CoSENT`, and the share of ordered pairs that are in the wrong order.

    The n pairs of texts have values, divided by the temperature, scores that they should be ordered by, and weights.

    Raises:
        ValueError: There are too many pairs to compare all.
    """
    require_whole(len(scaled), len(scaled), scaled)
    ordered = score[:, None] > score[None, :]  # (n, n) row above column
    excess = scaled[None, :] - scaled[:, None]  # (n, n) c_j - c_i
    if weight is not None:
        log_weight = weight.to(excess.dtype).log()  # (n,) -inf at 0: the pair counts nowhere
        excess = excess + log_weight[None, :] + log_weight[:, None]
    excess = excess.masked_fill(~ordered, -torch.inf)  # an index by a mask would wait for a GPU, forwards and backwards
    loss = torch.logsumexp(torch.cat([scaled.new_zeros(1), excess.flatten()]), 0)
    wrong = scaled.detach()[None, :] > scaled.detach()[:, None]
    return loss, (wrong & ordered).float().sum() / ordered.sum().clamp_min(1)
