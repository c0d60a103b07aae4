"""Deep soft prompts: keys and values of their own in front of every layer's.

Imports no other part of the package, so that it also runs from beside the weights of an exported checkpoint.

PromCSE (Jiang et al., Findings of EMNLP 2022, arXiv:2203.06875), after P-tuning v2 (arXiv:2110.07602).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPTS = "prompts.safetensors"  # the file of a checkpoint that holds the table
AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})  # positions of words start after the pad id


def cache_argument(backbone: nn.Module) -> str | None:
    """The name of the forward's argument for keys and values of earlier tokens; None if there is none."""
    known = inspect.signature(type(backbone).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in known), None)


def prompt_shape(config: Any) -> tuple[int, int, int]:
    """Layers, key-value heads of each, and the size of a head."""
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return int(config.num_hidden_layers), heads, size


def key_values(table: Tensor, rows: int, config: Any, *, dropout: float = 0.0) -> Tensor:
    """Give what n rows see of a prompt table (P, 2 layers heads size): (2 layers, n, heads, P, size).

    Slice 2l holds the keys of layer l and slice 2l + 1 its values. Each row has a dropout mask of its own.

    Source: YJiangcm/PromCSE, promcse/models.py:385-398.
    """
    layers, heads, size = prompt_shape(config)
    seen = F.dropout(table.expand(rows, *table.shape), dropout)  # (n, P, 2 layers heads size)
    return seen.view(rows, len(table), 2 * layers, heads, size).permute(2, 0, 3, 1, 4)


def prompted(backbone: nn.Module, table: Tensor, attention_mask: Tensor, *, dropout: float = 0.0) -> dict[str, Any]:
    """Arguments, besides the tokens, with which a backbone runs behind the prompts.

    The prompts are a cache of P earlier tokens: every query sees them, no output is added for them, and the positions
    of words (n, L), padded on the right, are shifted by P (positions P.., after the pad id in RoBERTa). The table is
    (P, 2 layers heads size).

    Source: YJiangcm/PromCSE, promcse/models.py:165-167; transformers 4.2.1, modeling_bert.py:194, 271-272.
    """
    from transformers import DynamicCache

    config: Any = backbone.config
    rows, length, device = attention_mask.shape[0], attention_mask.shape[1], attention_mask.device
    if torch.is_autocast_enabled(device.type):  # the backbone's own keys and values are of this type
        table = table.to(torch.get_autocast_dtype(device.type))
    pairs = key_values(table, rows, config, dropout=dropout)
    cache = DynamicCache()
    for layer in range(len(pairs) // 2):
        cache.update(pairs[2 * layer], pairs[2 * layer + 1], layer)
    first = len(table) + (config.pad_token_id + 1 if config.model_type in AFTER_PADDING else 0)
    name = cache_argument(backbone)
    assert name is not None  # checked when the prompts were attached
    return {
        name: cache,
        "attention_mask": torch.cat([attention_mask.new_ones(rows, len(table)), attention_mask], 1),  # (n, P + L)
        "position_ids": torch.arange(first, first + length, device=device)[None],  # (1, L)
    }
