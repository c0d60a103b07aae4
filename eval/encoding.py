"""One fast way to embed texts with whatever model: longest first, in batches of about equal numbers of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cse.batching import native_bf16, token_budget_batches
from cse.encoder import Encoder
from eval.sts import Embed

SLICES = 20  # of one long call, so that a progress bar moves
TOKENS = {"cpu": 1024, "cuda": 16384}
LETTERS = 4  # to a token, about; only how long batches take depends on it


def resolve_precision(encoder: Any, precision: str) -> str:
    """fp32 or bf16: what `auto` comes to on the encoder's device."""
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(_device(encoder)))
    return "bf16" if bf16 and isinstance(encoder, torch.nn.Module) else "fp32"


def embedder(encoder: Any, precision: str = "auto", progress: bool = False) -> Embed:
    """A function from texts to (n, D) float vectors.

    Args:
        encoder: Ours, a SentenceTransformer, or anything with `encode(texts, batch_size=...)`.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively. Foreign encoders use their own.
        progress: Show a bar.
    """
    resolved = resolve_precision(encoder, precision)

    def embed(texts: list[str]) -> NDArray[np.floating]:
        if not progress:
            return _encode(encoder, texts, resolved)
        parts, rows = [], []
        for part in _tracked(np.array_split(np.argsort([-len(t) for t in texts], kind="stable"), SLICES)):
            if len(part):
                parts.append(_encode(encoder, [texts[i] for i in part], resolved))
                rows.append(part)
        return np.concatenate(parts)[np.argsort(np.concatenate(rows))]

    return embed


def _tracked(parts: list[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    from rich.console import Console
    from rich.progress import track

    yield from track(parts, description="encode", console=Console(stderr=True), transient=True)


def _encode(encoder: Any, texts: list[str], precision: str) -> NDArray[np.floating]:
    if isinstance(encoder, Encoder):
        return encoder.encode(texts, precision="bf16" if precision == "bf16" else "fp32")
    if _is_sentence_transformer(encoder):
        return _encode_sorted(encoder, texts, precision)
    return to_numpy(encoder.encode(texts, batch_size=64))


def _encode_sorted(encoder: Any, texts: list[str], precision: str) -> NDArray[np.floating]:
    """sentence-transformers sorts by length but fixes the number of rows; here short texts share larger batches."""
    device = _device(encoder)
    lengths = np.array([3 + len(text) // LETTERS for text in texts], dtype=np.int64)
    lengths = np.minimum(lengths, encoder.max_seq_length or lengths.max(initial=1))
    parts, rows = [], []
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in token_budget_batches(lengths, TOKENS.get(device.type, 16384)):
            chunk = [texts[i] for i in batch]
            parts.append(to_numpy(encoder.encode(chunk, batch_size=len(chunk), show_progress_bar=False)))
            rows.append(batch)
    return np.concatenate(parts)[np.argsort(np.concatenate(rows))]


def to_numpy(vectors: Any) -> NDArray[np.floating]:
    """What an encoder returned, as a float array."""
    if isinstance(vectors, torch.Tensor):
        return vectors.detach().float().cpu().numpy()
    if isinstance(vectors, list):
        return np.stack([to_numpy(v) for v in vectors]) if vectors else np.zeros((0, 0), dtype=np.float32)
    array = np.asarray(vectors)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _device(encoder: Any) -> torch.device:
    return torch.device(getattr(encoder, "device", None) or "cpu")


def _is_sentence_transformer(encoder: Any) -> bool:
    return any(cls.__name__ == "SentenceTransformer" for cls in type(encoder).__mro__)
