"""`python -m eval parts`: differences of pairs, retrieval of spans, and windows of long texts against truncation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cse
from cse.data.datasets import Pairs, Texts
from cse.data.propositions import Propositions
from cse.encoder.model import Encoder
from cse.encoder.vectors import unit
from cse.errors import UserError
from cse.files import read_json, write_json
from cse.inference.diff import Difference, Method, Word
from cse.seeding import python_rng

Ranks = NDArray[np.float64]
DIFFERING = (  # what differs in meaning stands in brackets; the rest is said in other words or in another order
    ("The committee approved the [new] budget on [Monday].", "On [Tuesday] the committee agreed to the [old] budget."),
    ("She bought [three] tickets for the evening show.", "For the show in the evening, she got [five] tickets."),
    ("The bridge was [closed] to traffic after the flood.", "After the flood, the bridge was [opened] to cars."),
    ("The company [hired] two hundred people last year.", "Last year the firm [dismissed] two hundred people."),
    ("A [man] is playing a [guitar] on the street.", "On the street, a [woman] plays a [flute]."),
    ("The train to [Oslo] leaves at noon from platform two.", "At midday the [Bergen] train leaves platform two."),
    ("The doctor told him to rest for [a week].", "He was advised by the doctor to take [a month] of rest."),
    ("Prices of wheat [fell] because of the good harvest.", "Owing to the good harvest, wheat became [dearer]."),
    ("The [youngest] of the brothers inherited the farm.", "It was the [oldest] brother who was left the farm."),
    ("The museum shows art from [Spain] until June.", "Until the end of June, one can see [Dutch] art at the museum."),
)
FILLERS = 9  # sentences around the relevant one in a long text
LENGTH = 128  # tokens that an encoder reads of a long text at a time
TRAINED = 32  # rows of propositions that the sub-sentence encoder is trained on; the others are searched
SEEDS = (42, 43, 44)
METHODS: tuple[Method, ...] = ("align", "delete", "mask")


def measure(models: Sequence[str], pairs: str, filler: str, out: Path, note: str) -> None:
    """Measure all of it and write the file, in which what was measured of other models and texts stays."""
    found = read_json(out) if out.exists() else {"diff": {}, "spans": {}, "windows": {}}
    found["note"] = note or found.get("note", "")
    found["diff"]["words that the other text lacks"] = differing([lacking(*map(unmarked, pair)) for pair in DIFFERING])
    first, second = ([unmarked(pair[side]) for pair in DIFFERING] for side in (0, 1))
    for model in models:
        name, encoder = Path(model).name, Encoder.load(model)
        for method in METHODS:
            try:
                shown = cse.diff(first, second, model=encoder, method=method)
            except UserError:  # it has no masked-LM head
                continue
            found["diff"][f"{method}, {name}"] = differing(shown)
        found["spans"][name] = answering(encoder)
        found["windows"][f"{Path(pairs).name} in {Path(filler).name}, {name}"] = by_windows(encoder, pairs, filler)
        write_json(out, found)
    found["propositions"] = found.get("propositions") or matching()  # of no model or text that was named
    write_json(out, found)


# -- cse diff ------------------------------------------------------------------------------------------------------


def unmarked(text: str) -> str:
    """A text without its brackets."""
    return re.sub(r"[\[\]]", "", text)


def marked(text: str) -> list[tuple[int, int]]:
    """The ranges of characters, brackets not counted, that stand in brackets."""
    opened = [m.start() - 2 * i for i, m in enumerate(re.finditer(r"\[", text))]
    closed = [m.start() - 2 * i - 1 for i, m in enumerate(re.finditer(r"\]", text))]
    return list(zip(opened, closed, strict=True))


def lacking(a: str, b: str) -> Difference:
    """The difference of two texts by words alone: 1 for a word that the other text lacks, whatever its case, else 0."""
    sides = [[(m[0], *m.span(), m[0].strip(".,").lower()) for m in re.finditer(r"\S+", text)] for text in (a, b)]
    known = [{word for *_, word in side} for side in sides]
    first, second = (
        tuple(Word(text, start, end, float(word not in known[1 - i])) for text, start, end, word in side)
        for i, side in enumerate(sides)
    )
    return Difference(a, b, first, second)


def differing(found: Sequence[Difference]) -> float:
    """Mean average precision x 100 of the words in brackets among the words of each pair, ranked by their scores."""
    each = []
    for pair, difference in zip(DIFFERING, found, strict=True):
        sides = zip((difference.words_a, difference.words_b), map(marked, pair), strict=True)
        rows = [(w.score, any(s < w.end and w.start < e for s, e in ranges)) for words, ranges in sides for w in words]
        each.append(average_precision(*map(np.array, zip(*rows, strict=True))))
    return round(100 * float(np.mean(each)), 2)


def average_precision(scores: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Average precision of the wanted, expected over the orders of equal scores: each threshold is one step."""
    total, before = 0.0, 0
    for threshold in np.unique(scores)[::-1]:
        hits = int(wanted[scores >= threshold].sum())
        total += (hits - before) * hits / int((scores >= threshold).sum())
        before = hits
    return total / before


# -- Spans ---------------------------------------------------------------------------------------------------------


def answering(encoder: Encoder) -> dict[str, Any]:
    """Whether a question finds the sentence that answers it among those of its document.

    A document has the passage that answers a question, the one about the same that does not, and three others, in
    random order. `in its text` reads a sentence as a span of the document, `alone` as a text.
    """
    rows = [line.split("\t") for line in resolve("edits-mini").read_text(encoding="utf-8").splitlines()[1:]]
    passages, documents, spans, right = [row[1] for row in rows], [], [], []
    for i, row in enumerate(rows):
        rng = python_rng("spans", i)
        sentences = [row[1], row[2], *rng.sample([p for p in passages if p != row[1]], 3)]
        rng.shuffle(sentences)
        begun = np.cumsum([0, *(len(sentence) + 1 for sentence in sentences)]).tolist()
        documents.append(" ".join(sentences))
        spans.append([(start, start + len(sentence)) for start, sentence in zip(begun, sentences, strict=False)])
        right.append(sentences.index(row[1]))
    questions = unit(encoder.encode([row[0] for row in rows]))
    inside = np.stack([unit(found) for found in encoder.encode_spans(documents, spans)])  # (n, 5, D)
    alone = np.stack(
        [unit(encoder.encode([d[s:e] for s, e in each])) for d, each in zip(documents, spans, strict=True)]
    )
    found: dict[str, Any] = {"questions": len(rows), "sentences": 5}
    for name, vectors in (("in its text", inside), ("alone", alone)):
        own = np.einsum("nd,nsd->ns", questions, vectors)
        found[name] = round(100 * float((own.argmax(1) == right).mean()), 2)
    return found


def resolve(name: str) -> Path:
    """The file of an asset."""
    from cse import assets

    return assets.resolve(name)


def matching() -> dict[str, Any]:
    """Whether a proposition finds the one that says the same in the other sentences, before and after training.

    The sub-sentence encoder is trained on the first rows of the asset; the other rows are searched: each proposition of
    a first sentence that has an equal one, among the propositions of all second sentences.
    """
    rows = list(Propositions("asset:propositions-mini"))
    lines = resolve("propositions-mini").read_text(encoding="utf-8").splitlines()
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        with TemporaryDirectory(prefix="cse-parts-") as folder:
            data = Path(folder, "train.jsonl")
            data.write_text("\n".join(lines[:TRAINED]), encoding="utf-8")
            run = cse.train("sub-sentence", data=str(data), seed=seed, run_dir=Path(folder, "run"))
            trained = Encoder.load(str(run.last))
        for name, encoder in (("untrained", Encoder("asset:mini", pooler="mean")), ("trained", trained)):
            found.setdefault(name, []).append(_matched(encoder, rows[TRAINED:]))
    return {"rows": len(rows) - TRAINED, "seeds": list(SEEDS)} | found


def _matched(encoder: Encoder, rows: Sequence[Any]) -> float:
    sides = [[row.spans[side] for row in rows] for side in (0, 1)]
    vectors = [
        unit(np.concatenate(encoder.encode_spans([row.texts[side] for row in rows], [s.ranges for s in sides[side]])))
        for side in (0, 1)
    ]
    first, second = ([(i, g) for i, spans in enumerate(side) for g in spans.groups] for side in sides)
    nearest = (vectors[0] @ vectors[1].T).argmax(1)
    hits = [second[j] == own for own, j in zip(first, nearest, strict=True) if own in second]
    return round(100 * float(np.mean(hits)), 2)


# -- Windows -------------------------------------------------------------------------------------------------------


def by_windows(encoder: Encoder, pairs: str, filler: str) -> dict[str, Any]:
    """How well a text finds the long text that holds its partner: cut, in windows, and in windows that overlap by half.

    Returns:
        Mean reciprocal rank x 100 among all long texts: of those whose partner ends within the first window, and of
        those where it begins behind it; with the numbers of both, and the difference to truncation with its interval.
    """
    encoder.max_length = LENGTH
    rows = [row.texts[:2] for row in Pairs(pairs, columns=_columns(pairs), limit=150)]
    others = Texts(filler, limit=2_000, min_words=8).unique_texts()
    documents, place = [], []
    for i, (_, partner) in enumerate(rows):
        rng = python_rng("windows", i)
        around, before = rng.sample(others, FILLERS), rng.randrange(FILLERS + 1)
        documents.append(" ".join([*around[:before], partner, *around[before:]]))
        ends = [len(encoder.tokenizer(" ".join(around[:before] + more))["input_ids"]) for more in ([], [partner])]
        place.append(-1 if ends[1] <= LENGTH else int(ends[0] >= LENGTH))
    queries = unit(encoder.encode([text for text, _ in rows]))
    room, where = LENGTH - 2, np.array(place)
    vectors: dict[str, int | None] = {"cut": None, "windows": room, "overlapping": room // 2}
    ranks = {name: reciprocal(queries @ unit(encoder.encode(documents, windows=s)).T) for name, s in vectors.items()}
    found: dict[str, Any] = {"texts": len(rows), "tokens": LENGTH}
    for part, chosen in (("within", where == -1), ("behind", where == 1)):
        found[part] = {"texts": int(chosen.sum())}
        for name, each in ranks.items():
            found[part][name] = round(100 * float(each[chosen].mean()), 2)
        for name in ("windows", "overlapping"):
            found[part][f"{name} - cut"] = _interval(100 * (ranks[name] - ranks["cut"])[chosen])
    return found


def _columns(pairs: str) -> list[str | int] | None:
    """Columns of a table without a header by number; recognized ones otherwise."""
    return [0, 1] if pairs.endswith(".tsv.gz") else None


def reciprocal(similarity: NDArray[np.float32]) -> Ranks:
    """(n,) one over the rank of the own document in each row of similarities (n, n)."""
    own = similarity.diagonal()[:, None]
    ranks: Ranks = 1.0 / (1 + (similarity > own).sum(1))
    return ranks


def _interval(values: NDArray[np.float64]) -> list[float]:
    """The mean, and its 95% interval by the bootstrap."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2_000, len(values)))].mean(1)
    return [round(float(v), 2) for v in (values.mean(), *np.quantile(means, [0.025, 0.975]))]
