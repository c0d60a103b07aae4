"""Masked language modeling: BERT (Devlin et al., NAACL 2019, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed
from cse.encoder.language_models import HEADS
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.functional import ratio


class MaskedLM(Objective):
    """Cross-entropy of the original tokens at masked positions, from a second pass over the masked ids.

        L = - 1/M sum_m log p(x_m | masked text)        over all M masked positions of the batch

    Alone it pretrains a backbone, which is saved with its head as a plain masked language model; in a `WeightedSum` it
    is SimCSE's auxiliary term (section 3.3 there, weight 0.1).
    The head (dense, GELU, LayerNorm, output bias) starts from the backbone's pretrained head, if there is one. If rows
    have weights (`Batch.weight`), a position counts as much as its row: sum_m w_m l_m / sum_m w_m.

    Args:
        output: `tied` uses the input embeddings as output matrix, as BERT does. `own` trains a copy of them, as the
            authors' program of PromCSE does, whose input embeddings are frozen.

    Source: princeton-nlp/SimCSE, simcse/models.py, cl_forward (do_mlm).
    """

    requires = frozenset({"masked_ids", "mlm_labels"})
    cacheable = False
    uses_views = False
    contrasts = False
    weighs_rows = True

    output: Literal["tied", "own"] = "tied"

    def setup(self, encoder: Encoder) -> None:
        """Build the head.

        Raises:
            UserError: The backbone reads from left to right, and cannot see what follows a masked position.
        """
        if encoder.causal:
            raise UserError(
                f"objective MaskedLM needs a bidirectional backbone, and {encoder.source} reads from left to right\n"
                "fix: use a BERT-like encoder, or a recipe without masked language modeling, such as simcse-unsup"
            )
        self.head = MaskedLMHead.of(encoder, encoder.backbone.config.vocab_size)
        if self.output == "own":
            embeddings = encoder.backbone.get_input_embeddings().weight
            self.decoder = nn.Parameter(embeddings.detach().clone())  # (vocabulary, H)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        masked_ids, labels = batch.require("masked_ids", "MaskedLM"), batch.require("mlm_labels", "MaskedLM")
        states = ctx.encoder.token_states(
            masked_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1), (labels != -100).flatten(0, 1)
        )  # (M, H)
        target = placed(labels[labels != -100], states.device)  # (M,)
        tied = self.output == "tied"
        output = ctx.encoder.backbone.get_input_embeddings().weight if tied else self.decoder  # (vocabulary, H)
        row = placed((labels != -100).nonzero()[:, 0], states.device)  # (M,) the row of each masked position
        loss, accuracy = token_loss(self.head(states, output), target, row, batch, ctx)
        return LossOutput(loss, {"mlm_loss": loss.detach(), "mlm_accuracy": accuracy})


def token_loss(logits: Tensor, target: Tensor, row: Tensor, batch: Batch, ctx: StepContext) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of the predicted tokens of all processes, and the share of those that are most probable.

    This process has M tokens, the `target`, with logits (M, vocabulary); each has the weight (`Batch.weight`) of its
    row among those of this process.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    hits = (logits.argmax(-1) == target).sum()
    count = ctx.all_sum(logits.new_full((), len(target))).clamp_min(1)
    if batch.weight is None:
        loss = ctx.all_sum(F.cross_entropy(logits, target, reduction="sum")) / count
    else:
        weight = batch.weight[ctx.local_rows][row].to(logits.dtype)
        total = ctx.all_sum(weight.sum())
        summed = ctx.all_sum((F.cross_entropy(logits, target, reduction="none") * weight).sum())
        loss = ratio(summed, total)
    return loss, ctx.all_sum(hits.float()) / count


class MaskedLMHead(nn.Module):
    """The masked-LM head of BERT and its like without its output matrix: states (M, H) -> logits (M, vocabulary).

    Without a vocabulary it is the head's transform alone, which comes before the output matrix: (M, H) -> (M, H).
    """

    def __init__(self, hidden: int, vocabulary: int | None, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        self.layer_norm = nn.LayerNorm(hidden, eps=epsilon)
        self.bias = None if vocabulary is None else nn.Parameter(torch.zeros(vocabulary))

    @classmethod
    def of(cls, encoder: Encoder, vocabulary: int | None = None) -> MaskedLMHead:
        """The head of an encoder's backbone, with its pretrained weights, if there are any."""
        # BERT 1e-12, RoBERTa 1e-5; DistilBERT fixes 1e-12
        epsilon = getattr(encoder.backbone.config, "layer_norm_eps", 1e-12)
        head = cls(encoder.hidden_size, vocabulary, epsilon)
        head.load_pretrained(encoder.source)
        return head

    def forward(self, states: Tensor, output: Tensor | None = None) -> Tensor:
        """Logits from states (M, H) and the output matrix (vocabulary, H); without it, what the transform makes."""
        transformed: Tensor = self.layer_norm(F.gelu(self.dense(states)))  # (M, H)
        if output is None:
            return transformed
        output = output.float() if output.dtype == torch.bfloat16 else output  # the head is in float32
        return F.linear(transformed, output, self.bias)

    def load_pretrained(self, source: str) -> None:
        """Load the head of a checkpoint like BERT, RoBERTa or DistilBERT; without one it stays newly initialized."""
        from cse.encoder.checkpoint.backbone import read_weights

        found = read_weights(source, tuple(name for names in HEADS.values() for name in names))
        own: dict[str, Tensor] = {}
        for part, names in HEADS.items():
            for name in names if getattr(self, part) is not None else ():
                own |= {part + k.removeprefix(name): v for k, v in found.items() if f"{k}.".startswith(f"{name}.")}
        if own:
            self.load_state_dict(own)
