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
from cse.encoder.device import resolved
from cse.encoder.fast.batching import token_budget_batches
from cse.encoder.fast.layers import converted_once
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.evaluation.statistic import Vector

SLICES = 16  # parts of one long call: enough for cores to end together; more of them waste more on padding
SLICE_ROWS = 64  # fewer are not worth a call
TOKENS = {"cpu": 1024, "cuda": 16384}
CORE_TOKENS = {"fp32": 512, "bf16": 1024}  # in a batch, where each core has its own; half or twice is 2 to 25 % slower
LETTERS = 4  # to a token, about; only how long batches take depends on it
_CHANGING: ContextVar[Asked | None] = ContextVar("changing", default=None)
Embed = Callable[[list[str]], NDArray[np.floating]]
Change = Callable[[NDArray[np.floating]], NDArray[np.floating]]
Compare = Callable[[NDArray[np.floating], list[int], list[int]], Vector]  # vectors (n, D), pairs of rows -> (m,)


class Asked:
    """Counts the letters of the texts that evaluators ask for."""

    letters = 0


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
    """Tell whether the encoder will be another one at the next evaluation; see `changing`."""
    return _CHANGING.get() is not None


def resolve_precision(encoder: Any, precision: str) -> str:
    """The precision, fp32, bf16 or fp16, that `auto` stands for on the encoder's device."""
    named = resolved(precision, device_of(encoder))
    return named if isinstance(encoder, torch.nn.Module) else "fp32"


def comparison(encoder: Any) -> Compare:
    """Name how pairs of an encoder's vectors are compared: by distance if it says `euclidean`, otherwise by cosine.

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
    if isinstance(encoder, Reduced):
        return encoder.embedder(precision, progress, prompt)
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


class Reduced:
    """An encoder whose vectors are changed; each text is encoded once for all changes.

    Attributes:
        encoder: The encoder, which has all that is asked for besides vectors.
        change: The change of vectors (n, D); None: none.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.change: Change | None = None
        self._known: dict[tuple[str, str | None, str], NDArray[np.floating]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode(self, texts: list[str], *, batch_size: int = 64, prompt_name: str | None = None) -> NDArray[np.floating]:
        """The changed vectors (n, .) of texts."""
        return self.embedder("auto", False, prompt_name)(texts)

    def embedder(self, precision: str, progress: bool, prompt: str | None) -> Embed:
        """See the function `embedder`."""
        whole = embedder(self.encoder, precision, progress, prompt)

        def embed(texts: list[str]) -> NDArray[np.floating]:
            new = [text for text in dict.fromkeys(texts) if (precision, prompt, text) not in self._known]
            if new:
                self._known |= {(precision, prompt, text): v for text, v in zip(new, whole(new), strict=True)}
            vectors = np.stack([self._known[precision, prompt, text] for text in texts]) if texts else np.zeros((0, 0))
            return vectors if self.change is None or not texts else self.change(vectors)

        return embed


def encode_distinct(
    encoder: Any, texts: Iterable[str], precision: str = "auto", prompt: str | None = None
) -> tuple[NDArray[np.floating], dict[str, int]]:
    """The vectors (n, D) of the n distinct texts, and the row of each text. See `embedder` for the arguments."""
    row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return embedder(encoder, precision, prompt=prompt)(list(row)), row


def _shared(work: Callable[[list[Any]], list[Any]], parts: list[Any]) -> list[Any]:
    """Collect what `work` makes of the parts, each on one process, which computes of it what a single process would."""
    number, processes = distributed.rank(), distributed.world_size()
    everyone = distributed.gather_results(lambda: work(parts[number::processes]))
    return [everyone[i % processes][i // processes] for i in range(len(parts))]


@contextmanager
def _workers(encoder: Any) -> Iterator[Callable[..., Iterator[NDArray[np.floating]]]]:
    """A `map` that keeps every core busy: on a CPU, an `Encoder` of cse works on several slices at once.

    A layer of a small model is too little work to be shared between cores, which wait for each other at every step, and
    much longer if other programs use them, too. Other encoders are called in turn.
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
    if "SentenceTransformer" in [kind.__name__ for kind in type(encoder).__mro__]:
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


def row_dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The dot product of each row of a with the same row of b: (n, D), (n, D) -> (n,).

    Eight accumulators of two lanes are added in pairs; then the rest of the row follows one by one.
    """
    products = a * b
    whole = products.shape[1] // 16 * 16
    lanes = np.zeros((len(products), 8, 2))
    for start in range(0, whole, 16):
        lanes += products[:, start : start + 16].reshape(-1, 8, 2)
    while lanes.shape[1] > 1:
        lanes = lanes[:, 0::2] + lanes[:, 1::2]
    total: NDArray[np.float64] = lanes[:, 0, 0] + lanes[:, 0, 1]
    for column in range(whole, products.shape[1]):
        total = total + products[:, column]
    return total


def checked(vectors: NDArray[np.floating], texts: list[str]) -> NDArray[np.floating]:
    """Refuse vectors that are not one row of finite numbers per text."""
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise UserError(
            f"the model returned an array of shape {vectors.shape} for {len(texts)} texts; (n, D) is needed\n"
            "fix: return one vector per text from encode"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"the model returned nan or infinity for {len(bad)} of {len(texts)} texts, the first being "
            f"{texts[bad[0]][:60]!r}\nfix: try --precision fp32; if that does not help, the checkpoint is broken"
        )
    return vectors


def cosine(vectors: NDArray[np.floating], first: list[int], second: list[int], rows: int = 4096) -> Vector:
    """Cosine of each pair of rows, in float64; 0 where a vector is zero, as in the field's engine."""
    parts = [np.zeros(0)]
    for start in range(0, len(first), rows):
        a = vectors[first[start : start + rows]].astype(np.float64)  # (rows, D)
        b = vectors[second[start : start + rows]].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(np.nan_to_num(row_dot(a, b) / (np.sqrt(row_dot(a, a)) * np.sqrt(row_dot(b, b)))))
    return np.concatenate(parts)


def nearness(vectors: NDArray[np.floating], first: list[int], second: list[int], rows: int = 4096) -> Vector:
    """The negative Euclidean distance of each pair of rows, in float64."""
    parts = [np.zeros(0)]
    for start in range(0, len(first), rows):
        apart = vectors[first[start : start + rows]].astype(np.float64) - vectors[second[start : start + rows]]
        parts.append(-np.sqrt(row_dot(apart, apart)))  # (rows,)
    return np.concatenate(parts)
