"""DCLR: Debiased Contrastive Learning of Unsupervised Sentence Representations (Zhou et al., arXiv:2205.00656)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed
from cse.encoder.model import Encoder
from cse.encoder.poolers import PoolerName
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, extend, in_batch
from cse.objectives.parts.functional import all_entries_bce, contrast, cosine_matrix
from cse.teachers.frozen import FrozenViewEncoder


class DCLR(Objective):
    """SimCSE without the negatives that another model finds too similar, and with noise as further negatives.

        l_i = - log e^{s(h_i, h+_i)} / ( e^{s(h_i, h+_i)} + sum_{j != i} a_ij e^{s(h_i, h+_j)} + sum_k e^{s(h_i, n_k)} )
        a_ij = 0 if cos_C(x_i, x_j) > phi, else 1;        s = cos / t
        n   <- n + b g / |g|,    g = dl/dn,    a few times from n ~ N(0, I)

    The paper's instance weighting, with weights a from a frozen complementary encoder C, and its noise-based negatives:
    gradient ascent moves them to where they raise the loss most, and then they are constants (ACL 2022, section 4). If
    rows have weights (`Batch.weight`), the mean over rows is weighted, and the ascent follows the weighted loss.

    Args:
        complement: The complementary encoder, a `cse.teachers.frozen.FrozenViewEncoder`: a checkpoint's folder,
            `asset:NAME` or a Hub id, with the vocabulary of the encoder (paper: the released unsupervised SimCSE).
            None: the encoder's backbone before training, with the encoder's pooler.
        complement_pooler: The pooler of a plain Hugging Face model, which does not name one; None is `mean`.
        temperature: t, dimensionless, > 0 (paper: 0.05).
        threshold: phi, a cosine (run.sh: 0.9 for BERT, 0.85 for RoBERTa). 1 removes nothing.
        noise_ratio: Noise vectors per row of the batch (run.sh: 1 for BERT-base to 5 for RoBERTa-large).
        ascent_steps: Number of times the noise moves (authors' program: 4).
        ascent_rate: b (authors' program: 0.001).
        form: `removal` is the loss above. `weighted_logits` is the authors' program: a multiplies the logits, so that a
            removed negative still adds e^0, and the loss is the binary cross-entropy of the softmax, averaged over
            all B (B + K) entries.

    Deviations:
        The authors' program gives neither encoder an attention mask, leaves the complement's dropout on, and keeps the
        backbone's next-sentence pooler. Here padding is masked, the complement is in evaluation mode and compared by
        the vectors that it exports, and heads belong to the encoder. phi is a cosine at any temperature (theirs: 20 phi
        on logits). As in theirs, noise moves as if no negative were removed.

    Source: RUCAIBox/DCLR, simcse/models.py:676-710.
    """

    weighs_rows = True

    complement: str | None = None
    complement_pooler: PoolerName | None = None
    temperature: Positive = 0.05
    threshold: Annotated[float, "in [-1, 1]"] = 0.9
    noise_ratio: NotNegative = 1.0
    ascent_steps: Annotated[int, ">= 0"] = 4
    ascent_rate: float = 1e-3
    form: Literal["removal", "weighted_logits"] = "removal"

    def setup(self, encoder: Encoder) -> None:
        source, pooler = self.complement, self.complement_pooler
        if source is None:
            source, pooler = encoder.source, pooler or encoder.pooler
        self.teacher = FrozenViewEncoder(source=source, pooler=pooler)
        super().setup(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        size, width = views.anchor.shape
        noise = torch.randn(int(size * self.noise_ratio), width, generator=ctx.generator)  # (K, D')
        noise = placed(noise, views.anchor.device).to(torch.promote_types(views.anchor.dtype, noise.dtype))
        vectors = self.teacher.embed(batch, ctx)  # (B, V, Dt)
        judged = in_batch(Views.split(vectors, vectors, batch.num_positives), batch).similarity  # (B, N)
        return self.loss(views, batch, judged, noise)

    def loss(self, views: Views, batch: Batch, judged: Tensor, noise: Tensor) -> LossOutput:
        """The loss, given the complement's cosines (B, N) of anchors and candidates, and the initial noise (K, D')."""
        pairs = in_batch(views, batch)
        removed = (judged.clamp(max=1.0) > self.threshold) & (pairs.positive == 0)  # (B, N)
        noise = self._ascend(noise, views.anchor.detach(), pairs, batch.weight)
        mask = torch.ones_like(removed) if pairs.mask is None else pairs.mask
        if self.form == "removal":
            kept = pairs._replace(mask=mask & ~removed)
        else:
            kept = pairs._replace(similarity=pairs.similarity.masked_fill(removed, 0.0), mask=mask)
        every = extend(kept, cosine_matrix(views.anchor, noise))
        logits = every.similarity / self.temperature  # (B, N + K)
        if self.form == "removal":
            loss = contrast(logits, every.positive, mask=every.mask, weight=batch.weight).loss
        else:
            assert every.mask is not None
            loss = all_entries_bce(logits, every.positive, every.mask, batch.weight)
        return LossOutput(loss, {"removed": removed.float().sum(1).mean()})

    def _ascend(self, noise: Tensor, anchor: Tensor, pairs: InBatch, weight: Tensor | None = None) -> Tensor:
        """Noise (K, D') after its ascent on the loss without removed negatives."""
        pairs = pairs._replace(similarity=pairs.similarity.detach())
        for _ in range(self.ascent_steps if len(noise) else 0):
            with torch.enable_grad():
                noise = noise.detach().requires_grad_()
                every = extend(pairs, cosine_matrix(anchor, noise))
                logits = every.similarity / self.temperature  # (B, N + K)
                loss = contrast(logits, every.positive, mask=every.mask, weight=weight).loss
                (gradient,) = torch.autograd.grad(loss, noise)
            noise = noise.detach() + self.ascent_rate * F.normalize(gradient, dim=-1, eps=1e-30)
        return noise
