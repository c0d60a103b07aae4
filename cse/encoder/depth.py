"""The layers of a transformer: the list of them, their states and attentions, and what a model cut after one gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FINAL_NORMS = ("norm", "final_norm", "final_layer_norm", "final_layernorm", "ln_f")  # beside the list of layers


@dataclass(frozen=True, slots=True)
class States:
    """What a backbone of N layers computes of n rows of L tokens; what stands at padding has no meaning.

    Attributes:
        hidden: N + 1 tensors (n, L, H): the embeddings' output, then each layer's. Most causal models put a norm behind
            the last layer, and its output is the last one.
        attentions: N tensors (n, heads, L, L), queries by keys: the weights of each layer's attention, in training
            after dropout; empty unless they were asked for. Soft prompts are further keys, which are left out.
    """

    hidden: Sequence[Tensor]
    attentions: Sequence[Tensor] = ()


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within, the attention is computed by the plain formula, since fused kernels do not give its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


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
