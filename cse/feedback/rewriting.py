"""The tasks that write further texts of a row, which `cse.data.Pairs` reads as its positives.

    queries   passages -> text, query_1, query_2, ...            query-as-context (arXiv:2212.09598), doc2query
    rewrites  sentences -> text, rewrite_1, rewrite_2, ...       LaCLIP (arXiv:2305.20088), LM-CPPF (arXiv:2305.18169)
    chain     sentences -> text, paraphrase, rewording           ParaCLIP (arXiv:2402.15120)

A row that has fewer usable texts than were asked for has null in the last places; `TextViews(sample=...)` does not draw
those. The label of a row goes with its texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cse.data.same_text import same_text_key
from cse.feedback.answers import same
from cse.feedback.inputs import Input, set_aside
from cse.feedback.job import Job, Question
from cse.feedback.tasks import Prompts, Result, unanswered


def queries(rows: Sequence[Input], prompts: Prompts, writer: Job, *, count: int) -> Result:
    """Write `count` questions that each passage answers."""
    questions = [Question(prompts["queries"], {"passage": row.texts[0], "count": str(count)}) for row in rows]
    return _several(rows, writer, "queries", "query", questions, count)


def rewrites(rows: Sequence[Input], prompts: Prompts, writer: Job, *, count: int) -> Result:
    """Write `count` versions of each sentence that mean the same."""
    questions = [Question(prompts["rewrites"], {"sentence": row.texts[0], "count": str(count)}) for row in rows]
    return _several(rows, writer, "rewrites", "rewrite", questions, count)


def chain(rows: Sequence[Input], prompts: Prompts, writer: Job) -> Result:
    """Paraphrase each sentence, and paraphrase the paraphrase without its words.

    The second question is asked of the rows whose first one has a usable answer.
    """
    result, halfway = Result(), []
    plain = writer.ask("paraphrase", [Question(prompts["paraphrase"], {"sentence": row.texts[0]}) for row in rows])
    for row, first in zip(rows, plain, strict=True):
        if first.answer is None:
            result.rejects.append(unanswered(row, first))
        else:
            halfway.append((row, first))
    again = [Question(prompts["reword"], {"sentence": first.answer.sentence}) for _, first in halfway]
    for (row, first), second in zip(halfway, writer.ask("reword", again), strict=True):
        paraphrase = first.answer.sentence
        if second.answer is None:
            result.rejects.append(unanswered(row, second, paraphrase=paraphrase))
        elif same(second.answer.sentence, row.texts[0]):
            texts = [row.texts[0], paraphrase, second.answer.sentence]
            result.rejects.append(set_aside(row.row, row.place, "same_text", "the sentence came back", texts))
        else:
            record = {"text": row.texts[0], "paraphrase": paraphrase, "rewording": second.answer.sentence}
            result.records.append({**record, **row.kept, **second.provenance, "paraphrase_prompt": first.prompt})
    return result


def _several(
    rows: Sequence[Input], writer: Job, task: str, name: str, questions: Sequence[Question], count: int
) -> Result:
    """Records of a text and up to `count` different answers; a text that was written for several rows fits none."""
    result = Result()
    outcomes = writer.ask(task, questions)
    found = []
    for outcome in outcomes:
        texts = outcome.answer.texts() if outcome.answer is not None else []
        first = {same_text_key(text): text for text in reversed(texts)}  # of equal ones, the first
        found.append([text for text in dict.fromkeys(texts) if first[same_text_key(text)] == text][:count])
    times = Counter(same_text_key(text) for texts in found for text in texts)
    for row, outcome, texts in zip(rows, outcomes, found, strict=True):
        if outcome.answer is None:
            result.rejects.append(unanswered(row, outcome))
            continue
        own = [text for text in texts if times[same_text_key(text)] == 1]
        if not own:
            detail = f"all of {len(texts)} were written for several rows: {texts[0][:200]!r}"
            result.rejects.append(set_aside(row.row, row.place, "repeated", detail, row.texts, model=outcome.model))
            continue
        places = {f"{name}_{i + 1}": own[i] if i < len(own) else None for i in range(count)}
        result.records.append({"text": row.texts[0], **places, **row.kept, **outcome.provenance})
    return result
