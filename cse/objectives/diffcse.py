"""DiffCSE: difference-based contrastive learning for sentences (Chuang et al., NAACL 2022, arXiv:2204.10298)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import require_at_least, require_positive
from cse.interfaces import Objective, StepContext
from cse.objectives.candidates import in_batch
from cse.objectives.functional import contrast
from cse.objectives.rtd import Discriminator, Generator


class DiffCSE(Objective):
    """SimCSE's contrast, and the detection of tokens that a masked LM replaced, given the sentence's vector.

        L = L_contrast + lambda L_RTD
        L_RTD = - 1/T sum_t log D_{e_t}(x''_t | h),   e_t = 1 where x''_t differs from x_t, else 0,   x'' = G(masked x)

    Section 3 of the paper. h is the projected vector, which the contrast compares and the discriminator D is given in
    place of its first embedding; the gradient of both terms flows through it into the encoder. The projector (Linear
    to 2H, batch norm, ReLU, Linear to H, batch norm without weights), D and its head are trained with the encoder and
    left out of the model. D starts from the backbone; the generator G is frozen. All views of a row take part in both
    terms, each with a mask of its own.

    Args:
        generator: The masked LM, with the backbone's tokenizer: `asset:NAME`, a folder or a Hub id (authors:
            distilbert-base-uncased for BERT, distilroberta-base for RoBERTa).
        temperature: Of the contrast, > 0 (paper: 0.05).
        rtd_weight: lambda (paper: 0.005 for STS, 0.05 for transfer tasks).
        generation: `argmax` takes the generator's likeliest token (authors' program), `sample` draws one (paper).
        positions: Where the generator's token is put: at `all` positions (authors' program), or where the text was
            `masked` and nowhere else (paper).
        padding: Whether the mean over T counts padding, as never replaced (authors' program), or leaves it out.
        generator_dropout: Leave the generator's dropout on. Off, its tokens are a function of the masked text.

    Raises:
        ValueError: The temperature is not positive, lambda is negative, or a batch has no in-batch negatives.
        UserError: The generator does not fit the backbone, or the backbone has no embeddings to put a vector in.

    Deviations:
        The authors' program never puts the generator in eval mode, so that its argmax is stochastic; that is
        `generator_dropout=True`. Batch norm takes its statistics over the batch of all processes, not of each, and
        keeps none. Padding is id 0 in the discriminator's text, as in theirs, which is <s> and not padding in RoBERTa.

    Source: voidism/DiffCSE, diffcse/models.py:35-50, 175-187, 257-273.
    """

    requires = frozenset({"masked_ids"})

    def __init__(
        self,
        *,
        generator: str,
        temperature: float = 0.05,
        rtd_weight: float = 0.005,
        generation: Literal["argmax", "sample"] = "argmax",
        positions: Literal["all", "masked"] = "all",
        padding: Literal["counted", "excluded"] = "counted",
        generator_dropout: bool = False,
    ) -> None:
        super().__init__()
        require_positive("objective", temperature=temperature)
        require_at_least(0, "objective", rtd_weight=rtd_weight)
        self.temperature, self.rtd_weight = temperature, rtd_weight
        self.generator, self.generator_dropout = generator, generator_dropout
        self.generation, self.positions, self.padding = generation, positions, padding
        if positions == "masked":
            self.requires = frozenset({"masked_ids", "mlm_labels"})

    def setup(self, encoder: Encoder) -> None:
        """Build discriminator, projector and generator."""
        self.discriminator = Discriminator(encoder)
        self.projector = projector(encoder.dim, encoder.hidden_size)
        self.masked_lm = Generator(self.generator, encoder, dropout=self.generator_dropout)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The contrast of the batch's rows, and the detection over this process's tokens, summed over processes."""
        rows = torch.cat([views.anchor[:, None], views.positive, views.negative], 1)  # (B, V, D')
        projected = self.projector(rows.flatten(0, 1)).view(*rows.shape[:2], -1)  # (B, V, H)
        pairs = in_batch(Views.split(projected, views.embedding, batch.num_positives), batch)
        contrastive = contrast(pairs.cosine / self.temperature, pairs.positive, mask=pairs.mask)
        rtd, metrics = self.detection(projected, batch, ctx)
        metrics |= {"contrastive": contrastive.loss.detach(), "skipped": contrastive.skipped.float()}
        return LossOutput(contrastive.loss + self.rtd_weight * rtd, metrics)

    def detection(self, projected: Tensor, batch: Batch, ctx: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """L_RTD given the vectors (B, V, H) of the whole batch, and what to log."""
        ids, mask = batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)  # (n, L) of this process
        length = ctx.all_max(ids.shape[1])  # padding counts, so that every process must pad alike
        edited = self.edited(batch, ctx, len(projected), length) * mask
        replaced = ((edited != ids) & (mask == 1)).long()
        edited, mask, replaced = (F.pad(t, (0, length - ids.shape[1])) for t in (edited, mask, replaced))

        logits = self.discriminator(edited, mask, projected[ctx.local_rows].flatten(0, 1)).float()  # (n, length, 2)
        counted = torch.ones_like(mask) if self.padding == "counted" else mask
        losses = F.cross_entropy(logits.flatten(0, 1), replaced.flatten(), reduction="none") * counted.flatten()
        rtd = ctx.all_sum(losses.sum()) / ctx.all_sum(counted.sum().float())

        tokens = ctx.all_sum(mask.sum().float())
        right = ctx.all_sum(((logits.argmax(-1) == replaced) & (mask == 1)).sum().float())
        changed = ctx.all_sum(replaced.sum().float())
        return rtd, {"rtd": rtd.detach(), "rtd_accuracy": right / tokens, "replaced": changed / tokens}

    def edited(self, batch: Batch, ctx: StepContext, size: int, length: int) -> Tensor:
        """(n, L) x'': this process's texts with the generator's tokens in them; the first token always stays.

        Args:
            batch: The batch.
            ctx: The step.
            size: B, of all processes.
            length: The longest L of all processes.
        """
        ids, mask = batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)
        masked = batch.require("masked_ids", "DiffCSE").flatten(0, 1)
        chance = None
        if self.generation == "sample":  # the same draw for a token on one process and on many
            drawn = torch.rand(size, batch.views, length, generator=ctx.generator)[ctx.local_rows]
            chance = drawn.flatten(0, 1)[:, : ids.shape[1]].to(ids.device)
        filled = self.masked_lm(masked, mask, chance)
        if self.positions == "masked":
            chosen = batch.require("mlm_labels", "DiffCSE").flatten(0, 1) != -100
            filled = torch.where(chosen, filled, ids)
        return torch.cat([ids[:, :1], filled[:, 1:]], 1)


def projector(width: int, hidden: int) -> nn.Sequential:
    """The layers between pooler and contrast: (n, width) -> (n, hidden), by way of twice that."""
    return nn.Sequential(
        nn.Linear(width, 2 * hidden, bias=False),
        nn.BatchNorm1d(2 * hidden, track_running_stats=False),
        nn.ReLU(inplace=True),
        nn.Linear(2 * hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden, affine=False, track_running_stats=False),
    )
