"""Accelerations of the encoder that do not change what it computes; README.md in this folder describes each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cse.encoder.fast.attention import use_short_attention
from cse.encoder.fast.layers import keep_few_primitives, use_fast_dropout, use_kept_weights
from cse.encoder.fast.switch import enabled, off

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["enabled", "install", "off"]


def install(model: PreTrainedModel) -> None:
    """Replace a backbone's attention, dropout and linear layers by faster ones of the same parameters.

    This is the only place where a model is changed. The other accelerations belong to the encoder's own passes and ask
    `enabled()` when they run.
    """
    if enabled():
        use_short_attention(model)
        use_fast_dropout(model)
        use_kept_weights(model)
        keep_few_primitives()
