"""Adaptive layers: 2D Matryoshka Sentence Embeddings (Li et al., 2024, arXiv:2402.14776), the part over layers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from cse.batch import Batch, EncoderOutput, LossOutput, Views
from cse.errors import NotNegative
from cse.interfaces import Objective, StepContext
from cse.objectives.matryoshka import draw
from cse.objectives.parts.candidates import views_of
from cse.objectives.parts.functional import ratio
from cse.objectives.parts.wrapper import Wrapper


class AdaptiveLayer(Wrapper):
    """An objective's loss on the last layer and on earlier ones, which also learn from the last.

        L = w_last L(N) + sum_{l in S} [ w_prior w(l) L(l) / |S| + w_kl t KL( p_N || p_l ) ]
        p_l = softmax(z_l / t) over the channels of a vector; the gradient of p_N is stopped

    Section 3 of the paper, in the form of sentence-transformers. S are layers below N, drawn in each step; layer 0 is
    the output of the embeddings. The divergence is the mean over all views, those of heavier rows counting more if
    rows have weights; it is not divided by |S|. Users may then train or load the encoder with fewer `layers`.

    Args:
        term: The objective. It must have no weights of its own.
        layers_per_step: |S|, the number of earlier layers in a step (paper: 1). None: all; 0: the last layer alone.
        last_weight: w_last (1).
        prior_weight: w_prior (1).
        kl_weight: w_kl (1).
        kl_temperature: t, >= 0 (0.3); 0 leaves the divergence out.
        layer_weighting: w(l): `uniform` 1, `linear` 1 / (1 + l), `log` 1 / (1 + ln(1 + l)).

    Deviations:
        An earlier layer's vector is that of the encoder cut after it, so the final norm of a causal backbone is
        applied. sentence-transformers pools the states before the norm.

    Source: sentence-transformers 6.2.0, losses/adaptive_layer.py, AdaptiveLayerLoss.
    """

    changes_vectors = True

    term: Objective
    layers_per_step: Annotated[int, ">= 0"] | None = 1
    last_weight: NotNegative = 1.0
    prior_weight: NotNegative = 1.0
    kl_weight: NotNegative = 1.0
    kl_temperature: NotNegative = 0.3
    layer_weighting: Literal["uniform", "linear", "log"] = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cacheable, self.uses_views, self.encodes_views = False, False, True

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        layers = draw(ctx.encoder.depth, self.layers_per_step, ctx.generator)
        ids, mask = batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)
        last, *prior = ctx.encoder.layer_embeddings(ids, mask, [ctx.encoder.depth, *layers])
        whole, teacher = self._on(last, batch, ctx)
        loss, parts = self.last_weight * whole.loss, {"last_loss": whole.loss.detach()}
        for layer, output in zip(layers, prior, strict=True):
            own, student = self._on(output, batch, ctx)
            weights = {"uniform": 1.0, "linear": 1 / (1 + layer), "log": 1 / (1 + math.log(1 + layer))}
            loss = loss + self.prior_weight * weights[self.layer_weighting] * own.loss / len(layers)
            parts["prior_loss"] = parts.get("prior_loss", 0.0) + own.loss.detach() / len(layers)
            if self.kl_temperature > 0:
                t = self.kl_temperature
                divergence = channel_divergence(teacher.detach(), student, t, view_weight(batch, teacher))
                loss = loss + self.kl_weight * t * divergence
                parts["kl"] = parts.get("kl", 0.0) + divergence.detach() / len(layers)
        return LossOutput(loss, parts | dict(whole.metrics))

    def _on(self, output: EncoderOutput, batch: Batch, ctx: StepContext) -> tuple[LossOutput, Tensor]:
        """The objective on one layer's vectors, and the projected vectors (B, V, D') of all processes."""
        views = views_of(output, batch, ctx)
        return self.term(views, batch, ctx), views.projected


def channel_divergence(teacher: Tensor, student: Tensor, temperature: float, weight: Tensor) -> Tensor:
    """KL( softmax(teacher / t) || softmax(student / t) ) over the channels of vectors (B, V, D').

    Returns:
        The mean over views, weighted by `weight` (B, V); 0 if all weights are 0.
    """
    wide = torch.float64 if teacher.dtype == torch.float64 else torch.float32
    log_p, log_q = ((part / temperature).log_softmax(-1, dtype=wide) for part in (teacher, student))
    each = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, V)
    return ratio((each * weight).sum(), weight.sum())


def view_weight(batch: Batch, like: Tensor) -> Tensor:
    """(B, V) the weight of each view's row; 0 where a row has no such view."""
    weight = torch.ones(like.shape[:2], dtype=torch.float32, device=like.device)
    if batch.view_mask is not None:
        weight = weight * batch.view_mask
    return weight if batch.weight is None else weight * batch.weight[:, None]
