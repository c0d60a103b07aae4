"""Attention for short texts on a CPU: the plain formula, where the fused kernel is slow, over padded keys.

For texts of a few dozen tokens in bfloat16, the fused kernel's backward pass on a CPU takes several times as long as
the matrix products that it replaces, and with dropout it is not fused at all. The kernel still computes all
else: inference, long texts, other devices. transformers finds the function by name, in its own table of attentions.

Either way the softmax takes a text's keys 16 at a time and the remaining ones singly: 15 keys take four times as long
as 16. Keys are therefore padded to a multiple of 16 if that is faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.encoder.fast.layers import dropout as drop
from cse.encoder.fast.switch import enabled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME, FUSED = "cse_short_texts", "cse_fused"
LANES = 16
LONGEST = 128  # tokens; beyond this, the (L, L) weights cost more memory than the fused kernel costs time


def use_short_attention(model: PreTrainedModel) -> None:
    """Let a model that would use the fused kernel choose between it and the plain formula at each call."""
    from transformers import AttentionInterface, AttentionMaskInterface

    if model.config._attn_implementation == "sdpa" and model._supports_attention_backend:
        AttentionInterface.register(NAME, short_attention)
        AttentionMaskInterface.register(NAME, mask_without_waiting)
        model.set_attn_implementation(NAME)


def use_mask_without_waiting(model: PreTrainedModel) -> None:
    """Let a model that uses the fused kernel not wait for its mask on a GPU; nothing else changes."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if model.config._attn_implementation == "sdpa" and model._supports_attention_backend:
        AttentionInterface.register(FUSED, sdpa_attention_forward)
        AttentionMaskInterface.register(FUSED, mask_without_waiting)
        model.set_attn_implementation(FUSED)


def mask_without_waiting(*sizes: Any, **options: Any) -> Tensor | None:
    """The mask that transformers makes for `sdpa`; on a GPU, without asking first whether it hides anything."""
    from transformers.masking_utils import sdpa_mask

    padding = options.get("attention_mask")
    if padding is not None and padding.device.type == "cuda":  # the host would wait for the answer
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(*sizes, **options)


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling + mask) v, by whichever way is faster; the signature is transformers'.

    query is (n, heads, L, d); key and value are (n, key heads, L', d); the mask (n, 1, L, L') is True or 0 where
    attended, and None attends everywhere that causality allows. Returns (n, L, heads, d), and no weights.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    ours = enabled() and query.device.type == "cpu"
    if ours and not torch.compiler.is_compiling():  # an exported graph serves every length
        key, value, attention_mask = padded(query, key, value, attention_mask, causal)
    short = key.shape[2] <= LONGEST and options.get("position_bias") is None
    if not (ours and short and module.training):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **options
        )
        return result
    groups = query.shape[1] // key.shape[1]
    rows, heads, length, _ = query.shape
    if groups > 1:  # queries that share a key are further rows of its product
        query = query.reshape(rows, key.shape[1], groups * length, -1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(2, 3)  # (n, key heads, groups L, L')
    scores = scores.view(rows, heads, length, -1)
    bias = _bias(attention_mask, scores, causal)
    weights = torch.softmax(scores if bias is None else scores + bias, -1, dtype=_wide(scores.dtype)).to(query.dtype)
    weights = drop(weights, dropout) if dropout else weights
    mixed = weights.view(rows, key.shape[1], groups * length, -1) @ value
    return mixed.view(rows, heads, length, -1).transpose(1, 2).contiguous(), None


def padded(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask, padded to a multiple of 16 with columns that no query attends to, if that is faster.

    Without a mask, causality alone hides the columns, provided that queries and keys belong to the same tokens.
    """
    reach = key.shape[2]
    more = -reach % LANES
    hidden = causal and query.shape[2] == reach > 1
    if not more or (more > LANES // 2 and reach > LANES) or (mask is None and causal and not hidden):
        return key, value, mask
    key, value = (F.pad(t, (0, 0, 0, more)) for t in (key, value))
    if mask is None and not hidden:
        mask = torch.ones(1, 1, 1, reach, dtype=torch.bool)
    if mask is None:
        return key, value, None
    return key, value, F.pad(mask, (0, more), value=0.0 if mask.dtype == torch.bool else torch.finfo(mask.dtype).min)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _bias(mask: Tensor | None, scores: Tensor, causal: bool) -> Tensor | None:
    """The term to add to the scores: 0 for positions that are attended, the smallest number for others."""
    length, reach = scores.shape[-2:]
    if mask is None:
        if not causal or length == 1:
            return None
        mask = torch.ones(length, reach, dtype=torch.bool).tril()
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
