"""Attention to both sides in a causal backbone: a flag of its config.json, so a checkpoint needs no code of its own.

LLM2Vec (BehnamGhader et al., COLM 2024, arXiv:2404.05961) begins with it. `is_causal: false` makes transformers build
masks that hide padding only. Layers with a sliding window then see as many tokens ahead as behind. Versions of
transformers below 5.2 ignore the flag, and so do architectures that build their masks by themselves; both are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attention = Literal["own", "bidirectional"]
ATTENDING = {"full_attention", "sliding_attention"}  # kinds of layers; recurrent and convolutional ones look back only


def make_bidirectional(model: PreTrainedModel, source: str) -> None:
    """Let every token attend to the tokens behind it too; a model that already does so stays as it is.

    Args:
        model: The backbone, in evaluation mode.
        source: Its name, for the error message.

    Raises:
        UserError: The architecture ignores the flag.
    """
    config: Any = model.config
    # An 8-bit product depends a little on all tokens of a batch, so that a causal model, too, seems to look ahead.
    if not getattr(model, "is_quantized", False) and looks_ahead(model):
        return
    config.is_causal = False
    if set(getattr(config, "layer_types", None) or ()) <= ATTENDING:
        try:
            if looks_ahead(model):
                return
        except (AttributeError, RuntimeError, TypeError, ValueError):  # its code cannot do without the causal mask
            pass
    import transformers

    raise UserError(
        f"encoder.attention is bidirectional, but {source} ({config.model_type}) stays causal: this architecture, or "
        f"transformers {transformers.__version__}, ignores is_causal=false in its config.json\n"
        "fix: remove encoder.attention; or use a Llama, Mistral, Qwen2, Qwen3 or Gemma model with transformers 5.2 "
        "or later"
    )


def is_bidirectional(config: Any) -> bool:
    """Whether the flag is set."""
    return getattr(config, "is_causal", None) is False


@torch.no_grad()
def looks_ahead(model: PreTrainedModel) -> bool:
    """Whether the first token's state depends on the last token, with padding behind it and without.

    In a causal model a later token has weight 0, so that the states are equal to the last bit.
    """
    vocabulary = int(model.config.vocab_size)
    for padding in (0, 1):
        mask = torch.tensor([[1, 1, 1, 1] + [0] * padding], device=model.device)
        tokens = torch.arange(mask.shape[1], device=model.device)[None] % vocabulary
        changed = tokens.clone()
        changed[0, 3] = vocabulary - 1
        first, second = (model(input_ids=ids, attention_mask=mask).last_hidden_state[0, 0] for ids in (tokens, changed))
        if torch.equal(first, second):
            return False
    return True
