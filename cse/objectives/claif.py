"""CLAIF: Improving Contrastive Learning of Sentence Embeddings from AI Feedback (Cheng et al., arXiv:2305.01918)."""

from __future__ import annotations

from typing import ClassVar

from cse.batch import Batch, LossOutput, Views
from cse.interfaces import Objective, StepContext
from cse.objectives.functional import paired_cosine


class CLAIF(Objective):
    """Cosine regression on scored pairs.

        L = mean_i ( cos(u_i, v_i) - y_i )^2

    The loss of the paper (Findings of ACL 2023) for pairs whose similarity y a language model gave; any graded
    similarity will do. There is no temperature and there are no in-batch negatives; u and v are treated alike.

    Raises:
        ValueError: The batch has no score, one outside [0, 1], or not two texts a row.

    Source: xiami2019/CLAIF, run_training.py:214 (sentence-transformers' CosineSimilarityLoss).
    """

    requires = frozenset({"score"})
    contrasts: ClassVar[bool] = False

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The mean squared error of the batch's pairs."""
        score = batch.require_score("CLAIF")  # (B,)
        cosine = paired_cosine(views.anchor, views.require_pair("CLAIF"))  # (B,)
        loss = (cosine - score).square().mean()
        return LossOutput(loss, {"rmse": loss.detach().sqrt()})
