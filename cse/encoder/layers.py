"""The layers of a transformer: their list, their states, a model cut after one of them, and compiled layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FINAL_NORMS = ("norm", "final_norm", "final_layer_norm", "final_layernorm", "ln_f")  # beside the list of layers
SHORTEST = 16  # tokens
MODES = 16  # with gradient and without, of weights and of inputs; with padding and without; of one row and of several
KINDS = 4  # of layers in one model: most have one, some alternate full and sliding attention


@dataclass(frozen=True, slots=True)
class States:
    """Hold what a backbone of N layers computes of n rows of L tokens; what stands at padding has no meaning."""

    # N + 1 tensors (n, L, H): the embeddings' output, then each layer's. Most causal models put a norm behind the last
    # layer, and its output is the last one
    hidden: Sequence[Tensor]
    # N tensors (n, heads, L, L), queries by keys: the weights of each layer's attention, in training after dropout;
    # empty unless they were asked for. Soft prompts are further keys, which are left out
    attentions: Sequence[Tensor] = ()


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within, the attention is computed by the plain formula, since fused kernels do not give its weights."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

    def without_waiting(*sizes: Any, **options: Any) -> Tensor:  # transformers asks if a mask hides anything
        return eager_mask(*sizes, **options | {"allow_is_bidirectional_skip": False})

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    ALL_MASK_ATTENTION_FUNCTIONS["eager"] = without_waiting
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        ALL_MASK_ATTENTION_FUNCTIONS["eager"] = eager_mask


def find_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList] | None:
    """The module that holds the list of layers, and this list; None for a transformer without such a list."""
    config: Any = model.config
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
                return module, child
    return None


def require_layers(model: nn.Module, option: str) -> tuple[nn.Module, nn.ModuleList]:
    """What `find_layers` finds; an option that needs it is refused where there is none."""
    found, config = find_layers(model), cast("Any", model.config)
    if found is None:
        raise UserError(f"{option}: a {config.model_type} backbone has no list of its layers\nfix: remove {option}")
    return found


def final_norms(holder: nn.Module) -> list[nn.Module]:
    """The norm behind the last layer, in the module that `find_layers` finds, of the models that have one."""
    return [norm for name in FINAL_NORMS if (norm := getattr(holder, name, None)) is not None]


def train_last(model: nn.Module, count: int) -> None:
    """Let the last layers learn, and the norm behind them; the embeddings and the layers below stand still."""
    holder, layers = require_layers(model, "trainer.train_layers")
    if count > len(layers):
        raise UserError(
            f"trainer.train_layers is {count}, and the backbone has {len(layers)} layers\n"
            f"fix: give 1 to {len(layers)}; {len(layers)} leaves the embeddings as they are"
        )
    model.requires_grad_(False)
    for module in [*layers[len(layers) - count :], *final_norms(holder)]:
        module.requires_grad_(True)


def cut_states(model: nn.Module, states: Sequence[Tensor], layer: int) -> Sequence[Tensor]:
    """The hidden states of the model cut after a layer, 0 for the embeddings, as poolers read them.

    The norm that follows the last layer of most causal models follows the layer instead. At layer 0, poolers that
    average two layers read the output of the embeddings twice.
    """
    if layer == len(states) - 1:
        return states
    found = find_layers(model)
    norms = final_norms(found[0]) if found else []
    last: Tensor = norms[0](states[layer]) if norms else states[layer]
    return [*states[:layer], last] if layer else [last, last]


class Compiled:
    """The compiled layers of a backbone, which can position `longest` tokens, by a compiler of `torch.compile`.

    Attributes:
        graphs: The number of graphs made so far: at most one for each bucket, kind of layer and mode. Nearly all
            batches of a run are of one mode: with padding, and of several rows.
    """

    def __init__(self, model: PreTrainedModel, *, longest: int, backend: str = "inductor") -> None:
        _, layers = require_layers(model, "trainer.compile")
        self.longest, self.backend, self.graphs = longest, backend, 0
        limit = MODES * KINDS * len({bucket(length) for length in range(1, longest + 1)})
        config: Any = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, limit)  # a process has one; beyond it nothing is compiled
        forwards = {kind: self._forward_of(kind) for kind in {type(layer) for layer in layers}}
        for layer in layers:
            layer.forward = MethodType(forwards[type(layer)], layer)  # hooks stay outside; a copy has its own layer

    def padded_length(self, length: int) -> int:
        """The tokens that rows of this length are padded to."""
        return min(bucket(length), self.longest)

    def _forward_of(self, kind: type[Any]) -> Callable[..., Any]:
        """The forward method of layers of one class, compiled in training; they share its graphs."""
        plain: Any = kind.forward
        compiled: Any = torch.compile(plain, backend=self._compile)
        dynamo: Any = torch._dynamo

        def forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if not layer.training:
                return plain(layer, *args, **kwargs)
            rows = next(_tensors((args, kwargs))).shape[0]
            for tensor in _tensors((args, kwargs)):
                dynamo.mark_static(tensor)
                if tensor.dim() > 1 and tensor.shape[0] == rows > 1:
                    dynamo.maybe_mark_dynamic(tensor, 0)
            return compiled(layer, *args, **kwargs)

        return forward

    def _compile(self, graph: Any, inputs: list[Any]) -> Any:
        self.graphs += 1
        return torch._dynamo.lookup_backend(self.backend)(graph, inputs)


def bucket(length: int) -> int:
    """The next of 16, 32, 48, 64, 96, 128, 192, 256, ...: two for each doubling, so that padding is a third at most."""
    step = max(SHORTEST, 1 << max(0, (length - 1).bit_length() - 2))
    return -(-length // step) * step


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
