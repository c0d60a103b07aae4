"""SG-OPT: Self-Guided Contrastive Learning for BERT Sentence Representations (Kim et al., arXiv:2106.07345)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.heads import Dense
from cse.encoder.model import Encoder
from cse.errors import Count, NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.blocks import by_rows
from cse.objectives.parts.candidates import ONE_ROW
from cse.objectives.parts.functional import Contrast, contrast, cosine_matrix
from cse.teachers.copy import EncoderCopy


class SGOPT(Objective):
    """Contrast of a sentence's vector with the layers of a copy of the encoder that stands still: no second view.

        L = mean_{il} - log e^{s(c_i, h_il)} / ( e^{s(c_i, h_il)} + sum_{m != i} sum_n e^{s(c_i, h_mn)} )
            + lambda sum |theta - theta_0|^2,        s = cos / t

    c is the vector of the encoder, and h_l the mean over the tokens of layer l of the encoder before training, from l =
    0, its embeddings, to the last. Both pass one head, which is trained and not exported. theta are the weights of the
    encoder, theta_0 the same before training; the distance is a sum, not a mean, so that lambda depends on their
    number. Only the first view of a row is used.

    Args:
        temperature: t, dimensionless, > 0 (authors' program: 0.01).
        distance_weight: lambda, >= 0 (authors' program: 0.1).
        head_width: The width of both layers of the head (authors' program: 4,096).
        guide_dropout: Leave the dropout of the copy on, as the authors' program does.

    Deviations:
        The authors' program freezes the embeddings; here they are trained. If an adapter is trained instead of the
        backbone, the distance is that of the adapter's weights.

    Source: galsang/SG-BERT, loss.py:136-220, 277-333.
    """

    cacheable = False
    weighs_rows = True

    temperature: Positive = 0.01
    distance_weight: NotNegative = 0.1
    head_width: Count = 4096
    guide_dropout: bool = False

    def setup(self, encoder: Encoder) -> None:
        self.guide = EncoderCopy(pooler="mean", dropout=self.guide_dropout)
        super().setup(encoder)
        wide = self.head_width
        self.head = nn.Sequential(Dense(encoder.dim, wide, activation="gelu"), Dense(wide, wide, activation="gelu"))

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        every = range(ctx.encoder.depth + 1)
        layers = self.guide.embed_layers(batch.with_views([0]), ctx, every)[:, 0]  # (B, layers, D)
        contrastive = self.contrast(self.head(views.anchor), self.head(ctx.encoder.head(layers)), batch)
        distance = self.distance(ctx.encoder)
        metrics = {"contrastive": contrastive.loss.detach(), "distance": distance.detach()}
        return LossOutput(contrastive.loss + self.distance_weight * distance, metrics)

    def contrast(self, anchor: Tensor, layers: Tensor, batch: Batch) -> Contrast:
        """The first term, given what the head makes of the anchors (B, D') and of the copy's layers (B, layers, D')."""
        size, count = layers.shape[:2]
        if size < 2:
            raise ValueError(ONE_ROW)
        row = torch.arange(size, device=anchor.device)

        def loss(some: Tensor, number: Tensor, others: Tensor) -> Contrast:
            logits = cosine_matrix(some, others) / self.temperature  # (A, B layers)
            own = number[:, None] == row  # (A, B)
            mask = None
            if batch.text_id is not None:
                text = batch.text_id[:, 0]
                mask = ((text[number, None] != text) | own).repeat_interleave(count, 1)  # (A, B layers)
            weight = None if batch.weight is None else batch.weight[number]
            target = own.to(logits.dtype).repeat_interleave(count, 1)  # (A, B layers)
            return contrast(logits, target, mask=mask, weight=weight, denominator="self")

        return by_rows(loss, (anchor, row), size * count, (layers.flatten(0, 1),))

    def distance(self, encoder: Encoder) -> Tensor:
        """() the squared distance of the weights that the encoder trains, but for its head, from where they started."""
        start = dict(self.guide.encoder.named_parameters())
        moved = [n for n, p in encoder.named_parameters() if p.requires_grad and not n.startswith("head.")]
        own = dict(encoder.named_parameters())
        return torch.stack([F.mse_loss(own[name], start[name], reduction="sum") for name in moved]).sum()
