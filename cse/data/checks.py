"""Checks of the training text before training: counts, lengths, languages, and overlap with evaluation sets."""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from cse.data.datasets import Dataset
from cse.data.reading.numbering import Numbering, Numbers, fingerprints, without_collision
from cse.data.reading.texts import same_text_key
from cse.data.tokens import TokenStore
from cse.data.tools.writing import UNITS
from cse.files import cache_dir, read_sealed, write_sealed, writing_cache

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("cse")
FORMAT = 1  # to be raised when other figures are counted
FILE = "data.json"  # in the folder of a run
_LENGTHS = {"mean": float, "median": int, "p95": int, "max": int, "histogram": {"*": int}}
_SHARED = {"texts": int, "shared_texts": int, "pairs": int, "shared_pairs": int}
_COUNTED = {"data": str, "sha256": str, "rows": int, "left_out": {"*": int}}
_REPORT = {
    **_COUNTED,
    "texts": {"all": int, "distinct": int, "distinct_normalized": int, "same_in_row": int},
    "words?": _LENGTHS,
    "tokens?": {**_LENGTHS, "max_length": int, "truncated": int},
    "scores?": {"min": float, "max": float, "mean": float},
    "labels?": {"*": int},
    "scripts": {"*": float},
    "languages": {"*": float},
    "languages_sample": int,
    "overlap": {"*": _SHARED},
}
SHAPE = ({**_COUNTED, "sources": {"*": _REPORT}}, _REPORT)  # of a mixture, of others; for `cse.files.read_shaped`
BINS = (4, 8, 16, 32, 64, 128, 256, 512)  # upper ends of the bars of a histogram
SAMPLE = 500  # number of texts, evenly spaced, whose language is guessed
LETTERS = 20  # smallest number of letters for which a language is guessed
SURE = 0.5  # probability from which a guess counts as sure
SHOWN = 5  # number of shared texts that are listed as examples

EvaluationSets = Mapping[str, Sequence[tuple[str, ...]]]  # name -> rows of one text or two


@runtime_checkable
class KnowsTexts(Protocol):
    """An evaluator that can also list the texts of the evaluation sets on this machine."""

    def texts(self, data: str | None = None) -> EvaluationSets:
        """The rows of every evaluation set on this machine, by name; `data` is a folder with more sets."""
        ...


def examine(data: Dataset, tokens: TokenStore | _Numbered, sets: EvaluationSets) -> dict[str, Any]:
    """Count the training texts, their lengths, scripts and languages, and their overlap with evaluation sets.

    All counts are exact, at any size, in bounded memory. They are kept in the cache, so that a second run does not read
    all texts again.

    Args:
        data: The training rows.
        tokens: The texts of the rows, tokenized for training; or only numbered, for a report without tokens.
        sets: The evaluation sets to compare with.

    Returns:
        A mapping to write as JSON. `rows` and `left_out` (by reason) are counts of the reader. `texts` has `all`,
        `distinct`, `distinct_normalized` (see `same_text_key`) and `same_in_row`, the rows with the same text twice.
        `words` and `tokens` are lengths with a histogram. `scripts` and `languages` are shares in a sample. `overlap`
        has, for each set, its distinct `texts`, those that are training texts (`shared_texts`, with a few `examples`),
        its `pairs`, and those whose two texts are in one training row, in any order (`shared_pairs`); texts count as
        the same by `same_text_key`.
    """
    report = _read_of(data) | _counted(data, tokens, sets)
    if isinstance(tokens, TokenStore):
        cut, behind = tokens.truncated, tokens.lengths()  # of texts with their prompts
        share = round(cut / max(1, behind.total()), 4)
        report["tokens"] = {**lengths(behind), "max_length": tokens.max_length}
        report["tokens"] |= {"truncated": cut, "truncated_share": share}
    return report


def of_sources(data: Dataset, reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The report on a mixture: its counts, and in `sources` the report on each source."""
    return _read_of(data) | {"sources": dict(reports)}


def _read_of(data: Dataset) -> dict[str, Any]:
    left_out = {name: count for name, count in data.report.items() if count}
    return {"data": data.name, "sha256": data.hash, "rows": len(data), "left_out": left_out}


def _counted(data: Dataset, tokens: TokenStore | _Numbered, sets: EvaluationSets) -> dict[str, Any]:
    """The counts that need all texts, from the cache if they were made before."""
    named = hashlib.sha256(f"{FORMAT} {data.hash} ".encode())
    for name, rows in sets.items():
        named.update(repr((name, list(rows))).encode())
    file = cache_dir() / "checks" / f"{named.hexdigest()[:32]}.json"
    with suppress(OSError, ValueError):
        return read_sealed(file)
    if file.exists():
        log.warning("%-10s the cache entry %s is damaged; building it again", "checks", file)
    found = _count(data, tokens, sets)
    with writing_cache("checks"):
        write_sealed(file, found)
    return found


def _count(data: Dataset, tokens: TokenStore | _Numbered, sets: EvaluationSets) -> dict[str, Any]:
    """Read all texts once."""
    shared, words, sample, twice, every = _Shared(sets), Counter[int](), list[str](), 0, max(1, len(tokens) // SAMPLE)
    with TemporaryDirectory(prefix="cse-") as folder:
        normalized, highest, size = Numbering(Path(folder)), -1, 0
        for rows in data.blocks():
            flat = [text for row in rows for text in row]
            numbers = tokens.text_ids(flat)
            before = np.maximum.accumulate(np.concatenate([[highest], numbers]))
            keys = list(map(same_text_key, flat))
            for i in np.flatnonzero(numbers > before[:-1]).tolist():  # the first of its kind
                words[len(flat[i].split())] += 1
                if numbers[i] % every == 0:
                    sample.append(flat[i])
            highest, size = int(before[-1]), size + len(flat)
            normalized.add(fingerprints(keys))
            each = iter(keys)
            by_row = [[next(each) for _ in row] for row in rows]
            twice += sum(len(set(row)) < len(row) for row in by_row)
            shared.add(by_row)
        distinct = normalized.count
        normalized.close()
    return {
        "texts": {"all": size, "distinct": len(tokens), "distinct_normalized": distinct, "same_in_row": twice},
        "words": lengths(words),
        **_languages(sample),
        "overlap": shared.result(),
    }


def lengths(counts: Mapping[int, int]) -> dict[str, Any]:
    """Mean, quantiles and a histogram of lengths, given how often each occurs: `5-8` counts the lengths 5 to 8."""
    bars: dict[str, int] = {}
    low = 0
    for high in BINS:
        bars[f"{low}-{high}"] = sum(count for v, count in counts.items() if low <= v <= high)
        low = high + 1
    bars[f"{low}-"] = sum(count for v, count in counts.items() if v >= low)
    total = sum(counts.values())
    return {
        "mean": round(sum(v * count for v, count in counts.items()) / max(1, total), 2),
        **{name: _quantile(counts, total, q) for name, q in (("min", 0), ("median", 0.5), ("p95", 0.95), ("max", 1))},
        "histogram": {name: count for name, count in bars.items() if count},
    }


def _quantile(counts: Mapping[int, int], total: int, q: float) -> int:
    """The value at a place of all values in ascending order."""
    place, before = round(q * (total - 1)), 0
    for value in sorted(counts):
        before += counts[value]
        if place < before:
            return value
    return 0


class _Shared:
    """Collects the keys of evaluation texts that occur in training rows, and the pairs of them in one row."""

    def __init__(self, sets: EvaluationSets) -> None:
        self._sets = sets
        self._wanted = {same_text_key(text) for rows in sets.values() for row in rows for text in row} - {""}
        self._known: set[str] = set()
        self._together: set[frozenset[str]] = set()

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Look at the keys of the texts of rows."""
        for row in rows:
            found = [key for key in row if key in self._wanted]
            self._known.update(found)
            if len(found) > 1:
                self._together.update(map(frozenset, combinations(found, 2)))

    def result(self) -> dict[str, dict[str, Any]]:
        """The `overlap` of a report."""
        result: dict[str, dict[str, Any]] = {}
        for name, rows in self._sets.items():
            own = {same_text_key(text): text for row in rows for text in row}
            own.pop("", None)
            pairs = {frozenset(map(same_text_key, row)) for row in rows if len(row) == 2}
            shared = sorted(text for key, text in own.items() if key in self._known)
            result[name] = {
                "texts": len(own),
                "shared_texts": len(shared),
                "pairs": len(pairs),
                "shared_pairs": len(pairs & self._together),
                "examples": shared[:SHOWN],
            }
        return result


def _languages(texts: Sequence[str]) -> dict[str, Any]:
    """The shares of scripts and of guessed languages in a sample of texts.

    The language is guessed from statistics of letters (py3langid). The guess is weak for short texts; a guess that is
    not sure counts as `unsure`. Shares below 1% are noise and left out.
    """
    sample = [text for text in texts if sum(map(str.isalpha, text)) >= LETTERS][:SAMPLE]
    scripts = Counter(_script(char) for text in sample for char in text if char.isalpha())
    guesses = [_identifier().classify(text) for text in sample]
    languages = Counter(str(code) if p >= SURE else "unsure" for code, p in guesses)
    return {"scripts": _shares(scripts), "languages": _shares(languages), "languages_sample": len(sample)}


@cache
def _script(char: str) -> str:
    """The script of a letter: `LATIN` for LATIN SMALL LETTER A."""
    return unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = max(1, counts.total())
    return {name: round(count / total, 3) for name, count in counts.most_common() if count >= 0.01 * total}


def remarks(data: Dataset) -> list[str]:
    """Describe in words what is unusual about rows that are kept."""
    return [f"{count:,} rows have a {remark}" for remark, count in data.remarks.items()]


def overlap_warnings(report: Mapping[str, Any]) -> list[str]:
    """Warnings about overlap that are worth showing without opening the report: one line or none."""
    shared = {name: each for name, each in report["overlap"].items() if each["shared_texts"]}
    if not shared:
        return []
    parts = [f"{name} {each['shared_texts']} of {each['texts']:,}" for name, each in shared.items()]
    return [f"evaluation texts are among the training texts: {', '.join(parts)}; scores on these sets will be too high"]


def stats(data: Dataset, against: EvaluationSets | None = None) -> dict[str, Any]:
    """Count rows, texts, repetitions, lengths, languages, labels and scores.

    Args:
        data: The rows.
        against: Evaluation sets by name, whose texts are looked for.

    Returns:
        What `cse.data.checks.examine` returns, without lengths in tokens; `class`; `labels`, the number of rows of
        each; and `scores`, with `min`, `mean` and `max`, on the scale on which they were read.
    """
    with TemporaryDirectory(prefix="cse-") as folder:
        report = examine(data, without_collision(lambda seed: _Numbered(data, Path(folder), seed)), against or {})
    report = {"class": UNITS.get(data.unit, data.unit), **report}
    labels, scores = data.labels(), data.scores()
    if labels is not None:
        counts = np.bincount(labels, minlength=len(data.label_names))
        report["labels"] = dict(zip(data.label_names, counts.tolist(), strict=True))
    if scores is not None:
        report["scores"] = {name: float(f(scores)) for name, f in (("min", np.min), ("mean", np.mean), ("max", np.max))}
    return report


class _Numbered:
    """Gives numbers to texts in the order of their first occurrence, as a `TokenStore` does, without tokens."""

    def __init__(self, data: Dataset, folder: Path, seed: int) -> None:
        numbering, self._seed = Numbering(folder), seed
        for block in data.texts().blocks():
            numbering.add(fingerprints(block, seed))
        numbering.close()
        self._numbers = Numbers(folder)

    def __len__(self) -> int:
        return len(self._numbers)

    def text_ids(self, texts: list[str]) -> NDArray[np.int64]:
        """The numbers (n,) of texts."""
        return self._numbers.find(fingerprints(texts, self._seed))
