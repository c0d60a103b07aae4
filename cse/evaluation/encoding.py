"""One fast way to embed texts with any model: longest first, in batches of about equal numbers of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cse import console, distributed
from cse.encoder.device import uses_bf16
from cse.encoder.fast.batching import token_budget_batches
from cse.encoder.fast.layers import converted_once
from cse.encoder.model import Encoder
from cse.evaluation.sts import Compare, Embed, checked, cosine, nearness

SLICES = 16  # parts of one long call: enough for cores to end together; more of them waste more on padding
SLICE_ROWS = 64  # fewer are not worth a call
TOKENS = {"cpu": 1024, "cuda": 16384}
CORE_TOKENS = {"fp32": 512, "bf16": 1024}  # in a batch, where each core has its own; half or twice is 2 to 25 % slower
LETTERS = 4  # to a token, about; only how long batches take depends on it


class Asked:
    """Counts the letters of the texts that evaluators ask for."""

    letters = 0


_CHANGING: ContextVar[Asked | None] = ContextVar("changing", default=None)


@contextmanager
def changing() -> Iterator[Asked]:
    """In this block, the encoder is one in training: all processes score it together, and nothing of it is kept.

    Each process encodes its share of the texts of every call, and gets the vectors of all.
    """
    token = _CHANGING.set(asked := Asked())
    try:
        yield asked
    finally:
        _CHANGING.reset(token)


def is_changing() -> bool:
    """Whether the encoder will be another one at the next evaluation; see `changing`."""
    return _CHANGING.get() is not None


def resolve_precision(encoder: Any, precision: str) -> str:
    """The precision, fp32 or bf16, that `auto` stands for on the encoder's device."""
    bf16 = uses_bf16(precision, device_of(encoder))
    return "bf16" if bf16 and isinstance(encoder, torch.nn.Module) else "fp32"


def comparison(encoder: Any) -> Compare:
    """How pairs of an encoder's vectors are compared: by distance if it says `euclidean`, otherwise by cosine.

    The field reports cosines of all other models, also of those that were trained by dot product.
    """
    named = [getattr(encoder, name, None) for name in ("similarity", "similarity_fn_name")]
    return nearness if "euclidean" in [name for name in named if isinstance(name, str)] else cosine


def embedder(encoder: Any, precision: str = "auto", progress: bool = False, prompt: str | None = None) -> Embed:
    """A function from texts to (n, D) float vectors.

    Args:
        encoder: An `Encoder` of cse, a SentenceTransformer, or anything with `encode(texts, batch_size=...)`.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively. An encoder that
            is not a torch module uses its own.
        progress: Whether to show a bar on a terminal.
        prompt: The name of the encoder's prompt that is put before every text; None: what the encoder does by default.
    """
    resolved = resolve_precision(encoder, precision)

    def encode(texts: list[str]) -> NDArray[np.floating]:
        return checked(_encode(encoder, texts, resolved, prompt), texts)

    def embed(texts: list[str]) -> NDArray[np.floating]:
        if (asked := _CHANGING.get()) is not None:
            asked.letters += sum(map(len, texts))
        longest_first = np.argsort([-len(text) for text in texts], kind="stable")
        slices = max(1, min(SLICES, len(texts) // SLICE_ROWS))
        parts = [part for part in np.array_split(longest_first, slices) if len(part)]
        if not parts:
            return encode(texts)

        def encode_all(parts: list[NDArray[np.intp]]) -> list[NDArray[np.floating]]:
            with converted_once(), _workers(encoder) as call:
                vectors = call(lambda part: encode([texts[i] for i in part]), parts)
                return list(_tracked(vectors, len(parts)) if progress else vectors)

        done = _shared(encode_all, parts) if is_changing() else encode_all(parts)
        return np.concatenate(done)[np.argsort(np.concatenate(parts))]

    return embed


def encode_distinct(
    encoder: Any, texts: Iterable[str], precision: str = "auto", prompt: str | None = None
) -> tuple[NDArray[np.floating], dict[str, int]]:
    """The vectors (n, D) of the n distinct texts, and the row of each text. See `embedder` for the arguments."""
    row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return embedder(encoder, precision, prompt=prompt)(list(row)), row


def _shared(work: Callable[[list[Any]], list[Any]], parts: list[Any]) -> list[Any]:
    """What `work` makes of the parts, each on one process, which computes of it what a single process would.

    Raises:
        UserError: A process raised it.
    """
    number, processes = distributed.rank(), distributed.world_size()
    everyone = distributed.gather_results(lambda: work(parts[number::processes]))
    return [everyone[i % processes][i // processes] for i in range(len(parts))]


@contextmanager
def _workers(encoder: Any) -> Iterator[Callable[..., Iterator[NDArray[np.floating]]]]:
    """A `map` that keeps every core busy.

    On a CPU, an `Encoder` of cse works on several slices at once, with one core for each: a layer of a small model is
    too little work to be shared between cores, which wait for each other at every step, and much longer if other
    programs use them, too. Other encoders are called in turn.
    """
    cores = torch.get_num_threads()
    if not isinstance(encoder, Encoder) or encoder.device.type != "cpu" or cores == 1:
        yield map
        return
    training = encoder.training
    encoder.eval()  # here, because `encode` restores the mode when it is done, while other threads still run
    encoder.encode(["a"])  # sets the tokenizer's truncation, which may not change while others use it
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores) as pool:
            yield lambda work, parts: pool.map(  # a thread of a pool begins without this thread's context
                lambda part, context: context.run(work, part), parts, [copy_context() for _ in parts]
            )
    finally:
        torch.set_num_threads(cores)
        encoder.train(training)


def _tracked(parts: Iterable[NDArray[np.floating]], total: int) -> Iterator[NDArray[np.floating]]:
    with console.progress("encode", total, lines=False) as advance:
        for done, part in enumerate(parts, start=1):
            advance(done)
            yield part


def _encode(encoder: Any, texts: list[str], precision: str, prompt: str | None) -> NDArray[np.floating]:
    if isinstance(encoder, Encoder):
        resolved: Literal["fp32", "bf16"] = "bf16" if precision == "bf16" else "fp32"
        budget = CORE_TOKENS[resolved] if encoder.device.type == "cpu" else None
        return encoder.encode(texts, precision=resolved, max_tokens=budget, prompt_name=prompt)
    if _is_sentence_transformer(encoder):
        return _encode_sorted(encoder, texts, precision, prompt)
    return to_numpy(encoder.encode(texts, batch_size=64, **({"prompt_name": prompt} if prompt is not None else {})))


def _encode_sorted(encoder: Any, texts: list[str], precision: str, prompt: str | None) -> NDArray[np.floating]:
    """sentence-transformers sorts by length but fixes the number of rows; here short texts share larger batches."""
    device = device_of(encoder)
    lengths = np.array([3 + len(text) // LETTERS for text in texts], dtype=np.int64)
    longest = lengths.max(initial=1)
    lengths = np.minimum(lengths, int(min(encoder.max_seq_length or longest, longest)))  # static vectors have no limit
    parts, rows = [], []
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for batch in token_budget_batches(lengths, TOKENS.get(device.type, 16384)):
            chunk = [texts[i] for i in batch]
            options = {"batch_size": len(chunk), "show_progress_bar": False, "prompt_name": prompt}
            parts.append(to_numpy(encoder.encode(chunk, **options)))
            rows.append(batch)
    return np.concatenate(parts)[np.argsort(np.concatenate(rows))]


def to_numpy(vectors: Any) -> NDArray[np.floating]:
    """The vectors that an encoder returned, as a float array."""
    if isinstance(vectors, torch.Tensor):
        return vectors.detach().float().cpu().numpy()
    if isinstance(vectors, list):
        return np.stack([to_numpy(v) for v in vectors]) if vectors else np.zeros((0, 0), dtype=np.float32)
    array = np.asarray(vectors)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def device_of(encoder: Any) -> torch.device:
    """The device of an encoder; the CPU for one that names none."""
    return torch.device(getattr(encoder, "device", None) or "cpu")


def _is_sentence_transformer(encoder: Any) -> bool:
    return any(cls.__name__ == "SentenceTransformer" for cls in type(encoder).__mro__)
