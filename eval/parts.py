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
FOLDS = 3  # parts of the rows of propositions: each is searched by encoders that were trained on the others
SEEDS = (42, 43, 44)
SUB_SENTENCE = {  # options of the recipe sub-sentence
    "trained": [],
    "trained without the new head": ["--encoder.head=none", "--encoder.export_head=false"],
}
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
    found["propositions"] = matching()
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

    Every row of the asset is searched once for each seed, by an encoder that was trained on the other two thirds of the
    rows: each proposition that has an equal one, among the propositions of the other sentences of its third.
    """
    rows = list(Propositions("asset:propositions-mini"))
    lines = resolve("propositions-mini").read_text(encoding="utf-8").splitlines()
    plain = Encoder("asset:mini", pooler="mean")
    before = [ranks for fold in range(FOLDS) for ranks in reciprocals(plain, rows[fold::FOLDS])]
    found: dict[str, Any] = {"rows": len(rows), "folds": FOLDS, "seeds": list(SEEDS)}
    found |= {"propositions": sum(map(len, before)), "untrained": _figures([before])}
    for name, options in SUB_SENTENCE.items():
        after: list[list[Ranks]] = []
        for seed in SEEDS:
            encoders = (_trained(lines, fold, seed, options) for fold in range(FOLDS))
            after.append([r for fold, e in enumerate(encoders) for r in reciprocals(e, rows[fold::FOLDS])])
        means = [np.mean(ranks, 0) for ranks in zip(*after, strict=True)]
        changes = [100 * (mean - old) for mean, old in zip(means, before, strict=True)]
        sums, counts = np.array([row.sum() for row in changes]), np.array([float(row.size) for row in changes])
        found[name] = _figures(after) | {"change": _interval(sums, counts)}
    return found


def _trained(lines: Sequence[str], fold: int, seed: int, options: list[str]) -> Encoder:
    """An encoder that was trained on all rows but a third of them."""
    with TemporaryDirectory(prefix="cse-parts-") as folder:
        data = Path(folder, "train.jsonl")
        data.write_text("\n".join(line for i, line in enumerate(lines) if i % FOLDS != fold), encoding="utf-8")
        overrides = ["--evaluator=null", *options]
        run = cse.train("sub-sentence", data=str(data), seed=seed, run_dir=Path(folder, "run"), overrides=overrides)
        return Encoder.load(str(run.last))


def reciprocals(encoder: Encoder, rows: Sequence[Any]) -> list[Ranks]:
    """For each row, one over the rank of the nearest equal proposition, of all propositions that have an equal one.

    Those of a first sentence search all second sentences, and those of a second sentence search all first ones.
    """
    spans = [[row.spans[side] for row in rows] for side in (0, 1)]
    vectors = [
        unit(np.concatenate(encoder.encode_spans([row.texts[side] for row in rows], [s.ranges for s in spans[side]])))
        for side in (0, 1)
    ]
    names = [[(i, group) for i, own in enumerate(side) for group in own.groups] for side in spans]
    found: list[list[float]] = [[] for _ in rows]
    for side in (0, 1):
        cosines = vectors[side] @ vectors[1 - side].T
        for name, cosine in zip(names[side], cosines, strict=True):
            right = np.array([other == name for other in names[1 - side]])
            if right.any():
                found[name[0]].append(1 / (1 + int((cosine > cosine[right].max()).sum())))
    return [np.array(row, dtype=np.float64) for row in found]


def _figures(runs: Sequence[Sequence[Ranks]]) -> dict[str, list[float]]:
    """Hits and mean reciprocal rank x 100 of each run."""
    each = [np.concatenate(run) for run in runs]
    hits = [round(100 * float((ranks == 1).mean()), 2) for ranks in each]
    return {"hits": hits, "reciprocal": [round(100 * float(ranks.mean()), 2) for ranks in each]}


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


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64] | None = None) -> list[float]:
    """The mean, and its 95% interval by the bootstrap over units.

    Args:
        sums: The sum of the values of each unit.
        counts: Their number in each unit; None: one.
    """
    counts = np.ones_like(sums) if counts is None else counts
    drawn = np.random.default_rng(0).integers(0, len(sums), (2_000, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return [round(float(v), 2) for v in (sums.sum() / counts.sum(), *np.quantile(means, [0.025, 0.975]))]
