"""Ask a language model for a question to each text, so that texts alone become pairs (arXiv:2202.05144, 2112.07577)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from cse.adapting.material import kind_of
from cse.data.datasets import open_rows
from cse.errors import UserError, require_package
from cse.files import write_lines

TEXTS, QUESTIONS, COLUMNS = "texts.jsonl", "questions.jsonl", ("query_1", "text")
MOST = 10_000  # texts that are asked about: each is a request


def ask(data: str, out: Path, model: str, *, base_url: str | None, columns: Sequence[str] | None, seed: int) -> None:
    """Write the pairs of questions and texts to questions.jsonl.

    At most 10,000 of the texts are asked about, drawn at random. No question is asked twice: answers are in the cache.

    Raises:
        UserError: The rows are pairs or have labels, or the endpoint gives no answers; those that it gave are kept.
        KeyboardInterrupt: Ctrl-C.
    """
    require_package("pydantic", extra="feedback", user="cse adapt --questions")
    from cse.feedback.command import feedback
    from cse.feedback.meter import Stop

    rows = open_rows(data, columns=columns or None, label_column=None)
    if (kind := kind_of(rows, data)) != "texts":
        raise UserError(f"--questions is {model}, but {data} has {kind}\nfix: omit it, or name a column of texts")
    texts = list(dict.fromkeys(row.texts[0] for row in rows))
    asked = texts if len(texts) <= MOST else random.Random(seed).sample(texts, MOST)
    write_lines(out / TEXTS, ({"text": text} for text in asked))
    try:
        written = feedback(
            "queries", model=model, base_url=base_url, data=str(out / TEXTS), count=1, out=out / QUESTIONS
        )
    except Stop as stop:
        if stop.code == 130:
            raise KeyboardInterrupt from stop
        raise UserError(
            f"--questions {model}: {stop.reason}; {stop.answered}, which are kept\n"
            "fix: see that the endpoint answers; the same command then resumes from here"
        ) from stop
    if not written:
        raise UserError(
            f"--questions {model} gave no answer that can be used\n"
            f"fix: read {out / 'questions.rejects.jsonl'}, or take another model"
        )
