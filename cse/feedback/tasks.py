"""The tasks: each asks questions about rows and makes records of a training file; README.md lists them.

Records are in the order of the rows, whatever the order of the answers. A row that gives no record is set aside with a
reason. Of `queries` and `rewrites`, a row with fewer usable texts than were asked for has null in the last places,
which `TextViews(sample=...)` does not draw.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cse.data.reading.texts import same_text_key
from cse.feedback.answers import MARK, same
from cse.feedback.job import Job, Outcome, Question
from cse.feedback.prompts import Prompt
from cse.seeding import python_rng

Prompts = Mapping[str, Prompt]
Record = dict[str, Any]
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # CLAIF: shares of words to mask
MERGE = 0.5  # CLAIF: the probability that adjacent gaps become one
_SHOWN = 2000  # characters of an unusable answer that are kept in the rejects


@dataclass(frozen=True, slots=True)
class Input:
    """A row: its number, counted from 1, its place in the file, its texts, and its label if rows have one."""

    row: int
    place: str
    texts: tuple[str, ...]
    label: str | None = None

    @property
    def kept(self) -> dict[str, str]:
        """Pick what a record that is made of the row takes over from it."""
        return {} if self.label is None else {"label": self.label}

    def aside(self, reason: str, detail: str, texts: Sequence[str] | None = None, **more: Any) -> Record:
        """A line of the rejects file; `texts` take the place of the row's."""
        shown = list(self.texts if texts is None else texts)
        return {"row": self.row, "place": self.place, "reason": reason, "detail": detail, "texts": shown, **more}


@dataclass(slots=True)
class Result:
    """The records for training, and the rows that were set aside."""

    records: list[Record] = field(default_factory=list)
    rejects: list[Record] = field(default_factory=list)

    def answered(
        self, what: str, rows: Sequence[Input], job: Job, questions: Sequence[Question], **more: Any
    ) -> Iterator[tuple[Input, Outcome]]:
        """Ask a question about each row; yield the rows with a usable answer, and set the others aside."""
        for row, outcome in zip(rows, job.ask(what, questions), strict=True):
            if outcome.answer is None:
                self.rejects.append(unanswered(row, outcome, **more))
            else:
                yield row, outcome


def score(rows: Sequence[Input], prompts: Prompts, rater: Job) -> Result:
    """Score the similarity of the two texts of each row."""
    result = Result()
    questions = [Question(prompts["score"], _pair(*row.texts)) for row in rows]
    for row, outcome in result.answered("score", rows, rater, questions):
        result.records.append(_scored(row.texts[0], row.texts[1], outcome))
    return result


def rate(
    rows: Sequence[Input], prompts: Prompts, rater: Job, *, least_positive: float = 0.6, most_negative: float = 0.6
) -> Result:
    """Keep the triplets whose positive is similar to the anchor and whose negative is less so.

    This is the filter of MultiCSR: positive >= 3 and negative <= 3 of 5, and not equal. If the negative is more similar
    than the positive, the two are swapped first. `score` is that of the positive, so that CLHAIF can train on the file.

    The rater must recognize contradictions. The cosines of an encoder are high for those too, so it would swap good
    triplets.
    """
    result = Result()
    questions = [Question(prompts["rate"], _pair(row.texts[0], row.texts[side])) for row in rows for side in (1, 2)]
    outcomes = rater.ask("rate", questions)
    for row, positive, negative in zip(rows, outcomes[::2], outcomes[1::2], strict=True):
        unusable = next((o for o in (positive, negative) if o.answer is None), None)
        if unusable is not None:
            result.rejects.append(unanswered(row, unusable))
            continue
        record = _rated(row, positive, negative)
        high, low = record["score"], record["score_negative"]
        if high >= least_positive and low <= most_negative and high != low:
            result.records.append(record)
        else:
            detail = f"positive {high:g} (at least {least_positive:g}), negative {low:g} (at most {most_negative:g})"
            result.rejects.append(row.aside("filtered", detail, rated=record))
    return result


def contrast(rows: Sequence[Input], prompts: Prompts, writer: Job) -> Result:
    """Write a positive and a contradiction for each sentence.

    A text that was written for several sentences is specific to none of them, so all those rows are set aside.
    """
    result = Result()
    questions = [Question(prompts["contrast"], {"sentence": row.texts[0]}) for row in rows]
    found = list(result.answered("contrast", rows, writer, questions))
    times = Counter(text for _, outcome in found for text in outcome.answer.texts())
    for row, outcome in found:
        if (repeated := next((text for text in outcome.answer.texts() if times[text] > 1), None)) is not None:
            detail = f"written for {times[repeated]} sentences: {repeated[:200]!r}"
            result.rejects.append(row.aside("repeated", detail, model=outcome.model))
            continue
        texts = {"entailment": outcome.answer.positive, "contradiction": outcome.answer.contradiction}
        result.records.append({"premise": row.texts[0], **texts, **outcome.provenance})
    return result


def write(
    topics: Sequence[str], genres: Sequence[str], prompts: Prompts, writer: Job, *, requests: int, count: int, seed: int
) -> Result:
    """Write `count` sentences per request. Topics and genres are random; all combinations come before one repeats."""
    combinations = [(topic, genre) for topic in topics for genre in genres]
    python_rng(seed, "write").shuffle(combinations)
    rows, fields = [], []
    for number in range(requests):
        topic, genre = combinations[number % len(combinations)]
        draw = str(1 + number // len(combinations))
        fields.append({"topic": topic, "genre": genre, "count": str(count), "draw": draw})
        rows.append(Input(number + 1, f"{genre} / {topic}", ()))
    result, seen = Result(), dict[str, int]()
    for row, outcome in result.answered("write", rows, writer, [Question(prompts["write"], f) for f in fields]):
        about = {name: fields[row.row - 1][name] for name in ("topic", "genre")}
        for text in outcome.answer.sentences:
            first = seen.setdefault(" ".join(text.casefold().split()), row.row)
            if first == row.row and not any(same(text, r["text"]) for r in result.records[-count:]):
                result.records.append({"text": text, **about, **outcome.provenance})
            else:
                result.rejects.append(row.aside("duplicate", f"written in request {first}", [text]))
    return result


def fill(
    rows: Sequence[Input],
    prompts: Prompts,
    writer: Job,
    rater: Job,
    *,
    seed: int,
    rates: Sequence[float] = RATES,
    smoothing: float = 0.1,
    random_pairs: int = 2,
    per_score: int = 2,
) -> Result:
    """Make versions of each sentence, from paraphrases to different sentences, and score their similarity to it.

    Args:
        rows: Sentences.
        prompts: The prompts by name.
        writer: Fills the gaps, or paraphrases if the rate is 0.
        rater: Scores the pairs.
        seed: Seed of masks and random pairs.
        rates: Shares of words to mask. The defaults, here and below, are the authors'.
        smoothing: A score s becomes (1 - 2 x smoothing) s + smoothing.
        random_pairs: Number of pairs with sentences of other rows, which get score 0 unasked.
        per_score: Largest number of versions of a sentence with the same score; 0 for all.

    Deviations from the authors' program: rate 0 always asks for a paraphrase (there, only for the first sentence of a
    batch), and the order does not depend on hash seeds.
    """
    result = Result()
    versions = [(row, share) for row in rows for share in rates]
    pairs, seen = [], set[tuple[int, str]]()
    outcomes = writer.ask("fill", [_gap(row, share, prompts, seed) for row, share in versions])
    for (row, share), outcome in zip(versions, outcomes, strict=True):
        if outcome.answer is None:
            result.rejects.append(unanswered(row, outcome, mask_rate=share))
        elif same(outcome.answer.sentence, row.texts[0]) or (row.row, outcome.answer.sentence) in seen:
            detail, texts = "the same as the sentence or as an earlier version", [row.texts[0], outcome.answer.sentence]
            result.rejects.append(row.aside("duplicate", detail, texts, mask_rate=share))
        else:
            seen.add((row.row, outcome.answer.sentence))
            pairs.append((row, share, outcome))
    questions = [Question(prompts["score"], _pair(row.texts[0], o.answer.sentence)) for row, _, o in pairs]
    kept: Counter[tuple[int, float]] = Counter()
    by_row: dict[int, list[Record]] = {row.row: [] for row in rows}
    for (row, share, written), rated in zip(pairs, rater.ask("score", questions), strict=True):
        if rated.answer is None:
            result.rejects.append(unanswered(row, rated, mask_rate=share))
            continue
        record = _scored(row.texts[0], written.answer.sentence, rated, smoothing)
        record |= {"mask_rate": share, "writer": written.model, "writer_prompt": written.prompt}
        kept[row.row, record["raw_score"]] += 1
        if per_score and kept[row.row, record["raw_score"]] > per_score:
            detail = f"more than {per_score} versions with the score {record['raw_score']:g}"
            result.rejects.append(row.aside("enough", detail, [record["text_a"], record["text_b"]], mask_rate=share))
        else:
            by_row[row.row].append(record)
    for row in rows:
        result.records += by_row[row.row] + _random_pairs(row, rows, random_pairs, seed)
    result.rejects.sort(key=lambda reject: int(reject["row"]))
    return result


def propositions(rows: Sequence[Input], prompts: Prompts, writer: Job) -> Result:
    """Split the sentences of each pair into propositions, by ranges of characters, and align them.

    A pair without two propositions that say the same has nothing to learn from, and is set aside.
    """
    result = Result()
    questions = [Question(prompts["propositions"], _pair(*row.texts)) for row in rows]
    for row, outcome in result.answered("propositions", rows, writer, questions):
        answer, (first, second) = outcome.answer, row.texts
        if not answer.equal:
            detail = "no proposition of one sentence says the same as one of the other"
            result.rejects.append(row.aside("nothing_equal", detail, model=outcome.model))
            continue
        record = {"text_a": first, "text_b": second, "equal": [list(pair) for pair in answer.equal]}
        record["propositions_a"] = [ranges(first, pieces) for pieces in answer.a]
        record["propositions_b"] = [ranges(second, pieces) for pieces in answer.b]
        result.records.append({**record, **outcome.provenance})
    return result


def ranges(text: str, pieces: Sequence[str]) -> list[list[int]]:
    """The ranges of the pieces of a proposition: each behind the one before if it stands there, or else the first."""
    found, end = [], 0
    for piece in pieces:
        start = text.find(piece, end)
        start = text.find(piece) if start < 0 else start
        end = start + len(piece)
        found.append([start, end])
    return sorted(found)


def queries(rows: Sequence[Input], prompts: Prompts, writer: Job, *, count: int) -> Result:
    """Write `count` questions that each passage answers."""
    return _several(rows, prompts["queries"], "passage", writer, "query", count)


def rewrites(rows: Sequence[Input], prompts: Prompts, writer: Job, *, count: int) -> Result:
    """Write `count` versions of each sentence that mean the same."""
    return _several(rows, prompts["rewrites"], "sentence", writer, "rewrite", count)


def chain(rows: Sequence[Input], prompts: Prompts, writer: Job) -> Result:
    """Paraphrase each sentence, and paraphrase the paraphrase without its words.

    The second question is asked of the rows whose first one has a usable answer.
    """
    result = Result()
    plain = [Question(prompts["paraphrase"], {"sentence": row.texts[0]}) for row in rows]
    halfway = list(result.answered("paraphrase", rows, writer, plain))
    again = [Question(prompts["reword"], {"sentence": first.answer.sentence}) for _, first in halfway]
    for (row, first), second in zip(halfway, writer.ask("reword", again), strict=True):
        paraphrase = first.answer.sentence
        if second.answer is None:
            result.rejects.append(unanswered(row, second, paraphrase=paraphrase))
        elif same(second.answer.sentence, row.texts[0]):
            texts = [row.texts[0], paraphrase, second.answer.sentence]
            result.rejects.append(row.aside("same_text", "the sentence came back", texts))
        else:
            record = {"text": row.texts[0], "paraphrase": paraphrase, "rewording": second.answer.sentence}
            result.records.append({**record, **row.kept, **second.provenance, "paraphrase_prompt": first.prompt})
    return result


def _several(rows: Sequence[Input], prompt: Prompt, about: str, writer: Job, name: str, count: int) -> Result:
    """Records of a text and up to `count` different answers; a text that was written for several rows fits none."""
    questions = [Question(prompt, {about: row.texts[0], "count": str(count)}) for row in rows]
    result, found = Result(), []
    for row, outcome in result.answered(prompt.name, rows, writer, questions):
        texts = outcome.answer.texts()
        first = {same_text_key(text): text for text in reversed(texts)}  # of equal ones, the first
        kept = [text for text in dict.fromkeys(texts) if first[same_text_key(text)] == text][:count]
        found.append((row, outcome, kept))
    times = Counter(same_text_key(text) for _, _, texts in found for text in texts)
    for row, outcome, texts in found:
        own = [text for text in texts if times[same_text_key(text)] == 1]
        if not own:
            detail = f"all of {len(texts)} were written for several rows: {texts[0][:200]!r}"
            result.rejects.append(row.aside("repeated", detail, model=outcome.model))
            continue
        places = {f"{name}_{i + 1}": own[i] if i < len(own) else None for i in range(count)}
        result.records.append({"text": row.texts[0], **places, **row.kept, **outcome.provenance})
    return result


@dataclass(frozen=True, slots=True)
class Task:
    """Describe a task to the command.

    Attributes:
        run: The function.
        texts: Number of texts of a row that it is about.
        options: Options of the command that are its arguments and stand in the manifest.
        count: Number of texts to ask for at once, unless `--count` is given; None: it takes no count.
        labels: Whether it keeps the labels of rows.
        trains: A recipe that reads its file as it is.
    """

    run: Callable[..., Result]
    texts: int = 1
    options: tuple[str, ...] = ()
    count: int | None = None
    labels: bool = False
    trains: str = ""


TASKS = {
    "score": Task(score, 2),
    "fill": Task(fill, options=("seed",)),
    "contrast": Task(contrast),
    "write": Task(write, 0, ("requests", "count", "seed"), 10),
    "propositions": Task(propositions, 2),
    "rate": Task(rate, 3),
    "queries": Task(queries, options=("count",), count=5, labels=True, trains="pretrain-query-as-context"),
    "rewrites": Task(rewrites, options=("count",), count=3, labels=True, trains="laclip"),
    "chain": Task(chain, labels=True),
}


def mask(text: str, rate: float, *, seed: int, row: int) -> str:
    """Replace ceil(rate x words) random words by a mark; with probability 1/2, adjacent marks become one.

    This is section 3.1 of CLAIF. The seed of the job, the number of the row and the rate determine which words.
    """
    words = text.split()
    rng = python_rng(seed, "mask", row, rate)
    chosen = set(rng.sample(range(len(words)), math.ceil(round(rate * len(words), 9))))
    masked = [MARK if i in chosen else word for i, word in enumerate(words)]
    if rng.random() < MERGE:
        runs = itertools.groupby(masked, key=lambda word: word == MARK)
        masked = [word for is_gap, run in runs for word in ([MARK] if is_gap else run)]
    return " ".join(masked)


def _gap(row: Input, rate: float, prompts: Prompts, seed: int) -> Question:
    sentence = row.texts[0]
    if rate == 0:
        return Question(prompts["paraphrase"], {"sentence": sentence})
    return Question(prompts["fill"], {"masked": mask(sentence, rate, seed=seed, row=row.row)})


def _random_pairs(row: Input, rows: Sequence[Input], count: int, seed: int) -> list[Record]:
    others = [other for other in rows if other.row != row.row]
    chosen = python_rng(seed, "random pairs", row.row).sample(others, min(count, len(others)))
    none = {"raw_score": None, "model": "none: a random pair", "prompt": None, "time": None}
    more = {"mask_rate": None, "writer": None, "writer_prompt": None}
    return [{"text_a": row.texts[0], "text_b": other.texts[0], "score": 0.0, **none, **more} for other in chosen]


def _pair(a: str, b: str) -> dict[str, str]:
    return {"text_a": a, "text_b": b}


def _scored(a: str, b: str, outcome: Outcome, smoothing: float = 0.0) -> Record:
    value = round((1 - 2 * smoothing) * outcome.answer.score + smoothing, 6)
    return {"text_a": a, "text_b": b, "score": value, "raw_score": _raw(outcome), **outcome.provenance}


def _rated(row: Input, positive: Outcome, negative: Outcome) -> Record:
    """The triplet with its scores; the more similar text becomes the positive."""
    anchor, first, second = row.texts
    swapped = positive.answer.score < negative.answer.score
    if swapped:
        positive, negative, first, second = negative, positive, second, first
    scores = {"score": positive.answer.score, "score_negative": negative.answer.score}
    raw = {"raw_score": _raw(positive), "raw_score_negative": _raw(negative)}
    texts = {"premise": anchor, "entailment": first, "contradiction": second}
    return {**texts, **scores, **raw, "swapped": swapped, **positive.provenance}


def _raw(outcome: Outcome) -> float:
    answer = outcome.answer
    return float(answer.score if answer.raw is None else answer.raw)


def unanswered(row: Input, outcome: Outcome, **more: Any) -> Record:
    """The reject for a row without a usable answer: why each attempt failed, and the last reply."""
    reason, detail = outcome.verdicts[-1]
    said = outcome.replies[-1].text[:_SHOWN] if outcome.replies else None
    tries = [verdict for verdict, _ in outcome.verdicts]
    known = {"attempts": tries, "answer": said, "model": outcome.model, "prompt": outcome.prompt}
    return row.aside(reason, detail, **known, **more)
