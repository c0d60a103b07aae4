"""CoSENT: Consistent Sentence Embedding via Similarity Ranking (Su, 2022, kexue.fm/archives/8847)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import require_positive
from cse.interfaces import Objective, StepContext
from cse.objectives.functional import paired_cosine


class CoSENT(Objective):
    """The order of scored pairs, not their values: each pair should be closer than every pair with a lower score.

        L = log( 1 + sum_{(i, j): y_i > y_j} e^{(c_j - c_i)/t} ),    c_i = cos(u_i, v_i)

    The alternative to CLAIF's regression for scores whose scale is not a cosine's. Spearman's correlation, by which
    sentence embeddings are judged, depends on the order alone as well.

    Args:
        temperature: t, dimensionless, > 0 (Su: 0.05, as lambda = 20).

    Raises:
        ValueError: The temperature is not positive, the batch has no score or one outside [0, 1], or no pairs.

    Source: bojone/CoSENT, cosent.py; UKPLab/sentence-transformers, losses/CoSENTLoss.py.
    """

    requires = frozenset({"score"})
    contrasts: ClassVar[bool] = False

    def __init__(self, *, temperature: float = 0.05) -> None:
        super().__init__()
        require_positive("objective", temperature=temperature)
        self.temperature = temperature

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """One loss over all ordered pairs of the batch's pairs."""
        score = batch.require_score("CoSENT")  # (B,)
        scaled = paired_cosine(views.anchor, views.require_pair("CoSENT")) / self.temperature  # (B,)
        ordered = score[:, None] > score[None, :]  # (B, B) row above column
        excess = (scaled[None, :] - scaled[:, None])[ordered]  # c_j - c_i
        loss = torch.logsumexp(torch.cat([scaled.new_zeros(1), excess]), 0)
        return LossOutput(loss, {"inversions": _share(excess.detach() > 0)})


def _share(wrong: Tensor) -> Tensor:
    """() how many of them, as a fraction; 0 of none."""
    return wrong.float().sum() / max(1, wrong.numel())
