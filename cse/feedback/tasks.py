"""The tasks: each is a function that asks questions about rows and makes records of a training file.

    score     pairs -> text_a, text_b, score                      CLAIF (arXiv:2305.01918); for cse.data.ScoredPairs
    fill      sentences -> text_a, text_b, score                  CLAIF's data: mask, fill, score
    contrast  sentences -> premise, entailment, contradiction     SynCSE-partial (arXiv:2305.12599); for Triplets
    write     topics and genres -> text                           the first half of SynCSE-scratch; for Texts
    rate      triplets -> good triplets, with their scores        the second stage of MultiCSR; for Triplets

`cse.feedback.propositions` has one more: pairs -> the propositions of both, and the equal ones. The tasks that write
further texts of a row are in `cse.feedback.rewriting`.

Records are in the order of the rows, whatever the order of the answers. A row that gives no record is set aside with a
reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cse.feedback.answers import same
from cse.feedback.inputs import Input, set_aside
from cse.feedback.job import Job, Outcome, Question
from cse.feedback.masking import mask
from cse.feedback.prompts import Prompt

Record = dict[str, Any]
Prompts = Mapping[str, Prompt]
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # CLAIF: shares of words to mask
_SHOWN = 2000  # characters of an unusable answer that are kept in the rejects


@dataclass(slots=True)
class Result:
    """The records for training, and the rows that were set aside."""

    records: list[Record] = field(default_factory=list)
    rejects: list[Record] = field(default_factory=list)


def score(rows: Sequence[Input], prompts: Prompts, rater: Job) -> Result:
    """Score the similarity of the two texts of each row."""
    result = Result()
    questions = [Question(prompts["score"], _pair(*row.texts)) for row in rows]
    for row, outcome in zip(rows, rater.ask("score", questions), strict=True):
        if outcome.answer is None:
            result.rejects.append(unanswered(row, outcome))
        else:
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
            result.rejects.append(set_aside(row.row, row.place, "filtered", detail, row.texts, rated=record))
    return result


def contrast(rows: Sequence[Input], prompts: Prompts, writer: Job) -> Result:
    """Write a positive and a contradiction for each sentence.

    A text that was written for several sentences is specific to none of them, so all those rows are set aside.
    """
    result = Result()
    questions = [Question(prompts["contrast"], {"sentence": row.texts[0]}) for row in rows]
    outcomes = writer.ask("contrast", questions)
    times = Counter(text for outcome in outcomes if outcome.answer is not None for text in outcome.answer.texts())
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.answer is None:
            result.rejects.append(unanswered(row, outcome))
            continue
        repeated = next((text for text in outcome.answer.texts() if times[text] > 1), None)
        if repeated is not None:
            detail = f"written for {times[repeated]} sentences: {repeated[:200]!r}"
            result.rejects.append(set_aside(row.row, row.place, "repeated", detail, row.texts, model=outcome.model))
            continue
        texts = {"entailment": outcome.answer.positive, "contradiction": outcome.answer.contradiction}
        result.records.append({"premise": row.texts[0], **texts, **outcome.provenance})
    return result


def write(
    topics: Sequence[str], genres: Sequence[str], prompts: Prompts, writer: Job, *, requests: int, count: int, seed: int
) -> Result:
    """Write `count` sentences per request. Topics and genres are random; all combinations come before one repeats."""
    from cse.seeding import python_rng

    combinations = [(topic, genre) for topic in topics for genre in genres]
    python_rng(seed, "write").shuffle(combinations)
    fields = []
    for number in range(requests):
        topic, genre = combinations[number % len(combinations)]
        draw = str(1 + number // len(combinations))
        fields.append({"topic": topic, "genre": genre, "count": str(count), "draw": draw})
    result, seen = Result(), dict[str, int]()
    outcomes = writer.ask("write", [Question(prompts["write"], f) for f in fields])
    for number, (about, outcome) in enumerate(zip(fields, outcomes, strict=True), 1):
        place = f"{about['genre']} / {about['topic']}"
        if outcome.answer is None:
            result.rejects.append(unanswered(Input(number, place, ()), outcome))
            continue
        for text in outcome.answer.sentences:
            first = seen.setdefault(" ".join(text.casefold().split()), number)
            if first == number and not any(same(text, r["text"]) for r in result.records[-count:]):
                result.records.append(
                    {"text": text, "topic": about["topic"], "genre": about["genre"], **outcome.provenance}
                )
            else:
                result.rejects.append(set_aside(number, place, "duplicate", f"written in request {first}", [text]))
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
    versions = [(row, rate) for row in rows for rate in rates]
    outcomes = writer.ask("fill", [_gap(row, rate, prompts, seed) for row, rate in versions])
    pairs = []
    seen: set[tuple[int, str]] = set()
    for (row, share), outcome in zip(versions, outcomes, strict=True):
        if outcome.answer is None:
            result.rejects.append(unanswered(row, outcome, mask_rate=share))
        elif same(outcome.answer.sentence, row.texts[0]) or (row.row, outcome.answer.sentence) in seen:
            detail = "the same as the sentence or as an earlier version"
            texts = [row.texts[0], outcome.answer.sentence]
            result.rejects.append(set_aside(row.row, row.place, "duplicate", detail, texts, mask_rate=share))
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
            texts = [record["text_a"], record["text_b"]]
            detail = f"more than {per_score} versions with the score {record['raw_score']:g}"
            result.rejects.append(set_aside(row.row, row.place, "enough", detail, texts, mask_rate=share))
        else:
            by_row[row.row].append(record)
    for row in rows:
        result.records += by_row[row.row] + _random_pairs(row, rows, random_pairs, seed)
    result.rejects.sort(key=lambda reject: int(reject["row"]))
    return result


def _gap(row: Input, rate: float, prompts: Prompts, seed: int) -> Question:
    sentence = row.texts[0]
    if rate == 0:
        return Question(prompts["paraphrase"], {"sentence": sentence})
    return Question(prompts["fill"], {"masked": mask(sentence, rate, seed=seed, row=row.row)})


def _random_pairs(row: Input, rows: Sequence[Input], count: int, seed: int) -> list[Record]:
    from cse.seeding import python_rng

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
    return {
        "premise": anchor,
        "entailment": first,
        "contradiction": second,
        "score": positive.answer.score,
        "score_negative": negative.answer.score,
        "raw_score": _raw(positive),
        "raw_score_negative": _raw(negative),
        "swapped": swapped,
        **positive.provenance,
    }


def _raw(outcome: Outcome) -> float:
    answer = outcome.answer
    return float(answer.score if answer.raw is None else answer.raw)


def unanswered(row: Input, outcome: Outcome, **more: Any) -> Record:
    """The reject for a row without a usable answer: why each attempt failed, and the last reply."""
    reason, detail = outcome.verdicts[-1]
    said = outcome.replies[-1].text[:_SHOWN] if outcome.replies else None
    tries = [verdict for verdict, _ in outcome.verdicts]
    known: Record = {"attempts": tries, "answer": said, "model": outcome.model, "prompt": outcome.prompt}
    return set_aside(row.row, row.place, reason, detail, row.texts, **known, **more)
