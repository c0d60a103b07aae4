"""Tiny random models of any architecture, as folders in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

ENCODERS = ("bert", "roberta", "mpnet", "deberta-v2", "modernbert", "xlm-roberta")
CAUSAL = ("llama", "qwen2", "qwen3", "gemma")
MORE: dict[str, dict[str, Any]] = {  # what an architecture needs beside its sizes
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "modernbert": {
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "global_attn_every_n_layers": 1,
    },
    "llama": {"num_key_value_heads": 1},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
}


def save_tiny(
    kind: str, tokenizer: str | Path, folder: Path, *, masked: bool = False, causal: bool = False, seed: int = 0, **more
) -> str:
    """Save a model of two layers and 16 dimensions beside its tokenizer; returns the folder.

    Args:
        kind: The type that its config states, such as roberta.
        tokenizer: A folder with the tokenizer.
        folder: The folder to write; it holds both afterwards.
        masked: Whether it has a masked-language-model head.
        causal: Whether it has the output layer of a causal language model.
        seed: Seed of the weights.
        more: Further settings of the config, or other sizes.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    about = {"vocab_size": len(words), "max_position_embeddings": 42, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **{**sizes, **about, **MORE.get(kind, {}), **more})
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM if masked else AutoModelForCausalLM if causal else AutoModel
    model.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def save_embedder(
    backbone: str, folder: Path, *, pooling: str = "mean", dense: int = 0, normalize=False, **more
) -> str:
    """Save a model of sentence-transformers, by that library; returns the folder.

    Args:
        backbone: A folder in Hugging Face layout.
        folder: The folder to write.
        pooling: Its pooling mode.
        dense: The size of a Dense with tanh after pooling; 0 adds none.
        normalize: Whether it ends in Normalize.
        more: Arguments of SentenceTransformer, such as prompts.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    transformer = Transformer(backbone, max_seq_length=24)
    modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
    torch.manual_seed(1)
    modules += [Dense(transformer.get_embedding_dimension(), dense)] if dense else []
    modules += [Normalize()] if normalize else []
    SentenceTransformer(modules=modules, device="cpu", **more).save(str(folder), create_model_card=False)
    return str(folder)
