"""The task `propositions`: pairs of sentences -> the propositions of each, and which of them say the same.

The records are rows of `cse.data.Propositions`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cse.feedback.inputs import Input, set_aside
from cse.feedback.job import Job, Question
from cse.feedback.tasks import Prompts, Result, unanswered


def propositions(rows: Sequence[Input], prompts: Prompts, writer: Job) -> Result:
    """Split the sentences of each pair into propositions, by ranges of characters, and align them.

    A pair without two propositions that say the same has nothing to learn from, and is set aside.
    """
    result = Result()
    prompt = prompts["propositions"]
    questions = [Question(prompt, dict(zip(("text_a", "text_b"), row.texts, strict=True))) for row in rows]
    for row, outcome in zip(rows, writer.ask("propositions", questions), strict=True):
        answer = outcome.answer
        if answer is None:
            result.rejects.append(unanswered(row, outcome))
        elif not answer.equal:
            why = ("nothing_equal", "no proposition of one sentence says the same as one of the other")
            result.rejects.append(set_aside(row.row, row.place, *why, row.texts, model=outcome.model))
        else:
            first, second = row.texts
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
