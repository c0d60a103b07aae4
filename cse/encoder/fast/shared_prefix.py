"""One pass over the tokens that all rows begin with, such as a template's prefix, which a causal model reads alike.

The prefix is a third of the work of a prompted encoder. Here it is computed for one row, once for all sub-batches, and
every row attends to its keys and values; gradients flow through them. The result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cse.encoder.checkpoint.layout import is_bidirectional
from cse.encoder.fast.switch import may_cut
from cse.encoder.prefix import cache_argument

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CAUSAL = frozenset({"llama", "mistral", "qwen2", "qwen3"})
WORTH = 4  # tokens; shorter prefixes cost more to share than they save


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The states and keys and values of the first `length` tokens of all rows, behind a cache if there is one."""

    length: int
    behind: int  # columns of that cache
    cache: Any
    states: Sequence[Tensor]  # each (1, length, H)


def shared_length(rows: Sequence[list[int]]) -> int:
    """The number of first tokens that all rows share, leaving each row at least one token."""
    if len(rows) < 2:
        return 0
    first, last = min(rows), max(rows)  # in lexicographic order: what these two share, all rows share
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return min(next(differ, len(first)), min(map(len, rows)) - 1)


def can_share(model: PreTrainedModel) -> bool:
    """Tell whether the model is causal, so that the states of a prefix do not depend on what follows it."""
    return may_cut() and model.config.model_type in CAUSAL and not is_bidirectional(model.config)


def read(model: PreTrainedModel, length: int, inputs: dict[str, Any], **options: Any) -> SharedPrefix:
    """Run a causal model over a prefix of `length` tokens; `inputs` are the model's for one row of it."""
    output = model(**inputs, use_cache=True, **options)
    states = output.hidden_states or (output.last_hidden_state,)
    return SharedPrefix(length, inputs["attention_mask"].shape[1] - length, output.past_key_values, states)


def states(
    model: PreTrainedModel, prefix: SharedPrefix, input_ids: Tensor, attention_mask: Tensor, **options: Any
) -> Sequence[Tensor]:
    """The hidden states, each (n, L, H), of rows (n, L) that begin with the prefix; `options` are those of `read`."""
    from transformers import DynamicCache

    rows, cache = len(input_ids), DynamicCache(config=model.config)
    for index, layer in enumerate(prefix.cache.layers):  # that of one row as that of many, without a copy
        cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    earlier = attention_mask.new_ones(rows, prefix.behind)
    name = cache_argument(model)
    assert name is not None  # of every model that `can_share`
    rest = model(
        input_ids=input_ids[:, prefix.length :],
        attention_mask=torch.cat([earlier, attention_mask], 1),  # (n, behind + L)
        use_cache=True,
        **{name: cache},
        **options,
    )
    own = rest.hidden_states or (rest.last_hidden_state,)
    return [torch.cat([one.expand(rows, -1, -1), other], 1) for one, other in zip(prefix.states, own, strict=True)]
