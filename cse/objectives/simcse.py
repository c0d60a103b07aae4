"""SimCSE: Simple Contrastive Learning of Sentence Embeddings (Gao et al., EMNLP 2021, arXiv:2104.08821)."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views
from cse.errors import require_positive
from cse.interfaces import Objective, StepContext
from cse.objectives.candidates import in_batch
from cse.objectives.functional import contrast


class SimCSE(Objective):
    """In-batch contrast of each anchor with its positives, against the positives of other rows and all hard negatives.

        l_i = - log e^{cos(z_i, z+_i)/t} / sum_j ( e^{cos(z_i, z+_j)/t} + a^{[i=j]} e^{cos(z_i, z-_j)/t} )

    Equation 4 (unsupervised, where z+ is z under another dropout mask) and equations 5 and 8 (supervised, with hard
    negatives z-) of the paper. With P > 1 the row's loss is the mean over its positives. The batch's loss is the mean
    over rows, sum_i w_i l_i / sum_i w_i if the rows have weights w (`Batch.weight`).

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.05, table D.2).
        hard_negative_weight: log a, added to the logit of the row's own hard negatives only (paper: 0, section 4).

    Raises:
        UserError: The temperature is not positive.
        ValueError: A batch has no in-batch negatives.

    Deviations:
        A candidate with the text of the anchor or of one of its positives is masked (`Batch.text_id`); in the authors'
        program it is a negative. The published corpora have hardly any duplicates.

    Source: princeton-nlp/SimCSE, simcse/models.py, cl_forward.
    """

    weighs_rows = True

    def __init__(self, *, temperature: float = 0.05, hard_negative_weight: float = 0.0) -> None:
        super().__init__()
        require_positive("objective", temperature=temperature)
        self.temperature = temperature
        self.hard_negative_weight = hard_negative_weight

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The mean loss of the batch's rows."""
        pairs = in_batch(views, batch)
        logits = pairs.similarity / self.temperature  # (B, N)
        bias = pairs.own_negative * self.hard_negative_weight
        result = contrast(logits, pairs.positive, mask=pairs.mask, bias=bias, weight=batch.weight)
        return LossOutput(result.loss, {"skipped": result.skipped.float()})
