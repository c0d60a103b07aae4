"""The identity of a model: scores, vectors and answers that carry the same hash belong to the same model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.encoder.checkpoint.layout import ADAPTER, ADAPTER_CONFIG, Layout, is_bidirectional
from cse.files import sha256_file

if TYPE_CHECKING:
    from cse.encoder.model import Encoder

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
EXPORTED = ("export.json", "model.onnx", "model.onnx.data")  # the files of `cse export`


def model_hash(model: Path | Encoder) -> str:
    """The sha256 of all that a model's vectors depend on besides the text, and of no training state.

    A folder is hashed without being loaded: weights, settings and tokenizer, whoever wrote them. An encoder in memory
    is hashed by its tensors, tokenizer and settings, so that it has an identity while it is trained. The two hashes of
    one model differ: compare folders with folders and encoders with encoders.
    """
    return _hash_folder(model) if isinstance(model, Path) else _hash_encoder(model)


def origin(encoder: Encoder, *, texts: str, precision: str, prompt: str) -> dict[str, Any]:
    """List what vectors of texts depend on in every case, as JSON: unfinished work continues only if it is equal.

    `texts` is their hash, `precision` the one that is computed in, not `auto`, and `prompt` a text.
    """
    import torch

    versions = {"device": encoder.device.type, "torch": torch.__version__}
    return {"texts": texts, "checkpoint": model_hash(encoder), "precision": precision, "prompt": prompt, **versions}


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that its vectors depend on besides the text, in order: no training state and no records."""
    found, merged = [], Layout.read(folder).reference is None
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        relevant = path.suffix in WEIGHTS or path.name in SETTINGS or path.name in TOKENIZER
        relevant = relevant or path in [folder / file for file in EXPORTED]
        inside = path.relative_to(folder).parts
        if merged and inside[0] == ADAPTER:
            continue  # a LoRA run's, which is in the weights already
        relevant = relevant or path.relative_to(folder).as_posix() == f"{ADAPTER}/{ADAPTER_CONFIG}"
        if relevant and path.is_file() and not any(part.startswith(".") for part in inside):
            found.append(path)
    return found


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in model_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _hash_encoder(encoder: Encoder) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    vocabulary = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    vocabulary |= {"truncation": None, "padding": None}  # every call sets them
    post = [(type(m).__name__, getattr(m, "activation_name", getattr(m, "width", ""))) for m in encoder.post]
    settings: list[object] = [type(encoder).__name__, encoder.pooler, encoder.max_length, encoder.lower_case, post]
    settings += ["bidirectional"] if is_bidirectional(encoder.backbone.config) else []
    settings += [encoder.prompts, encoder.default_prompt_name] if encoder.prompts else []
    digest.update(json.dumps([vocabulary, settings], sort_keys=True).encode())
    return digest.hexdigest()
