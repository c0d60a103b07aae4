"""CoT-MAE (Wu et al., arXiv:2208.07670), query-as-context (arXiv:2212.09598), SimLM (Wang et al., arXiv:2207.02578)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cse import distributed
from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed, places
from cse.encoder.language_models import TokenGenerator
from cse.encoder.model import Encoder
from cse.errors import Count, Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.masked_lm import MaskedLMHead, token_loss
from cse.objectives.parts.decoders import CausalDecoder, FirstDecoder, embedded


class BottleneckDecoder(Objective):
    """Masked language modeling, and a weak decoder of a second text that needs the vector of the first one.

        L = - 1/M sum_m log p(a_m | A') - w 1/N sum_n log p(b_n | B', c),   c = last state of the first token of A'

    The views of a row are read in twos: A is the first and B the second, A the third and B the fourth. A' and B' are
    their masked ids (`cse.data.Masked`). The encoder reads A'; the decoder reads the output of the backbone's
    embeddings for B', with c in the first place. Both predict through the backbone's masked-LM head, which shares the
    input embeddings; M and N count the predicted tokens of the batch. Decoder and head are trained with the encoder;
    the head is saved with the backbone, and the decoder is not. If rows have weights (`Batch.weight`), a token counts
    as much as its row. The backbone's embeddings have positions.

        CoT-MAE            B another span of A's document, 2 new layers, `masked`
        query-as-context   B a question that A answers, unmasked, 1 new layer, `next`, window 3
        SimLM              B is A, masked in more places, 2 copies of the last layers, `all`, a generator

    Args:
        decoder_layers: Number of layers of the decoder, >= 1.
        decoder_start: The decoder's layers are `new`, or copies of the backbone's `last` ones.
        decoder_weight: w, > 0.
        predict: The tokens that are predicted: `masked` ones; `all` but special ones, masked or not, in A and in B; or
            the masked ones of A and, from left to right, each `next` one of B.
        window: With `next`, the number of positions that a token of B sees beside the first: itself and those directly
            before it, >= 1. None: all before it.
        generator: A frozen masked LM with the backbone's tokenizer, `asset:NAME`, a folder or a Hub id, from which the
            tokens at masked places are drawn (SimLM: ELECTRA's generator). None: the masked ids are read as they are.

    Deviations:
        The dropout of SimLM's generator is off; in the authors' program, training mode turns it on. The decoder of
        query-as-context has the backbone's dropout, and attention weights that start as its linear maps do.

    Source: caskcsg/ir, cotmae/modeling.py:43-95, cotmae-qc/cotmae/modeling.py:76-255; microsoft/unilm,
    simlm/src/models/rlm.py:44-116.
    """

    requires = frozenset({"masked_ids", "mlm_labels"})
    cacheable = False
    uses_views = False
    contrasts = False
    weighs_rows = True

    decoder_layers: Count = 2
    decoder_start: Literal["new", "last"] = "new"
    decoder_weight: Positive = 1.0
    predict: Literal["masked", "all", "next"] = "masked"
    window: Count | None = None
    generator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and self.predict != "next":
            raise UserError(
                f"objective.window is {self.window}, and objective.predict is {self.predict}, whose decoder sees the "
                "whole text\nfix: remove objective.window, or set objective.predict to next"
            )
        if self.predict == "next" and self.decoder_start != "new":
            raise UserError(
                f"objective.decoder_start is {self.decoder_start}, and the layers that predict the next token are not "
                "like the backbone's\nfix: set objective.decoder_start to new"
            )
        if self.predict == "all" and self.generator is None:
            self.requires = frozenset({"masked_ids"})

    def setup(self, encoder: Encoder) -> None:
        self.decoder = (
            CausalDecoder(encoder, layers=self.decoder_layers, window=self.window)
            if self.predict == "next"
            else FirstDecoder(encoder, layers=self.decoder_layers, start=self.decoder_start)
        )
        self.head = MaskedLMHead.of(encoder, encoder.backbone.config.vocab_size)
        self.special = list(encoder.tokenizer.all_special_ids)
        if self.generator is not None:
            self.masked_lm = TokenGenerator(
                self.generator, encoder.tokenizer, dropout=False, option="objective.generator"
            )

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if batch.views % 2:
            raise ValueError(f"it reads the views of a row in twos, and rows have {batch.views}")
        ids, target, row = self.read(batch, ctx), self.targets(batch), self.rows(batch)
        if batch.view_mask is not None:
            target = target.masked_fill(~batch.view_mask[ctx.local_rows][..., None], -100)
        parts = [t[:, first::2].flatten(0, 1) for t in (ids, batch.attention_mask, target) for first in (0, 1)]
        ids_a, ids_b, mask_a, mask_b, target_a, target_b = parts  # (n, L), n = b V / 2
        wanted = target_a != -100
        places = wanted.clone()
        places[:, 0] = True
        states = ctx.encoder.token_states(ids_a, mask_a, places)  # (n + M, H)
        first = places.nonzero()[:, 1] == 0  # (n + M,)
        device = states.device
        logits = self.logits(states[placed((~first).nonzero()[:, 0], device)], ctx)  # (M, vocabulary)
        at_wanted = placed(row[wanted.nonzero()[:, 0]], device)
        own, accuracy = token_loss(logits, placed(target_a[wanted], device), at_wanted, batch, ctx)
        vector = states[placed(first.nonzero()[:, 0], device)]  # (n, H)
        rebuilt, hits = self.rebuild(vector, ids_b, mask_b, target_b, batch, ctx)
        metrics = {"mlm_loss": own.detach(), "mlm_accuracy": accuracy}
        metrics |= {"decoder_loss": rebuilt.detach(), "decoder_accuracy": hits}
        return LossOutput(own + self.decoder_weight * rebuilt, metrics)

    def rebuild(
        self, vector: Tensor, ids: Tensor, mask: Tensor, target: Tensor, batch: Batch, ctx: StepContext
    ) -> tuple[Tensor, Tensor]:
        """The mean loss of the decoder, and its accuracy, from vectors (n, H), and ids, mask and targets (n, L)."""
        device = vector.device
        states = self.decoder(embedded(ctx.encoder, placed(ids, device)), placed(mask, device), vector)  # (n, L, H)
        wanted = target != -100
        row = placed(self.rows(batch)[wanted.nonzero()[:, 0]], device)  # (N,)
        logits = self.logits(states[places(wanted, device)], ctx)
        return token_loss(logits, placed(target[wanted], device), row, batch, ctx)

    def logits(self, states: Tensor, ctx: StepContext) -> Tensor:
        """(M, vocabulary) of states (M, H)."""
        return self.head(states, ctx.encoder.backbone.get_input_embeddings().weight)

    def rows(self, batch: Batch) -> Tensor:
        """(n,) the row of the batch that each two of views belong to."""
        return torch.arange(batch.size, device=batch.input_ids.device).repeat_interleave(batch.views // 2)

    def read(self, batch: Batch, ctx: StepContext) -> Tensor:
        """(b, V, L) the ids that encoder and decoder read: the masked ones, in whose gaps the generator may write."""
        masked = batch.require("masked_ids", "BottleneckDecoder")
        if self.generator is None:
            return masked
        size, length = batch.size * distributed.world_size(), ctx.all_max(masked.shape[2])
        drawn = torch.rand(size, batch.views, length, generator=ctx.generator)[ctx.local_rows]
        device = ctx.encoder.backbone.device
        chance = placed(drawn.flatten(0, 1)[:, : masked.shape[2]], device)  # the same on one process and on many
        read = placed(masked.flatten(0, 1), device)
        filled = self.masked_lm(read, batch.attention_mask.flatten(0, 1), chance).cpu()
        gaps = batch.require("mlm_labels", "BottleneckDecoder") != -100
        return torch.where(gaps, filled.view_as(masked), masked)

    def targets(self, batch: Batch) -> Tensor:
        """(b, V, L) the token to predict at each place, or -100. The first place is the vector's."""
        ids, mask = batch.input_ids, batch.attention_mask
        if self.predict == "all":
            special = torch.isin(ids, torch.tensor(self.special, device=ids.device))
            target = ids.masked_fill(special | (mask == 0), -100)
        else:
            target = batch.require("mlm_labels", "BottleneckDecoder").clone()
        target[:, :, 0] = -100
        if self.predict == "next":
            following = F.pad(ids.masked_fill(mask == 0, -100)[:, :, 1:], (0, 1), value=-100)
            target[:, 1::2] = following[:, 1::2]
        return target
