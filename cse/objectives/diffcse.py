"""DiffCSE: difference-based contrastive learning for sentences (Chuang et al., NAACL 2022, arXiv:2204.10298)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.adapters.lora import merged_state
from cse.encoder.checkpoint.backbone import no_pooler
from cse.encoder.device import placed
from cse.encoder.heads import in_float32
from cse.encoder.language_models import TokenGenerator
from cse.encoder.model import Encoder
from cse.errors import NotNegative, Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import info_nce
from cse.objectives.parts.functional import of_present, ratio


class DiffCSE(Objective):
    """SimCSE's contrast, and the detection of tokens that a masked LM replaced, given the sentence's vector.

        L = L_contrast + lambda L_RTD
        L_RTD = - 1/T sum_t log D_{e_t}(x''_t | h),   e_t = 1 where x''_t differs from x_t, else 0,   x'' = G(masked x)

    Section 3 of the paper. h is the projected vector, which the contrast compares and which takes the place of the
    first embedding of the discriminator D; the gradient of both terms flows through it into the encoder. The projector
    (Linear to 2H, batch norm, ReLU, Linear to H, batch norm without weights), D and its head are trained with the
    encoder and are not exported. D starts from the backbone; the generator G is frozen. All views of a row take part in
    both terms, and each view has its own mask. If rows have weights (`Batch.weight`), the mean over rows is weighted,
    and in L_RTD a position counts as much as its row. The backbone is one like BERT.

    Args:
        generator: The masked LM, with the backbone's tokenizer: `asset:NAME`, a folder or a Hub id (authors:
            distilbert-base-uncased for BERT, distilroberta-base for RoBERTa). None: the backbone itself.
        temperature: Temperature of the contrast, > 0 (paper: 0.05).
        rtd_weight: lambda, >= 0 (paper: 0.005 for STS, 0.05 for transfer tasks).
        padding: The mean over T has padding `counted`, as never replaced (authors' program), or `excluded`.
        generator_dropout: Leave the generator's dropout on. Without it, the tokens depend on the masked text alone.

    Deviations:
        The generator's most probable token is put at all positions, as in the authors' program; the paper draws one at
        each position that was masked. The authors' program never puts the generator in evaluation mode, so that its
        argmax is stochastic; that is `generator_dropout=True`. Batch norm takes its statistics over the batch of all
        processes, not of each, and keeps no running ones. Without its option --batchnorm their projector is SimCSE's
        Linear and tanh, which is left out. Padding is id 0 in the discriminator's text, as in theirs; in RoBERTa this
        is <s>.

    Source: voidism/DiffCSE, diffcse/models.py:35-50, 175-187, 257-273.
    """

    requires = frozenset({"masked_ids"})
    weighs_rows = True

    generator: str | None = None
    temperature: Positive = 0.05
    rtd_weight: NotNegative = 0.005
    padding: Literal["counted", "excluded"] = "counted"
    generator_dropout: bool = False

    def setup(self, encoder: Encoder) -> None:
        self.discriminator = Discriminator(encoder)
        self.projector = projector(encoder.dim, encoder.hidden_size)
        source = self.generator or encoder.source
        self.masked_lm = TokenGenerator(
            source, encoder.tokenizer, dropout=self.generator_dropout, option="objective.generator"
        )

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        rows = views.projected  # (B, V, D')
        projected = of_present(partial(in_float32, self.projector), rows, batch.view_mask)  # (B, V, H)
        pairs = Views.split(projected, views.embedding, batch.num_positives)
        contrastive = info_nce(pairs, batch, self.temperature)
        rtd, metrics = self.detection(projected, batch, ctx)
        metrics |= {"contrastive": contrastive.loss.detach(), "skipped": contrastive.skipped.float()}
        return LossOutput(contrastive.loss + self.rtd_weight * rtd, metrics)

    def detection(self, projected: Tensor, batch: Batch, ctx: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """L_RTD given the vectors (B, V, H) of the whole batch, and what to log."""
        ids, mask = (
            placed(t.flatten(0, 1), projected.device) for t in (batch.input_ids, batch.attention_mask)
        )  # (n, L) of this process
        length = ctx.all_max(ids.shape[1])  # padding counts, so every process must pad to one length
        edited = self.edited(batch, ctx) * mask
        replaced = ((edited != ids) & (mask == 1)).long()
        edited, mask, replaced = (F.pad(t, (0, length - ids.shape[1])) for t in (edited, mask, replaced))

        logits = self.discriminator(edited, mask, projected[ctx.local_rows].flatten(0, 1)).float()  # (n, length, 2)
        counted = torch.ones_like(mask) if self.padding == "counted" else mask  # (n, length)
        if batch.view_mask is not None:
            present = batch.view_mask[ctx.local_rows].flatten()[:, None]  # (n, 1)
            counted = counted * present
        if batch.weight is not None:  # a position counts as much as its row
            counted = counted * batch.weight[ctx.local_rows].repeat_interleave(batch.views)[:, None]
        losses = F.cross_entropy(logits.flatten(0, 1), replaced.flatten(), reduction="none") * counted.flatten()
        rtd = ratio(ctx.all_sum(losses.sum()), ctx.all_sum(counted.sum().float()))

        if batch.view_mask is not None:
            mask = mask * present
        tokens = ctx.all_sum(mask.sum().float())
        right = ctx.all_sum(((logits.argmax(-1) == replaced) & (mask == 1)).sum().float())
        changed = ctx.all_sum((replaced * mask).sum().float())
        return rtd, {"rtd": rtd.detach(), "rtd_accuracy": right / tokens, "replaced": changed / tokens}

    def edited(self, batch: Batch, ctx: StepContext) -> Tensor:
        """(n, L) x'': this process's texts with the generator's tokens; the first token is never replaced."""
        ids, masked = (
            placed(t.flatten(0, 1), ctx.encoder.device)
            for t in (batch.input_ids, batch.require("masked_ids", "DiffCSE"))
        )
        filled = self.masked_lm(masked, batch.attention_mask.flatten(0, 1))
        return torch.cat([ids[:, :1], filled[:, 1:]], 1)


def projector(width: int, hidden: int) -> nn.Sequential:
    """The layers between pooler and contrast: (n, width) -> (n, 2 hidden) -> (n, hidden)."""
    return nn.Sequential(
        nn.Linear(width, 2 * hidden, bias=False),
        nn.BatchNorm1d(2 * hidden, track_running_stats=False),
        nn.ReLU(inplace=True),
        nn.Linear(2 * hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden, affine=False, track_running_stats=False),
    )


class Discriminator(nn.Module):
    """A second backbone that tells replaced tokens from original ones, given the vector of the original text.

    The vector takes the place of the first token's embedding, after the embeddings' LayerNorm and dropout and before
    the first layer: a hook on the model's own embeddings, so that no model file is patched.

    Source: voidism/DiffCSE, diffcse/modeling_bert.py:960-961, modeling_roberta.py:799-800, train.py:373-388.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        from transformers import AutoModel

        config = encoder.backbone.config
        embeddings, width = getattr(encoder.backbone, "embeddings", None), getattr(config, "embedding_size", None)
        if not isinstance(embeddings, nn.Module) or width not in {None, encoder.hidden_size}:
            raise UserError(
                "DiffCSE replaces the first token's embedding by the sentence's vector, which a "
                f"{config.model_type} backbone does not allow\nfix: use a BERT or RoBERTa backbone, such as asset:mini"
            )
        self.backbone = AutoModel.from_config(config, **no_pooler(config)).float()
        self.backbone.load_state_dict(merged_state(encoder.backbone))
        self.head = nn.Linear(encoder.hidden_size, 2)

    def forward(self, ids: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """(n, L, 2) logits of "original" and "replaced" for ids (n, L), given vectors (n, H)."""

        def put(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
            return torch.cat([condition[:, None].to(embedded.dtype), embedded[:, 1:]], 1)

        hook = self.backbone.embeddings.register_forward_hook(put)
        try:
            states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, L, H)
        finally:
            hook.remove()
        return self.head(states)
