"""Tiny random models of any architecture, as folders in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

import torch


def save_tiny(kind: str, tokenizer: str | Path, folder: Path, *, masked: bool = False, seed: int = 0, **more) -> str:
    """Save a model of two layers and 16 dimensions beside its tokenizer; returns the folder.

    Args:
        kind: The type that its config states, such as roberta.
        tokenizer: A folder with the tokenizer.
        folder: Where to save both.
        masked: Whether it has a masked-language-model head.
        seed: Seed of the weights.
        more: Further settings of the config, or other sizes.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    about = {"vocab_size": len(words), "max_position_embeddings": 42, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **{**sizes, **about, **more})
    torch.manual_seed(seed)
    (AutoModelForMaskedLM if masked else AutoModel).from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
