"""A labeler that answers by rule, rows to ask about, and the file of what came out."""

import json
from collections import Counter
from pathlib import Path

from cse.feedback import output
from cse.feedback.meter import Limits
from cse.feedback.prompts import FIELDS
from cse.feedback.store import Reply
from cse.feedback.tasks import Input


class Rule:
    """Answers with what a function of (prompt's name, fields) gives, in whatever order it is asked."""

    model = identity = "rule"
    prompted = True

    def __init__(self, rule, chunk=1, workers=4, answers=FIELDS):
        self.rule, self.chunk, self.workers, self.prompts = rule, chunk, workers, frozenset(answers)
        self.asked = Counter()

    def parameters(self, prompt):
        return {}

    def ask(self, chats, meter, fault):
        assert len(chats) <= self.chunk
        assert len({chat.prompt.name for chat in chats}) == 1  # a model takes one prompt at a time
        self.asked.update(tuple(chat.fields.values()) for chat in chats)
        return [Reply(json.dumps(self.rule(chat.prompt.name, chat.fields)), time="then") for chat in chats]


def rows(*texts):
    return [Input(i, f"f:{i}", t if isinstance(t, tuple) else (t,)) for i, t in enumerate(texts, 1)]


def write_records(path, result, jobs):
    output.save(path, result, output.about("t", {}, [], {}), jobs, Limits())
    return str(path)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
