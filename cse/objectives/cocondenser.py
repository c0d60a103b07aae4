"""coCondenser (Gao and Callan, ACL 2022, arXiv:2108.05540), on Condenser (EMNLP 2021, arXiv:2104.08253)."""

from __future__ import annotations

from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed, places
from cse.encoder.model import Encoder
from cse.errors import Count, NotNegative, Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.masked_lm import MaskedLMHead, token_loss
from cse.objectives.parts.candidates import AllPairs, by_view
from cse.objectives.parts.decoders import FirstDecoder
from cse.objectives.parts.functional import Contrast, contrast, dot_matrix


class CoCondenser(Objective):
    """Masked language modeling twice, once from middle states and the text's vector, and a contrast of the vectors.

        L = L_last + L_head + w L_contrast
        l_a = - log e^{c_a . c_p / t} / sum_{k != a} e^{c_a . c_k / t},   c = last state of the first token

    Every text of a row is masked and takes part in all terms. L_last predicts the masked tokens from the last layer's
    states. L_head predicts them again, from new layers that read c in the first place and the states of layer
    `skip_from` in all others: the late layers help only through c. The contrast is by inner product, every text is an
    anchor, p is another text of its row, and k runs over all other texts of the batch. The layers and the masked-LM
    head, which both predictions share, are trained with the encoder; the head is saved with the backbone, and the
    layers are not. If rows have weights (`Batch.weight`), a token and an anchor count as much as their row. The
    backbone's embeddings have positions, and the contrast needs rows of two texts.

    Args:
        decoder_layers: Number of the new layers, >= 1 (authors: 2).
        skip_from: The layer whose states they read, at least 1 and below the last (authors: 6 of 12). None: half.
        contrast_weight: w, >= 0 (authors: 1); 0 leaves the contrast out, which is Condenser.
        temperature: t, > 0 (authors: 1).

    Deviations:
        Copies of a text in different rows (`Batch.text_id`) are not negatives of each other. The contrast is over the
        batch of all processes, and its gradient is not scaled by their number.

    Source: caskcsg/ir, cotmae-qc/cocondenser/modeling.py:275-281; luyug/Condenser, modeling.py.
    """

    requires = frozenset({"masked_ids", "mlm_labels"})
    cacheable = False
    uses_views = False
    weighs_rows = True

    decoder_layers: Count = 2
    skip_from: Count | None = None
    contrast_weight: NotNegative = 1.0
    temperature: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.contrasts = self.contrast_weight > 0

    def setup(self, encoder: Encoder) -> None:
        self.middle = encoder.depth // 2 if self.skip_from is None else self.skip_from
        if not 1 <= self.middle < encoder.depth:
            raise UserError(
                f"objective.skip_from is {self.skip_from}, and {encoder.source} has {encoder.depth} layers\n"
                "fix: give a layer before the last, and a backbone of 2 layers or more"
            )
        self.decoder = FirstDecoder(encoder, layers=self.decoder_layers)
        self.head = MaskedLMHead.of(encoder, encoder.backbone.config.vocab_size)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        ids, labels = (
            batch.require(name, "CoCondenser").flatten(0, 1) for name in ("masked_ids", "mlm_labels")
        )  # (n, L), n = b V
        mask, device = batch.attention_mask.flatten(0, 1), ctx.encoder.device
        hidden = ctx.encoder.states(ids, mask).hidden
        vector, wanted = hidden[-1][:, 0], labels != -100  # (n, H), (n, L)
        again = self.decoder(hidden[self.middle], placed(mask, device), vector)  # (n, L, H)
        chosen, target = places(wanted, device), placed(labels[wanted], device)
        row = chosen[0] // batch.views  # (M,)
        words = ctx.encoder.backbone.get_input_embeddings().weight
        (last, accuracy), (head, hits) = (
            token_loss(self.head(states[chosen], words), target, row, batch, ctx) for states in (hidden[-1], again)
        )
        metrics = {"mlm_loss": last.detach(), "mlm_accuracy": accuracy}
        metrics |= {"head_loss": head.detach(), "head_accuracy": hits}
        if not self.contrast_weight:
            return LossOutput(last + head, metrics)
        contrastive = self.contrastive(ctx.gather(vector.view(*batch.input_ids.shape[:2], -1)), batch)
        metrics |= {"contrastive": contrastive.loss.detach(), "skipped": contrastive.skipped.float()}
        return LossOutput(last + head + self.contrast_weight * contrastive.loss, metrics)

    def contrastive(self, vectors: Tensor, batch: Batch) -> Contrast:
        """The contrast of vectors (B, V, H)."""

        def loss(pairs: AllPairs) -> Contrast:
            logits = pairs.similarity / self.temperature  # (A, N)
            return contrast(logits, pairs.positive, mask=pairs.mask, weight=pairs.weight)

        return by_view(Views.split(vectors, vectors, batch.num_positives), batch, loss, dot_matrix)
