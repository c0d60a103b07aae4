"""One pass over what all rows begin with: a template's prefix, which a causal model reads the same before any text.

A third of the work of a prompted encoder is its prefix. Here it is computed for one row, and the others attend to its
keys and values; gradients flow through them as through any other. The result is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CAUSAL = frozenset({"llama", "mistral", "qwen2", "qwen3"})
WORTH = 4  # tokens; shorter prefixes cost more to share than they save


def shared_length(input_ids: Tensor) -> int:
    """How many of the first columns are the same in all rows of (n, L), leaving each row one token at least."""
    if len(input_ids) < 2:
        return 0
    same = (input_ids == input_ids[:1]).all(0)[:-1]
    return int(same.long().cumprod(0).sum())


def can_share(model: PreTrainedModel) -> bool:
    """Whether the model is causal, so that a prefix's states are its own."""
    return model.config.model_type in CAUSAL


def states(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    length: int,
    first: dict[str, Any],
    **options: Any,
) -> Sequence[Tensor]:
    """The model's hidden states, each (n, L, H), with the first `length` columns computed once.

    Args:
        model: A causal backbone.
        input_ids: (n, L), the same in the first `length` columns.
        attention_mask: (n, L).
        length: Columns to share, below L.
        first: The model's arguments for those of the first row, with whatever cache it runs behind.
        options: Passed on; `output_hidden_states` gives all layers in place of the last.
    """
    rows = len(input_ids)
    prefix = model(**first, use_cache=True, **options)
    earlier = attention_mask.new_ones(rows, first["attention_mask"].shape[1] - length)
    attention_mask = torch.cat([earlier, attention_mask], 1)  # (n, earlier + L)
    cache = _expanded(model, prefix.past_key_values, rows)
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    rest = model(
        input_ids=input_ids[:, length:], attention_mask=attention_mask, use_cache=True, **{name: cache}, **options
    )
    pairs = (
        zip(prefix.hidden_states, rest.hidden_states, strict=True)
        if rest.hidden_states
        else [(prefix.last_hidden_state, rest.last_hidden_state)]
    )
    return [torch.cat([one.expand(rows, -1, -1), other], 1) for one, other in pairs]


def _expanded(model: PreTrainedModel, cache: Any, rows: int) -> Any:
    """The cache of one row as that of many, without a copy."""
    from transformers import DynamicCache

    wide = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        wide.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    return wide
