"""Copies of the encoder in training: one that stands still, and one that follows by a moving average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cse.batch import Batch
from cse.encoder.model import Encoder
from cse.encoder.poolers import PoolerName, get_pooler
from cse.errors import Share
from cse.interfaces import StepContext, Teacher
from cse.teachers.frozen import view_vectors

if TYPE_CHECKING:
    from typing_extensions import Self


class Average(nn.Module):
    """A copy of a module that follows it by a moving average. It has no gradient and stays in evaluation mode.

        a <- m a + (1 - m) w        for each weight w that the module trains

    What the module does not train is shared with it, not copied. The copy is part of the module tree, so that the state
    of a run holds it. It is the same on every process, as the module is.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = _copied(module)

    @torch.no_grad()
    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    @torch.no_grad()
    def follow(self, module: nn.Module, momentum: float) -> None:
        """Take a step towards the module; `momentum` is m."""
        for own, other in zip(self.module.parameters(), module.parameters(), strict=True):
            if own is not other:
                own.lerp_(other, 1 - momentum)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


class EncoderCopy(Teacher):
    """A copy of the encoder as it is before training, which reads the token ids of the views.

    It stands still, or follows the encoder by a moving average, m copy + (1 - m) encoder after each step. A copy that
    stands still is outside the module tree, and a resumed run makes it again; one that moves is part of the state of a
    run (see `Average`). No optimizer, checkpoint or DDP wrapper trains or exports either.

    Args:
        momentum: m, in [0, 1]. None: the copy stands still.
        pooler: The pooler of the copy. None: that of the encoder.
        dropout: Whether the dropout of a copy that stands still is on.

    Raises:
        UserError: The momentum is outside [0, 1].
    """

    momentum: Share | None = None
    pooler: PoolerName | None = None
    dropout: bool = False

    def setup(self, encoder: Encoder) -> None:
        if self.momentum is not None:
            self.average = Average(encoder)
        else:
            self._held = (_copied(encoder).train(self.dropout),)  # a tuple hides it from nn.Module
        if self.pooler is not None:
            self.encoder.pooler, self.encoder.pool = self.pooler, get_pooler(self.pooler)

    @property
    def encoder(self) -> Encoder:
        """The copy."""
        copy = self._held[0] if self.momentum is None else self.average.module
        assert isinstance(copy, Encoder)
        return copy

    def follow(self, encoder: Encoder, momentum: float | None = None) -> None:
        """Take a step towards the encoder, if the copy moves; `momentum` takes the place of the constructor's."""
        if self.momentum is not None:
            self.average.follow(encoder, self.momentum if momentum is None else momentum)

    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        return view_vectors(self.encoder, batch, ctx)

    @torch.no_grad()
    def embed_layers(self, batch: Batch, ctx: StepContext, layers: Sequence[int]) -> Tensor:
        """The vectors (B, V, len(layers), Dt) of the views of all processes, as the copy cut after each layer gives."""
        ids, mask = batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)  # (b V, L)
        outputs = self.encoder.layer_embeddings(ids, mask, layers)
        vectors = torch.stack([output.embedding for output in outputs], 1)  # (b V, layers, Dt)
        return ctx.gather(vectors.view(len(batch.input_ids), batch.views, len(layers), -1))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the hidden copy, too, when the objective is moved to a device."""
        for copy in getattr(self, "_held", ()):
            copy._apply(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _copied(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode and without gradient. Frozen weights and a tokenizer are shared, not copied."""
    shared = [p for p in module.parameters() if not p.requires_grad]
    kept = [*shared, module.tokenizer] if isinstance(module, Encoder) else shared
    return deepcopy(module, {id(part): part for part in kept}).requires_grad_(False).eval()
