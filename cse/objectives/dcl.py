"""DCL and DCLW: Decoupled Contrastive Learning (Yeh et al., ECCV 2022, arXiv:2110.06848)."""

from __future__ import annotations

from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import AllPairs, by_view
from cse.objectives.parts.functional import Contrast, contrast, ratio, weighted_mean


class DCL(Objective):
    """NT-Xent over all views without the positive in the denominator.

        l_a = - cos(z_a, z_p)/t + log sum_k e^{cos(z_a, z_k)/t}

    The paper's L_DC: every view is an anchor, p the other view of its row, and k runs over all views of other rows. In
    NT-Xent, a positive that is already near scales down the gradient of all negatives, and the more so the smaller the
    batch. With several positives the loss of a view is the mean over them.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.1).

    Deviations:
        The directions are averaged, as in lightly's program; raminnakhli's sums them.

    Source: lightly-ai/lightly, lightly/loss/dcl_loss.py:13-247; raminnakhli/Decoupled-Contrastive-Learning,
    loss/dcl.py.
    """

    weighs_rows = True

    temperature: Positive = 0.1

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        return by_view(views, batch, lambda pairs: decoupled(pairs, self.temperature)).output()


class DCLW(Objective):
    """DCL in which a positive that is near already counts less.

        l_a = - w_a c_a/t + log sum_k e^{cos(z_a, z_k)/t},    c_a = cos(z_a, z_p)
        w_a = 2 - e^{c_a/s} / mean_i e^{c_i/s}

    The paper's L_DCW, a negative von Mises-Fisher weighting whose mean over the batch is 1. With several positives c is
    the mean over them.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.1).
        sigma: s, dimensionless, > 0 (paper: 0.5). The larger, the nearer is w to 1.
        detach_weights: Whether no gradient flows through w, as in lightly's program; it flows in raminnakhli's.

    Deviations:
        Those of `DCL`.

    Source: those of `DCL`.
    """

    weighs_rows = True

    temperature: Positive = 0.1
    sigma: Positive = 0.5
    detach_weights: bool = True

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        plain, cosine = by_view(views, batch, self._terms)
        scores = (cosine / self.sigma).exp()
        near = ratio(scores, weighted_mean(scores, plain.weight))  # (A,)
        excess = ((near.detach() if self.detach_weights else near) - 1) * cosine / self.temperature  # (1 - w) cos/t
        loss = plain.loss + weighted_mean(excess, plain.weight)
        return LossOutput(loss, {"skipped": plain.skipped.float()})

    def _terms(self, pairs: AllPairs) -> tuple[Contrast, Tensor]:
        """DCL of some views, and c (A,)."""
        cosine = (pairs.similarity * pairs.positive).sum(1) / pairs.positive.sum(1).clamp_min(1)  # (A,)
        return decoupled(pairs, self.temperature), cosine


def decoupled(pairs: AllPairs, temperature: float) -> Contrast:
    """DCL of some views."""
    logits = pairs.similarity / temperature  # (A, N)
    return contrast(logits, pairs.positive, mask=pairs.mask, weight=pairs.weight, denominator="none")
