"""One number for a checkpoint: scores and models that carry the same belong together."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cse.files import sha256_file

WEIGHTS = (".safetensors", ".bin", ".gguf", ".npz")
SETTINGS = ("config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)
EXPORTED = ("export.json", "model.onnx", "model.onnx.data")  # of `cse export`


def model_hash(folder: Path) -> str:
    """Hash of the weights, the settings and the tokenizer: all that a vector depends on, and no training state."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        relevant = path.suffix in WEIGHTS or path.name in SETTINGS or path.name in TOKENIZER
        relevant = relevant or path in [folder / file for file in EXPORTED]
        inside = path.relative_to(folder).parts
        relevant = relevant and inside[0] != "adapter"  # a LoRA run's, which is in the weights already
        if relevant and path.is_file() and not any(part.startswith(".") for part in inside):
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
