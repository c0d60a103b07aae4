"""Pretrained masked language models, for objectives and augmentations that fill in masked tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cse.encoder.backbone import explained, locate
from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_masked_lm(source: str, *, option: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a frozen masked language model in float32 and evaluation mode, and its tokenizer.

    Args:
        source: `asset:NAME`, a folder in Hugging Face layout, or a Hub id.
        option: The option that names the source, for error messages, such as `objective.generator`.

    Raises:
        UserError: The model cannot be loaded, has no trained masked-LM head, or its tokenizer has no mask token.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    where = locate(source)
    with explained(source):
        tokenizer = AutoTokenizer.from_pretrained(where)
        model, info = AutoModelForMaskedLM.from_pretrained(where, dtype=torch.float32, output_loading_info=True)
    missing = f"the weight {min(info['missing_keys'])}" if info["missing_keys"] else None
    if missing is None and tokenizer.mask_token_id is None:
        missing = "a mask token"
    if missing:
        raise UserError(
            f"{option} {source!r} is not a trained masked language model: it lacks {missing}\n"
            "fix: give a masked language model, such as asset:mini, bert-base-uncased or distilroberta-base"
        )
    return model.eval().requires_grad_(False), tokenizer
