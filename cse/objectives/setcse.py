"""SetCSE: sentences learn the sets that they belong to (Liu, ICLR 2024, arXiv:2404.17606). A reconstruction."""

from __future__ import annotations

from typing import Literal

import torch

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import all_pairs
from cse.objectives.supcon import SupCon


class SetCSE(Objective):
    """Reconstruction of SetCSE: the members of a set S_n attract each other, and those of other sets repel.

        supcon      L = mean_i -1/|P(i)| sum_{p in P(i)} log e^{cos(x_i, x_p)/t} / sum_{k != i} e^{cos(x_i, x_k)/t}
        inter_set   L = sum_n log sum_{i in S_n} sum_{m != n} sum_{j in S_m} e^{cos(x_i, x_j)/t}

    The sets are the labels of the rows (`Batch.label`), and P(i) the other members of the set of i. All views of a row
    are members; a hard negative belongs to another set, and is not an anchor. The encoder then serves to rank the
    members of a set by their mean cosine with other sets. If rows have weights (`Batch.weight`), the mean of `supcon`
    is weighted; `inter_set` takes no weights. For `inter_set`, a batch has two labels or more.

    Args:
        form: `supcon`, or `inter_set`, which repels only.
        temperature: t, dimensionless, > 0 (0.05).

    Deviations:
        No program of the authors exists, and the full text of the paper could not be read: `inter_set` is our reading
        of its loss. `supcon` is the default, since the other has no term that attracts. Copies of a text in different
        rows are not compared. For `supcon` a member without a partner in its set is left out of the mean.
    """

    requires = frozenset({"label"})

    form: Literal["supcon", "inter_set"] = "supcon"
    temperature: Positive = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weighs_rows = self.form == "supcon"
        self.supcon = SupCon(temperature=self.temperature)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        label = batch.require("label", type(self).__name__)  # (B,)
        if self.form == "supcon":
            return self.supcon(views, batch, ctx)
        pairs = all_pairs(views, batch, single=True)
        sets, of_row = torch.unique(label, return_inverse=True)
        if len(sets) < 2:
            raise ValueError("inter_set compares sets, and all rows have one label; use the sampler LabelBatches")
        logits = pairs.similarity / self.temperature  # (A, N)
        other = logits.masked_fill(pairs.same(label) | ~pairs.mask, -torch.inf)  # (A, N)
        of_view = pairs.per_view(of_row)  # (A,)
        terms = [torch.logsumexp(other[of_view == n].flatten(), 0) for n in range(len(sets))]
        return LossOutput(torch.stack(terms).sum())
