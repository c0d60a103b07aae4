"""The last layer for the first token alone: a `cls` pooler reads no other, and most of a layer is work per token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

KNOWN = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})


@contextmanager
def only_first_token(model: nn.Module) -> Iterator[None]:
    """Within, the last layer's states of a BERT-like model are (n, 1, H): those of the first token.

    Its attention reads all tokens as before; what follows is done for one. Other architectures are left as they are.
    Threads may overlap here: the hook of another one takes the first token of what is the first token already.
    """
    config: Any = model.config
    if config.model_type not in KNOWN:
        yield
        return
    last: Any = model.encoder
    hook = last.layer[-1].attention.output.register_forward_pre_hook(_first)
    try:
        yield
    finally:
        hook.remove()


def _first(module: nn.Module, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """What follows the attention sees the first token only: its mixed values and its residual, both (n, 1, H)."""
    return tuple(state[:, :1] for state in states)
