"""The last layer for the first token alone: a `cls` pooler reads no other, and most of a layer is work per token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from cse.encoder.fast.switch import enabled

KNOWN = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})


@contextmanager
def only_first_token(model: nn.Module) -> Iterator[None]:
    """Within, the last layer's states of a BERT-like model are (n, 1, H): those of the first token.

    Its attention reads all tokens as before; what follows is computed for one. Other architectures are not changed.
    Threads may overlap here: another thread's hook takes the first token of a tensor that holds only the first token.
    """
    config: Any = model.config
    if config.model_type not in KNOWN or not enabled():
        yield
        return
    last: Any = model.encoder
    hook = last.layer[-1].attention.output.register_forward_pre_hook(_first)
    try:
        yield
    finally:
        hook.remove()


def _first(module: nn.Module, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Keep the first token of what follows the attention: its mixed values and its residual, both (n, 1, H)."""
    return tuple(state[:, :1] for state in states)
