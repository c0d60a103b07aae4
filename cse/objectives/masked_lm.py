"""Masked language modelling: BERT (Devlin et al., NAACL 2019, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.interfaces import Objective, StepContext

PRETRAINED_HEADS = {  # where BERT and RoBERTa keep the head's weights
    "dense": ("cls.predictions.transform.dense", "lm_head.dense"),
    "layer_norm": ("cls.predictions.transform.LayerNorm", "lm_head.layer_norm"),
    "bias": ("cls.predictions.bias", "lm_head.bias"),
}


class MaskedLM(Objective):
    """Cross-entropy of the original tokens at masked positions, from a second pass over the masked ids.

        L = - 1/M sum_m log p(x_m | masked text)        over all M masked positions of the batch

    Alone it pretrains a backbone; in a `WeightedSum` it is SimCSE's auxiliary term (section 3.3 there, weight 0.1).
    The head (dense, GELU, LayerNorm, output bias; output weights tied to the input embeddings) starts from the
    backbone's pretrained one where it has one.

    Source: princeton-nlp/SimCSE, simcse/models.py, cl_forward (do_mlm).
    """

    requires = frozenset({"masked_ids", "mlm_labels"})
    cacheable: ClassVar[bool] = False
    uses_views: ClassVar[bool] = False
    contrasts: ClassVar[bool] = False

    def setup(self, encoder: Encoder) -> None:
        """Build the head."""
        self.head = MaskedLMHead(encoder.hidden_size, encoder.backbone.config.vocab_size)
        self.head.load_pretrained(encoder.source)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The mean over masked positions of all processes."""
        masked_ids, labels = batch.require("masked_ids", "MaskedLM"), batch.require("mlm_labels", "MaskedLM")
        states = ctx.encoder.token_states(
            masked_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1), (labels != -100).flatten(0, 1)
        )  # (M, H)
        target = labels[labels != -100]  # (M,)
        logits = self.head(states, ctx.encoder.backbone.get_input_embeddings().weight)  # (M, vocabulary)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        hits = (logits.argmax(-1) == target).sum()
        count = ctx.all_sum(logits.new_tensor(float(len(target)))).clamp_min(1)
        loss = ctx.all_sum(F.cross_entropy(logits, target, reduction="sum")) / count
        return LossOutput(loss, {"mlm_loss": loss.detach(), "mlm_accuracy": ctx.all_sum(hits.float()) / count})


class MaskedLMHead(nn.Module):
    """(M, H) states -> (M, vocabulary) logits, with the embedding matrix as output weights."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        self.layer_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """States (M, H) and embeddings (vocabulary, H) to logits."""
        return F.linear(self.layer_norm(F.gelu(self.dense(states))), embeddings, self.bias)

    def load_pretrained(self, source: str) -> None:
        """Take the head of a BERT or RoBERTa checkpoint; a source without one leaves the fresh one."""
        from cse.encoder.backbone import read_weights

        found = read_weights(source, tuple(name for names in PRETRAINED_HEADS.values() for name in names))
        own: dict[str, Tensor] = {}
        for part, names in PRETRAINED_HEADS.items():
            for name in names:
                own |= {part + k.removeprefix(name): v for k, v in found.items() if f"{k}.".startswith(f"{name}.")}
        if own:
            self.load_state_dict(own)
