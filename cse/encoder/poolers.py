"""Poolers: how hidden states become one vector. The index of each hidden state that is read is part of the name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from torch import Tensor

PoolerName = Literal["cls", "mean", "last", "mean_last_two", "first_last_embeddings", "first_last_layer1", "mask"]
POOLERS: tuple[str, ...] = get_args(PoolerName)
LAYERS: dict[PoolerName, tuple[int, int]] = {  # poolers that average two layers, and then tokens
    "mean_last_two": (-1, -2),
    "first_last_embeddings": (0, -1),
    "first_last_layer1": (1, -1),
}
NEEDS_ALL_LAYERS = frozenset(LAYERS)

HiddenStates: TypeAlias = "Sequence[Tensor]"  # the embeddings' output, then each layer's: each (n, L, H)
Pooler: TypeAlias = "Callable[[HiddenStates, Tensor], Tensor]"  # states and attention mask (n, L) -> (n, H)


def cls(states: HiddenStates, mask: Tensor) -> Tensor:
    """(n, H) the last layer at the first token. SimCSE's `cls` and `cls_before_pooler`; the head is not part of it."""
    return states[-1][:, 0]


def last(states: HiddenStates, mask: Tensor) -> Tensor:
    """(n, H) the last layer at the last token that is not padding: the pooler of causal models."""
    return at(states, mask, -1)


def at(states: HiddenStates, mask: Tensor, position: int) -> Tensor:
    """(n, H) the last layer at one token, counted from the first, or from the last that is not padding if negative."""
    if position >= 0:
        return states[-1][:, position]
    end = mask.shape[1] - mask.flip(1).argmax(1)  # (n,) right for left and right padding
    return states[-1].gather(1, (end + position)[:, None, None].expand(-1, 1, states[-1].shape[2]))[:, 0]


def mean(states: HiddenStates, mask: Tensor) -> Tensor:
    """(n, H) mean of the last layer over tokens. SimCSE's `avg`."""
    return masked_mean(states[-1], mask)


def mean_last_two(states: HiddenStates, mask: Tensor) -> Tensor:
    """(n, H) mean over tokens of the mean of the last two layers. SimCSE's `avg_top2`."""
    return masked_mean((states[-1] + states[-2]) / 2, mask)


def first_last_embeddings(states: HiddenStates, mask: Tensor) -> Tensor:
    """(n, H) mean over tokens of (embedding output + last layer) / 2: hidden state 0, as in the SimCSE paper."""
    return masked_mean((states[0] + states[-1]) / 2, mask)


def first_last_layer1(states: HiddenStates, mask: Tensor) -> Tensor:
    """(n, H) mean over tokens of (layer 1 + last layer) / 2: hidden state 1, as in SimCSE's released code."""
    return masked_mean((states[1] + states[-1]) / 2, mask)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """(n, H) mean of states (n, L, H) where mask (n, L) is 1; 0 for a row without tokens."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def span_means(states: Tensor, spans: Tensor) -> Tensor:
    """(n, S, H) means of states (n, L, H) over the tokens of each span (n, S, L); 0 for a span without tokens."""
    import torch

    with torch.autocast(states.device.type, enabled=False):
        states = states if states.dtype == torch.float64 else states.float()
        weight = spans.to(states.dtype)  # (n, S, L)
        return weight @ states / weight.sum(-1, keepdim=True).clamp_min(1.0)


def get_pooler(name: str, *, position: int = -1) -> Pooler:
    """The pooler of that name; `mask` reads the state at `position`, that of the template's mask token."""
    if name not in POOLERS:
        raise ValueError(f"pooler {name!r} is not one of {', '.join(POOLERS)}")
    if name == "mask":
        return partial(at, position=position)
    return globals()[name]
