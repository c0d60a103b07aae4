"""SupCon: Supervised Contrastive Learning (Khosla et al., NeurIPS 2020, arXiv:2004.11362)."""

from __future__ import annotations

from typing import Literal

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import AllPairs, by_view
from cse.objectives.parts.functional import Contrast, contrast


class SupCon(Objective):
    """Every view attracts all views of its label, against all other views of the batch.

        l_a = - t/t_0 1/|P(a)| sum_{p in P(a)} log e^{cos(z_a, z_p)/t} / sum_{k != a} e^{cos(z_a, z_k)/t}

    Equation 2 of the paper, where P(a) are the other views with the label of a: the views of its row and those of other
    rows. With `reduce: in` it is equation 3, where the mean over P(a) stands inside the logarithm. The loss is the mean
    over the views that have a positive. Hard negatives have no label: they are candidates, and neither anchors nor
    positives. Rows have labels (`Batch.label`).

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.1).
        base_temperature: t_0, > 0, which scales the loss (authors' program: 0.07). None: equal to t, so that the scale
            is 1, as in the paper's equation.
        reduce: `out` or `in`, the place of the mean over positives (paper: `out` trains better).
        anchors: `all` takes every view as an anchor. `one` takes the first view of each row only, as the authors'
            program does with `contrast_mode="one"`.

    Deviations:
        A view without a positive is left out of the mean; in the authors' program it counts as 0. Copies of a text in
        different rows (`Batch.text_id`) are neither positives nor negatives of each other.

    Source: HobbitLong/SupContrast, losses.py:21-103.
    """

    requires = frozenset({"label"})
    weighs_rows = True

    temperature: Positive = 0.1
    base_temperature: Positive | None = None
    reduce: Literal["out", "in"] = "out"
    anchors: Literal["all", "one"] = "all"

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        label = batch.require("label", type(self).__name__)  # (B,)

        def loss(pairs: AllPairs) -> Contrast:
            logits = pairs.similarity / self.temperature  # (A, N)
            return contrast(logits, pairs.same(label), mask=pairs.mask, weight=pairs.weight, reduce=self.reduce)

        result = by_view(views, batch, loss, single=True)
        if self.anchors == "one":
            kept = slice(len(views.anchor))
            weight = None if result.weight is None else result.weight[kept]
            result = Contrast(result.rows[kept], result.valid[kept], weight)
        scale = self.temperature / (self.base_temperature or self.temperature)
        return LossOutput(scale * result.loss, {"skipped": result.skipped.float()})
