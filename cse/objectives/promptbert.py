"""PromptBERT: Improving BERT Sentence Embeddings with Prompts (Jiang et al., EMNLP 2022, arXiv:2201.04337)."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.checkpoint.source import first_position
from cse.encoder.device import placed
from cse.encoder.heads import in_float32
from cse.encoder.model import Encoder
from cse.encoder.template import added_ids
from cse.errors import Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.masked_lm import MaskedLMHead
from cse.objectives.parts.candidates import info_nce


class PromptBERT(Objective):
    """SimCSE on what a text adds to its template: vectors at the mask token, less that of the template without a text.

        l_i = - log e^{cos(z_i, z+_i)/t} / sum_j ( e^{cos(z_i, z+_j)/t} + a^{[i=j]} e^{cos(z_i, z-_j)/t} )
        z   = g(h - d(n))    or    g(h) - g(d(n))

    The paper's template denoising. h is the embedding of a text of n ids in its template,
    and d(n) that of the template alone, whose ids behind the text keep the positions that they have after n ids. Rows
    of one template and one length share a d(n), dropout included. The encoder has `pooler: mask` and a template with
    `{mask}`; `cse.data.InTemplates` gives the views of the unsupervised method another template. Other poolers work.

    The encoder exports h alone, without d(n) and g: the authors' unsupervised scores are those of h, their supervised
    scores are not. With soft prompts, or a backbone that takes no positions, `delta` is `none`.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.05).
        hard_negative_weight: log a, added to the logit of the row's own hard negatives only (paper: 0).
        delta: `trained` subtracts d(n) and lets the gradient flow through it (authors: all four models); `frozen`
            subtracts it as a constant; `none` subtracts nothing.
        head: `encoder` applies the encoder's own head, SimCSE's MLP, to h - d(n). `masked_lm` applies the transform of
            the backbone's pretrained masked-LM head (dense, GELU, LayerNorm) to both, and the encoder then has no head
            (authors' `org_mlp`: supervised BERT). It is trained, and newly initialized if the backbone has none.
        positions: The position of the template's first id in the pass for d(n). `backbone`: that of every text.
            `from_zero`: 0, as in the authors' program, although RoBERTa's texts begin at 2, so that there d(0) is not
            the encoding of the empty template.

    Deviations:
        The authors' program takes the length of the first template for both; here they have to be equally long
        (`InTemplates`). It selects checkpoints by h - d(n), here by h. In evaluation it adds a full stop to a text that
        ends in none of . ? " ', here texts are as they are.

    Source: kongds/Prompt-BERT, prompt_bert/models.py:65-262.
    """

    cacheable = False
    weighs_rows = True
    note = (
        "In training, PromptBERT subtracted from the vector of a text that of its template without a text, before a "
        "head. The vectors of this model are without that subtraction and without the head, since no module of "
        "sentence-transformers subtracts. The authors' unsupervised scores are measured in this way, and their "
        "supervised scores with both."
    )

    temperature: Positive = 0.05
    hard_negative_weight: float = 0.0
    delta: Literal["trained", "frozen", "none"] = "trained"
    head: Literal["encoder", "masked_lm"] = "encoder"
    positions: Literal["backbone", "from_zero"] = "backbone"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delta == "none":
            self.cacheable, self.note = True, ""  # the loss sees the encoder through the views alone

    def setup(self, encoder: Encoder) -> None:
        architecture = encoder.backbone.config.model_type
        takes = "position_ids" in inspect.signature(encoder.backbone.forward).parameters
        if self.delta != "none" and (not takes or isinstance(encoder.adapter, SoftPrompts)):
            why = "its layers see soft prompts" if takes else f"a {architecture} backbone takes no positions"
            raise UserError(
                f"objective PromptBERT cannot move the positions of the template: {why}\n"
                "fix: set objective.delta to none, or use a BERT or RoBERTa backbone without soft prompts"
            )
        self.before, self.after = map(len, added_ids(encoder.tokenizer))
        first = first_position(encoder.backbone.config.to_dict())
        self.first = 0 if self.positions == "from_zero" else first
        if self.head == "masked_lm":
            if len(encoder.post) or next(encoder.head.parameters(), None) is not None:
                raise UserError(
                    "objective.head is masked_lm, and the encoder has a head or modules after pooling as well\n"
                    "fix: set encoder.head to none, or objective.head to encoder"
                )
            self.transform = MaskedLMHead.of(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        denoised = self.denoised(views, batch, ctx)
        return info_nce(denoised, batch, self.temperature, hard_negative_weight=self.hard_negative_weight).output()

    def denoised(self, views: Views, batch: Batch, ctx: StepContext) -> Views:
        """The views z (B, V, D') of all processes, by role."""
        h = views.embedding  # (B, V, D)
        if self.delta == "none":
            return views if self.head == "encoder" else Views.split(self._transformed(h), h, batch.num_positives)
        with torch.no_grad() if self.delta == "frozen" else nullcontext():
            d = ctx.gather(self.template_vectors(batch, ctx))  # (B, V, D)
        z = ctx.encoder.head(h - d) if self.head == "encoder" else self._transformed(h) - self._transformed(d)
        return Views.split(z, h, batch.num_positives)

    def _transformed(self, x: Tensor) -> Tensor:
        return in_float32(self.transform, x)

    def template_vectors(self, batch: Batch, ctx: StepContext) -> Tensor:
        """d(n) (b, V, D) of the template and the length of each of this process's texts."""
        ids, lengths = batch.input_ids, batch.attention_mask.sum(-1, keepdim=True)  # (b, V, L), (b, V, 1)
        before, after = (torch.arange(count, device=ids.device) for count in (self.before, self.after))
        prefix, suffix = ids[..., : self.before], ids.gather(-1, lengths - self.after + after)
        found = torch.cat([prefix, suffix, lengths - self.before - self.after], -1).flatten(0, 1)  # (b V, p + s + 1)
        distinct, row = torch.unique(found, dim=0, return_inverse=True)
        templates, n = distinct[:, :-1], distinct[:, -1:]  # (U, p + s), (U, 1)
        positions = self.first + torch.cat([before.expand(len(n), -1), self.before + n + after], 1)  # (U, p + s)
        device = ctx.encoder.device
        templates, present, positions = (placed(t, device) for t in (templates, torch.ones_like(templates), positions))
        pooled = ctx.encoder.pool_rows(templates, present, positions=positions)
        delta: Tensor = ctx.encoder.post(pooled)[placed(row, device)]  # (b V, D)
        return delta.view(*ids.shape[:2], -1)
