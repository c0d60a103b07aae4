"""Vectors of 8 bits or 1 bit per dimension, and the calibration that 8 bits need.

sentence-transformers quantizes (`sentence_transformers.util.quantization`), and its names of the kinds are used here:

    int8, uint8        a byte per dimension: 255 steps from the smallest to the largest value of this dimension
    binary, ubinary    a bit per dimension, its sign: eight in each int8 or uint8

The ranges of the dimensions are measured once, on texts like those that are encoded later, and lie in a file
`quantization.json` in the folder of the model, with which it is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from cse.encoder.checkpoint.layout import is_checkpoint
from cse.encoder.vectors import require_directions
from cse.errors import UserError, require_at_least
from cse.files import check_writable, read_json, sha256_file, write_json
from cse.inference.shards import ShardedVectors, VectorsOnDisk

Kind = Literal["int8", "uint8", "binary", "ubinary"]
FILE = "quantization.json"
ROWS = 10_000  # vectors on which ranges are measured, at most
Codes = NDArray[np.integer]
BLOCK = 16_384  # rows that are compared with a query at once
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # (256,) ones in a byte


@dataclass(frozen=True, slots=True)
class Calibration:
    """The range of each dimension of an encoder's vectors."""

    low: NDArray[np.float32]  # (D,) the smallest values
    high: NDArray[np.float32]  # (D,) the largest values
    texts: int  # number of texts on which they were measured
    # what else they depend on, as JSON: the hash of the model, its prompt, and whether vectors were scaled to length 1
    made_from: Mapping[str, Any]

    @property
    def ranges(self) -> NDArray[np.float32]:
        """(2, D), as sentence-transformers takes them."""
        return np.stack([self.low, self.high])

    @classmethod
    def of(cls, vectors: NDArray[np.floating], made_from: Mapping[str, Any] | None = None) -> Calibration:
        """Measure the first `ROWS` of vectors (n, D)."""
        some = np.asarray(vectors[:ROWS], dtype=np.float32)
        _require_finite(some)
        if len(some) < 2:
            raise UserError(
                f"the range of a dimension cannot be measured on {len(some)} text\n"
                "fix: give more texts, or --calibration FILE of other texts, or --quantize binary, which needs none"
            )
        return cls(some.min(0), some.max(0), len(some), dict(made_from or {}))

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read a file that `write` wrote."""
        try:
            found = read_json(Path(path))
            low, high = (np.array(found[name], dtype=np.float32) for name in ("low", "high"))
            if low.ndim != 1 or low.shape != high.shape or not (low <= high).all():
                raise ValueError("low and high are not lists of equal length, with low <= high")
            return cls(low, high, int(found["texts"]), dict(found["made_from"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"calibration {path} cannot be read: {error}\nfix: remove the file to measure again"
            ) from None

    def write(self, path: Path) -> None:
        """Write the ranges and what they were measured on."""
        ranges = {"low": self.low.tolist(), "high": self.high.tolist()}
        write_json(path, {"texts": self.texts, "made_from": dict(self.made_from), **ranges})

    def require(self, path: Path, made_from: Mapping[str, Any]) -> None:
        """Check that these ranges are those of vectors that were made from the same."""
        for name, value in made_from.items():
            if self.made_from.get(name) != value:
                shown = "the model is another one" if name == "model" else f"{name} was {self.made_from.get(name)!r}"
                raise UserError(
                    f"calibration {path} is that of other vectors: {shown}\n"
                    "fix: remove the file to measure again, or give another one with --calibration"
                )


def calibration_file(model: str, out: Path) -> Path:
    """Find the default place of the ranges of a model's vectors: its folder, or beside the vectors of other models.

    An empty name stands for several models.
    """
    folder = Path(model).expanduser()
    return folder / FILE if model and is_checkpoint(folder) else out.with_name(f"{out.name}.{FILE}")


class Quantizer:
    """Quantizes vectors on disk, by the ranges of a file, or by their own, which are then saved there.

    Attributes:
        calibration: The ranges; None until they are known, and for kinds that need none.
        measured: Whether they were measured, and not read.

    Raises:
        UserError: There is no such kind, or the file cannot be read or written.
    """

    def __init__(self, kind: Kind, path: Path) -> None:
        require_kind(kind)
        self.kind, self.path, self.measured = kind, path, False
        self.dtype = np.dtype(np.int8 if kind in ("int8", "binary") else np.uint8)
        self.calibration: Calibration | None = None
        if needs_calibration(kind):
            check_writable(path, "--calibration")
            self.calibration = Calibration.read(path) if path.is_file() else None

    def width(self, size: int) -> int:
        """The number of codes of a vector of this size."""
        return size if needs_calibration(self.kind) else -(-size // 8)

    def begin(self, made_from: Mapping[str, Any], size: int, *, several: bool) -> dict[str, Any]:
        """Check that known ranges are those of the vectors (n, D) that come, in `several` files or in one.

        Returns what the codes depend on beside the vectors, as JSON.
        """
        self._made_from = dict(made_from)
        if self.calibration is not None:
            self.calibration.require(self.path, made_from)
            _ranges(size, self.kind, self.calibration)
            return {"quantize": self.kind, "calibration": sha256_file(self.path)}
        if needs_calibration(self.kind) and several:
            raise UserError(
                f"--quantize {self.kind} needs the ranges of the dimensions before shards are written, and {self.path} "
                f"does not exist\nfix: encode some thousand texts without shards first, with --calibration {self.path}"
            )
        return {"quantize": self.kind}

    def measure(self, vectors: NDArray[np.floating]) -> None:
        """Measure the ranges of vectors (n, D) and save them, if they are needed and not known."""
        if needs_calibration(self.kind) and self.calibration is None:
            self.calibration, self.measured = Calibration.of(vectors, self._made_from), True
            self.calibration.write(self.path)

    def __call__(self, vectors: NDArray[np.floating]) -> Codes:
        """The codes of vectors; see `quantize`."""
        return quantize(vectors, self.kind, self.calibration)


def require_kind(kind: str) -> None:
    """Check the name of a kind."""
    if kind not in get_args(Kind):
        raise UserError(f"--quantize is {kind!r}\nfix: give one of {', '.join(get_args(Kind))}")


def needs_calibration(kind: Kind) -> bool:
    """Tell whether the kind divides ranges; the others are signs."""
    return kind in ("int8", "uint8")


def quantize(vectors: NDArray[np.floating], kind: Kind, calibration: Calibration | None = None) -> Codes:
    """The codes of vectors, by sentence-transformers.

        int8, uint8    floor(255 (x - low) / (high - low)), from 0 to 255; int8 has 128 less
        binary, ubinary    the bits x > 0, the first dimension in the highest bit; binary has 128 less

    Args:
        vectors: (n, D).
        kind: int8, uint8, binary or ubinary.
        calibration: The ranges, which int8 and uint8 need.

    Returns:
        (n, D) for int8 and uint8, (n, D / 8) rounded up for the others.

    Raises:
        UserError: There is no such kind, no calibration, or one of other dimensions.
    """
    from sentence_transformers.util.quantization import quantize_embeddings

    require_kind(kind)
    ranges = _ranges(vectors.shape[1], kind, calibration)
    _require_finite(vectors)
    codes: Codes = quantize_embeddings(np.asarray(vectors, dtype=np.float32), precision=kind, ranges=ranges)
    return codes


def dequantize(codes: Codes, kind: Kind, calibration: Calibration | None = None) -> NDArray[np.float32]:
    """The vectors (n, D) that codes stand for: the middle of each step, or 1 and -1 for a bit.

    Bits give a multiple of 8 dimensions; those behind the last one of the vector are -1 in every row.

    Raises:
        UserError: There is no such kind, no calibration, or one of other dimensions.
    """
    require_kind(kind)
    if not needs_calibration(kind):
        return np.unpackbits(as_bytes(codes, kind), axis=1).astype(np.float32) * 2 - 1
    ranges = _ranges(codes.shape[1], kind, calibration)
    assert ranges is not None  # `_ranges` raised otherwise
    steps = np.where(ranges[0] == ranges[1], 0, (ranges[1] - ranges[0]) / 255)
    middle: NDArray[np.float32] = ranges[0] + (codes.astype(np.float32) + (128.5 if kind == "int8" else 0.5)) * steps
    return middle


def rendered(vectors: NDArray[np.floating], kind: Kind, calibration: Calibration | None = None) -> NDArray[np.float32]:
    """The vectors (n, D) that a reader of the codes sees: quantized, and back."""
    return dequantize(quantize(vectors, kind, calibration), kind, calibration)[:, : vectors.shape[1]]


def as_bytes(codes: Codes, kind: Kind) -> NDArray[np.uint8]:
    """Codes as bytes without the offset of the signed kinds."""
    return codes.view(np.uint8) ^ np.uint8(128) if kind in ("int8", "binary") else codes.view(np.uint8)


def _require_finite(vectors: NDArray[np.floating]) -> None:
    fix = "give vectors of numbers"
    require_directions(vectors, lambda row: f"vector {row}, counted from 0,", null=lambda _: True, fix=fix)


def _ranges(size: int, kind: Kind, calibration: Calibration | None) -> NDArray[np.float32] | None:
    if not needs_calibration(kind):
        return None
    if calibration is None:
        raise UserError(
            f"vectors of kind {kind} need a calibration\nfix: give Calibration.of(vectors), of 1,000 or more"
        )
    if len(calibration.low) != size:
        raise UserError(
            f"the calibration has {len(calibration.low)} dimensions, and the vectors have {size}\n"
            "fix: give that of these vectors"
        )
    return calibration.ranges


class Nearest(NamedTuple):
    """The nearest rows of each query."""

    rows: NDArray[np.int64]  # (m, k) numbers of rows, the nearest first
    scores: NDArray[np.float32]  # (m, k) inner products of the query with these rows


def nearest(
    queries: NDArray[np.floating],
    corpus: Codes | ShardedVectors,
    k: int,
    *,
    kind: Kind,
    calibration: Calibration | None = None,
    vectors: VectorsOnDisk | None = None,
    multiplier: int = 4,
) -> Nearest:
    """Search codes for the rows that are nearest to queries, and score the best again more exactly.

    A first pass over all rows compares bits by the number of equal ones, and 8 bits by the inner product. Of its best
    `multiplier` k, the inner products of the query's own vector with the rows decide.

    Args:
        queries: (m, D) vectors, which are not quantized.
        corpus: (n, .) codes of n rows, which may be on disk; see `cse.open_vectors`.
        k: Number of rows to find; at most n.
        kind: The kind of the codes.
        calibration: The ranges, which int8 and uint8 need.
        vectors: (n, D) the rows as they were, which may be on disk: only the best of the first pass are read. None: the
            vectors that the codes stand for.
        multiplier: Rows of the first pass that are scored again, for each of the k.

    Raises:
        UserError: An argument is out of range or of another size.
    """
    require_at_least(1, "nearest", k=k, multiplier=multiplier)
    first = quantize(queries[:1], kind, calibration)
    if corpus.ndim != 2 or corpus.shape[1] != first.shape[1] or corpus.dtype != first.dtype:
        what = f"{corpus.shape} of {corpus.dtype}, and vectors of {queries.shape[1]} dimensions have {first.shape[1]}"
        raise UserError(f"the corpus of {kind} codes is {what} of {first.dtype}\nfix: give codes of the same model")
    k, size = min(k, len(corpus)), queries.shape[1]
    found = Nearest(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    for i, query in enumerate(np.asarray(queries, dtype=np.float32)):
        rough = _first_pass(query, corpus, kind, calibration)  # (n,)
        best = np.argsort(-rough, kind="stable")[: min(multiplier * k, len(corpus))]  # of equal ones, the first
        exact = dequantize(corpus[best], kind, calibration)[:, :size] if vectors is None else vectors[best]
        scores = exact @ query
        order = np.lexsort((best, -scores))[:k]
        found.rows[i], found.scores[i] = best[order], scores[order]
    return found


def _first_pass(
    query: NDArray[np.float32], corpus: Codes | ShardedVectors, kind: Kind, calibration: Calibration | None
) -> NDArray[np.float32]:
    """(n,) how near each row seems."""
    parts = [np.zeros(0, dtype=np.float32)]
    code = as_bytes(quantize(query[None], kind, calibration), kind)
    for start in range(0, len(corpus), BLOCK):
        block = corpus[start : start + BLOCK]
        if needs_calibration(kind):
            parts.append(dequantize(block, kind, calibration) @ query)
        else:
            parts.append(-BITS[as_bytes(block, kind) ^ code].sum(1, dtype=np.float32))  # the negative Hamming distance
    return np.concatenate(parts)
