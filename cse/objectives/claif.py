"""CLAIF: Improving Contrastive Learning of Sentence Embeddings from AI Feedback (Cheng et al., arXiv:2305.01918)."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.functional import paired_cosine, weighted_mean


class CLAIF(Objective):
    """Cosine regression on scored pairs.

        L = mean_i ( cos(u_i, v_i) - y_i )^2

    The loss of the paper (Findings of ACL 2023) for pairs whose similarity y a language model gave; any graded
    similarity serves. The loss has no temperature and no in-batch negatives, and treats u and v alike. Rows have two
    texts, and y is in [0, 1].

    Source: xiami2019/CLAIF, run_training.py:214 (sentence-transformers' CosineSimilarityLoss).
    """

    requires = frozenset({"score"})
    contrasts = False
    weighs_rows = True

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        score = batch.require_score("CLAIF")  # (B,)
        cosine = paired_cosine(views.anchor, views.require_pair("CLAIF"))  # (B,)
        loss = weighted_mean((cosine - score).square(), batch.weight)
        return LossOutput(loss, {"rmse": loss.detach().sqrt()})
