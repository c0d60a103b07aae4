"""What an encoder refuses: adapters that do not fit its backbone, lengths without positions, weights that are nan."""

from __future__ import annotations

import torch
from torch import nn

from cse.encoder.adapter import Adapter
from cse.encoder.bidirectional import Attention
from cse.encoder.kinds import Kind
from cse.encoder.poolers import POOLERS
from cse.encoder.soft_prompts import SoftPrompts
from cse.errors import UserError

DEFAULT_MAX_LENGTH = 512


def check_attention(attention: Attention, adapter: Adapter | None) -> None:
    """Raise unless the backbone is trained, if its attention changes.

    Raises:
        UserError: The attention changes, and the adapter leaves the backbone as it is.
    """
    if attention == "bidirectional" and isinstance(adapter, SoftPrompts):
        raise UserError(
            "encoder.attention is bidirectional, and soft prompts leave the backbone frozen, which was trained to "
            "look back only\nfix: use Lora, or train the whole backbone"
        )


def check_adapter(kind: Kind, backbone: str, adapter: Adapter | None) -> None:
    """Raise unless a backbone of this kind can be trained with this adapter.

    Raises:
        UserError: Its weights are quantized and would be trained, or it holds soft prompts, which would be lost.
    """
    if kind.quantized is not None and adapter is None:
        raise UserError(
            f"model {backbone!r} is quantized ({kind.quantized}): its weights cannot be trained\n"
            "fix: --encoder.adapter=cse.encoder.Lora trains small matrices beside them"
        )
    if kind.layout.soft_prompts and not isinstance(adapter, SoftPrompts):
        raise UserError(
            f"model {backbone!r} holds soft prompts, which would be lost\n"
            "fix: give the model that they were trained on, or --encoder.adapter=cse.encoder.SoftPrompts"
        )


def check_finite(encoder: nn.Module, source: str) -> None:
    """Raise if a weight is nan or infinite, since every vector would be.

    Raises:
        UserError: Some are. The message names the first tensor.
    """
    for name, weight in encoder.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise UserError(
                f"model {source!r}: the weights {name} hold nan or infinity, so every vector would be nan\n"
                "fix: copy or download the model again, or train it again at a lower rate"
            )


def check_pooler(kind: Kind, backbone: str, pooler: str | None, attention: Attention) -> None:
    """Raise unless a backbone of this kind can have this pooler.

    Raises:
        UserError: No pooler has that name, or it reads the mask token, of which a backbone that reads from left to
            right knows nothing.
    """
    if pooler is not None and pooler not in POOLERS:
        raise UserError(f"encoder.pooler is {pooler!r}\nfix: give one of {', '.join(POOLERS)}")
    if (pooler or kind.layout.pooler) == "mask" and kind.causal and attention != "bidirectional":
        raise UserError(
            f"encoder.pooler is mask, and encoder.backbone {backbone!r} reads from left to right: it was not trained "
            "to fill in a mask token\nfix: use a BERT-like encoder, such as asset:mini, or the pooler last and a "
            "template that asks for one word, as in recipe simcse-unsup"
        )


def choose_length(max_length: int | None, stated: int | None, positions: int, source: str) -> int:
    """The most tokens of a text.

    Args:
        max_length: The length that is asked for.
        stated: The length of the backbone's modules.json; some checkpoints state lengths that no position has.
        positions: The most tokens that the backbone can position.
        source: The backbone's name, for the error message.

    Raises:
        UserError: The backbone does not have as many positions.
    """
    if max_length is None and stated is not None and stated <= positions:
        max_length = stated
    if max_length is None:
        return min(positions, DEFAULT_MAX_LENGTH)
    if not 1 <= max_length <= positions:
        raise UserError(
            f"encoder.max_length is {max_length}, but {source} has {positions} positions\n"
            f"fix: give an integer from 1 to {positions}"
        )
    return max_length
