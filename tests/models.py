"""Tiny random models of any architecture, as folders in Hugging Face layout."""

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

OF_WIKI = {"mixture": "wiki", "lwf": "general"}  # the source of a recipe that is fetched


def save_words(words: list[str], folder: Path) -> Path:
    """Save a word-level tokenizer of these words, with the tokens and the ends of BERT; returns the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(special + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def save_tiny(
    kind: str, tokenizer: str | Path, folder: Path, *, masked: bool = False, causal: bool = False, seed: int = 0, **more
) -> str:
    """Save a model of two layers and 16 dimensions beside its tokenizer; returns the folder.

    Its config states the kind, such as roberta, and has more settings, or other sizes. It may have the head of a masked
    or the output layer of a causal language model.
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


def from_weights(weights: dict[str, torch.Tensor], kind: str = "bert", **more):
    """A BERT or RoBERTa with these weights: its sizes are those of their shapes, with heads of 8 unless `more` says."""
    from transformers import AutoConfig, AutoModel

    vocabulary, hidden = weights["embeddings.word_embeddings.weight"].shape
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")),
        "num_attention_heads": hidden // 8,
        "intermediate_size": len(weights["encoder.layer.0.intermediate.dense.bias"]),
        "max_position_embeddings": len(weights["embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(weights["embeddings.token_type_embeddings.weight"]),
        "layer_norm_eps": 1e-12,
    }
    model = AutoModel.from_config(AutoConfig.for_model(kind, **{**sizes, **more}), add_pooling_layer=False)
    model.load_state_dict(weights)
    return model


def save_beside(tokenizer: str | Path, model, folder: Path) -> str:
    """Save a model, and beside it a tokenizer with a token for each of its embeddings; returns the folder."""
    from transformers import AutoTokenizer

    model.save_pretrained(folder)
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.add_tokens([f"added{i}" for i in range(len(words), model.config.vocab_size)])
    words.save_pretrained(folder)
    return str(folder)


def save_embedder(
    backbone: str, folder: Path, *, pooling: str = "mean", dense: int = 0, normalize=False, max_length=24, **more
) -> str:
    """Save a model of sentence-transformers, by that library, with more of its arguments; returns the folder.

    After pooling may come a Dense with tanh, of a size above 0, and Normalize.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    transformer = Transformer(backbone, max_seq_length=max_length)
    modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
    torch.manual_seed(1)
    modules += [Dense(transformer.get_embedding_dimension(), dense)] if dense else []
    modules += [Normalize()] if normalize else []
    SentenceTransformer(modules=modules, device="cpu", **more).save(str(folder), create_model_card=False)
    return str(folder)
