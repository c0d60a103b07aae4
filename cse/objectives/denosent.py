"""DenoSent: A Denoising Objective for Sentence Representation (Wang et al., AAAI 2024, arXiv:2401.13621)."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed, places
from cse.encoder.model import Encoder
from cse.errors import Count, NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.masked_lm import MaskedLMHead
from cse.objectives.parts.candidates import info_nce
from cse.objectives.parts.decoders import CrossDecoder
from cse.objectives.parts.functional import ratio


class DenoSent(Objective):
    """SimCSE's contrast, and a decoder that rebuilds the positive from its noised embeddings and the anchor's vector.

        L = w_c L_contrast + w_g L_rebuild
        L_rebuild = - 1/T sum_t log p(x+_t | noised x+, m),   m = P h

    h is the vector of the anchor that the encoder exports, and P a linear map, whose output m the contrast compares.
    The decoder (`CrossDecoder`) gets the output of the backbone's embeddings for the positive x+,
    under dropout and without gradient. What it gives goes through the backbone's masked-LM head, which shares the input
    embeddings. T counts every token of the batch that is not padding, those of the template and special ones too. A
    row of one text rebuilds itself. P, decoder and head are trained with the encoder and are not exported. If rows have
    weights (`Batch.weight`), the mean over rows is weighted, and in L_rebuild a token counts as much as its row.

    The anchor is a noised text, such as one without some words (`cse.data.AugmentedViews`, `anchor_augmentations`), and
    the positive the text; the authors read the vector at the mask token of the template `"{text}" means {mask}.` The
    backbone's embeddings have positions.

    Args:
        temperature: Temperature of the contrast, > 0 (authors' command: 0.05).
        contrast_weight: w_c, >= 0 (authors' command: 5); 0 leaves the contrast out, and then a row may have one text.
        rebuild_weight: w_g, >= 0 (authors' command: 7).
        decoder_layers: Number of layers of the decoder, >= 1 (authors' command: 16).
        decoder_heads: Attention heads of a layer (authors' command: 1).
        feed_forward: Width of the feed-forward part of a layer (authors' program: 2048).
        input_dropout: Dropout of the decoder's input, in [0, 1) (authors' command: 0.825).
        decoder_dropout: Dropout within the decoder, in [0, 1) (authors' program: 0.1).

    Deviations:
        The decoder's layers start from different weights; in the authors' program they start as copies of one. Their
        noise is a back-translation that is made before training.

    Source: xinghaow99/DenoSent, model.py:16-30, 79-160.
    """

    cacheable = False
    uses_views = False
    encodes_views = True
    weighs_rows = True

    temperature: Positive = 0.05
    contrast_weight: NotNegative = 5.0
    rebuild_weight: NotNegative = 7.0
    decoder_layers: Count = 16
    decoder_heads: Count = 1
    feed_forward: Count = 2048
    input_dropout: Annotated[float, "in [0, 1)"] = 0.825
    decoder_dropout: Annotated[float, "in [0, 1)"] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.contrasts = self.contrast_weight > 0
        self.noise = nn.Dropout(self.input_dropout)

    def setup(self, encoder: Encoder) -> None:
        self.projector = nn.Linear(encoder.dim, encoder.hidden_size)
        nn.init.normal_(self.projector.weight, std=0.02)
        nn.init.zeros_(self.projector.bias)
        self.decoder = CrossDecoder(
            encoder,
            layers=self.decoder_layers,
            heads=self.decoder_heads,
            feed_forward=self.feed_forward,
            dropout=self.decoder_dropout,
        )
        self.head = MaskedLMHead.of(encoder, encoder.backbone.config.vocab_size)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        ids, mask = batch.input_ids, batch.attention_mask  # (b, V, L)
        states = ctx.encoder.states(ids.flatten(0, 1), mask.flatten(0, 1))
        output = ctx.encoder.pooled(states, placed(mask.flatten(0, 1), ctx.encoder.device))
        vectors = self.projector(output.projected).view(*ids.shape[:2], -1)  # (b, V, H)
        target = min(1, batch.views - 1)  # the positive, or the only text
        embedded = states.hidden[0].view(*ids.shape, -1)[:, target].detach()  # (b, L, H)
        own = mask[:, target]  # (b, L)
        logits = self.rebuilt(embedded, own, vectors[:, 0], ctx)  # (T, vocabulary) of this process
        rebuild, accuracy = self.cross_entropy(logits, ids[:, target], own, batch, ctx)
        metrics = {"rebuild": rebuild.detach(), "rebuild_accuracy": accuracy}
        if not self.contrast_weight:
            return LossOutput(self.rebuild_weight * rebuild, metrics)
        embedding = ctx.gather(output.embedding.view(*ids.shape[:2], -1))  # (B, V, D)
        pairs = Views.split(ctx.gather(vectors), embedding, batch.num_positives)
        contrastive = info_nce(pairs, batch, self.temperature)
        metrics |= {"contrastive": contrastive.loss.detach(), "skipped": contrastive.skipped.float()}
        return LossOutput(self.contrast_weight * contrastive.loss + self.rebuild_weight * rebuild, metrics)

    def rebuilt(self, embedded: Tensor, mask: Tensor, vector: Tensor, ctx: StepContext) -> Tensor:
        """Logits (T, vocabulary) of the T tokens of texts, from their embeddings (n, L, H), mask and vectors (n, H)."""
        device = vector.device
        states = self.decoder(self.noise(embedded), placed(mask, device), vector)[places(mask == 1, device)]  # (T, H)
        return self.head(states, ctx.encoder.backbone.get_input_embeddings().weight)

    def cross_entropy(
        self, logits: Tensor, ids: Tensor, mask: Tensor, batch: Batch, ctx: StepContext
    ) -> tuple[Tensor, Tensor]:
        """L_rebuild, and the share of tokens that are the most probable ones, over all processes."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        row, _ = places(mask == 1, logits.device)  # (T,)
        tokens = placed(ids[mask == 1], logits.device)  # (T,)
        weight = torch.ones_like(logits[:, 0])
        if batch.weight is not None:
            weight = batch.weight[ctx.local_rows].to(logits.dtype)[row]
        losses = F.cross_entropy(logits, tokens, reduction="none") * weight
        right = ctx.all_sum((logits.argmax(-1) == tokens).sum().float())
        loss = ratio(ctx.all_sum(losses.sum()), ctx.all_sum(weight.sum()))
        return loss, right / ctx.all_sum(weight.new_full((), len(tokens), dtype=torch.float32))
