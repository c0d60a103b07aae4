"""Checks of the training text before training: counts, lengths, languages, and overlap with evaluation sets."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cse.data.same_text import same_text_key

if TYPE_CHECKING:
    from cse.data.datasets import Dataset
    from cse.data.tokens import TokenStore

FILE = "data.json"  # in the folder of a run
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


def examine(data: Dataset, tokens: TokenStore, sets: EvaluationSets) -> dict[str, Any]:
    """Count the training texts, their lengths, scripts and languages, and their overlap with evaluation sets.

    Args:
        data: The training rows.
        tokens: The texts of the rows, tokenized for training.
        sets: The evaluation sets to compare with.

    Returns:
        A mapping to write as JSON. `rows` and `left_out` (by reason) are counts of the reader. `texts` has `all`,
        `distinct`, `distinct_normalized` (see `same_text_key`) and `same_in_row`, the rows with the same text twice.
        `words` and `tokens` are lengths with a histogram. `scripts` and `languages` are shares in a sample. `overlap`
        is the result of the function `overlap`.
    """
    texts = data.unique_texts()
    keys = {text: same_text_key(text) for text in texts}
    cut, behind = tokens.truncated, tokens.lengths()  # of texts with their prompts
    return {
        "data": data.name,
        "sha256": data.hash,
        "rows": len(data),
        "left_out": {name: count for name, count in data.report.items() if count},
        "texts": _counts(data, keys),
        "words": lengths([len(text.split()) for text in texts]),
        "tokens": lengths(behind.tolist())
        | {"max_length": tokens.max_length, "truncated": cut, "truncated_share": round(cut / max(1, len(behind)), 4)},
        **_languages(texts),
        "overlap": overlap(data, keys, sets),
    }


def of_sources(data: Dataset, reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The report on a mixture: its counts, and in `sources` the report on each source."""
    return {
        "data": data.name,
        "sha256": data.hash,
        "rows": len(data),
        "left_out": {name: count for name, count in data.report.items() if count},
        "sources": dict(reports),
    }


def lengths(values: Sequence[int]) -> dict[str, Any]:
    """Mean, quantiles and a histogram of lengths; `5-8` counts the texts of length 5 to 8."""
    ordered = sorted(values)
    bars: dict[str, int] = {}
    low = 0
    for high in BINS:
        bars[f"{low}-{high}"] = sum(low <= v <= high for v in ordered)
        low = high + 1
    bars[f"{low}-"] = sum(v >= low for v in ordered)
    return {
        "mean": round(sum(ordered) / max(1, len(ordered)), 2),
        **{name: _quantile(ordered, q) for name, q in (("min", 0), ("median", 0.5), ("p95", 0.95), ("max", 1))},
        "histogram": {name: count for name, count in bars.items() if count},
    }


def _quantile(ordered: Sequence[int], q: float) -> int:
    return ordered[round(q * (len(ordered) - 1))] if ordered else 0


def _counts(data: Dataset, keys: Mapping[str, str]) -> dict[str, int]:
    rows = [example.texts for example in data]
    return {
        "all": sum(map(len, rows)),
        "distinct": len(keys),
        "distinct_normalized": len(set(keys.values())),
        "same_in_row": sum(len({keys[text] for text in row}) < len(row) for row in rows),
    }


def overlap(data: Iterable[Any], keys: Mapping[str, str], sets: EvaluationSets) -> dict[str, dict[str, Any]]:
    """Count the texts and pairs of each evaluation set that occur in the training data, up to `same_text_key`.

    Args:
        data: The training rows.
        keys: The `same_text_key` of each distinct text of the rows.
        sets: The evaluation sets.

    Returns:
        For each set: `texts`, the number of distinct texts, and `shared_texts`, the number of those that are training
        texts; `pairs`, and `shared_pairs`, the number of pairs whose two texts are in one training row, in any order;
        `examples`, a few of the shared texts.
    """
    wanted = {same_text_key(text) for rows in sets.values() for row in rows for text in row} - {""}
    found = {text: key for text, key in keys.items() if key in wanted}
    known = set(found.values())
    together = _together(data, found)
    result: dict[str, dict[str, Any]] = {}
    for name, rows in sets.items():
        own = {same_text_key(text): text for row in rows for text in row}
        own.pop("", None)
        pairs = {frozenset(map(same_text_key, row)) for row in rows if len(row) == 2}
        shared = sorted(text for key, text in own.items() if key in known)
        result[name] = {
            "texts": len(own),
            "shared_texts": len(shared),
            "pairs": len(pairs),
            "shared_pairs": len(pairs & together),
            "examples": shared[:SHOWN],
        }
    return result


def _together(data: Iterable[Any], found: Mapping[str, str]) -> set[frozenset[str]]:
    """The pairs of keys of evaluation texts that occur in one training row."""
    if not found:
        return set()
    rows = ([found[text] for text in example.texts if text in found] for example in data)
    return {frozenset(pair) for row in rows for pair in combinations(row, 2)}


def _languages(texts: Sequence[str]) -> dict[str, Any]:
    """The shares of scripts and of guessed languages in a sample of texts.

    The language is guessed from statistics of letters (py3langid). The guess is weak for short texts; a guess that is
    not sure counts as `unsure`. Shares below 1% are noise and left out.
    """
    every = max(1, len(texts) // SAMPLE)
    sample = [text for text in texts[::every] if sum(map(str.isalpha, text)) >= LETTERS][:SAMPLE]
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


def overlap_warnings(report: Mapping[str, Any]) -> list[str]:
    """Warnings about overlap that are worth showing without opening the report: one line or none."""
    shared = {name: each for name, each in report["overlap"].items() if each["shared_texts"]}
    if not shared:
        return []
    parts = [f"{name} {each['shared_texts']} of {each['texts']:,}" for name, each in shared.items()]
    return [f"evaluation texts are among the training texts: {', '.join(parts)}; scores on these sets will be too high"]
