"""The layers of a transformer: the list of them, and what a model cut after one of them would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

FINAL_NORMS = ("norm", "final_norm", "final_layer_norm", "final_layernorm", "ln_f")  # beside the list of layers


def find_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList] | None:
    """The module that holds the list of layers, and this list; None for a transformer without such a list."""
    config: Any = model.config
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
                return module, child
    return None


def cut_states(model: nn.Module, states: Sequence[Tensor], layer: int) -> Sequence[Tensor]:
    """The hidden states of the model cut after a layer, as poolers read them.

    The norm that follows the last layer of most causal models follows the layer instead. At layer 0, poolers that
    average two layers read the output of the embeddings twice.

    Args:
        model: The transformer.
        states: The embeddings' output, then each layer's, each (n, L, H).
        layer: The number of the layer: 0 for the embeddings, N for the last layer.
    """
    if layer == len(states) - 1:
        return states
    found = find_layers(model)
    norms = [norm for name in FINAL_NORMS if found and (norm := getattr(found[0], name, None)) is not None]
    last: Tensor = norms[0](states[layer]) if norms else states[layer]
    return [*states[:layer], last] if layer else [last, last]
