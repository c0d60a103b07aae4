"""Asks questions: an answer that the store has is reused; otherwise the labeler is asked, within bounds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from cse.console import progress, say
from cse.errors import UserError
from cse.feedback.answers import Unusable, parse
from cse.feedback.meter import Halted, Meter, Stop
from cse.feedback.prompts import Prompt
from cse.feedback.store import Reply, Store, key_of

ATTEMPTS = 3  # times to ask a question until its answer is usable
GIVE_UP = 10  # questions in succession without an answer, after which a job ends
_LOOK = 0.2  # seconds between two checks for Ctrl-C


@dataclass(frozen=True, slots=True)
class Chat:
    """A question in the form that a labeler receives; `key` is that of its answer in the store."""

    key: str
    prompt: Prompt
    fields: Mapping[str, str]
    messages: Sequence[Mapping[str, str]]


class Unanswered(Exception):
    """The labeler gave no answer. `kind` is one word, such as `http_500`; `again` says whether a retry may help."""

    def __init__(self, kind: str, detail: str, *, again: bool = True, retry_after: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.again, self.retry_after = kind, detail, again, retry_after


class Labeler(Protocol):
    """Answers questions.

    Attributes:
        model: Its name for provenance, with a hash of the weights if they are on this machine.
        identity: The part of an answer's key that stands for the model. It is the hash alone if there is one, since a
            folder may be renamed.
        prompted: Whether it reads the prompt, so that its answer depends on the wording.
        prompts: Names of the prompts that it can answer.
        chunk: Number of questions that it takes at once.
        workers: Number of threads that may ask it at once.
    """

    model: str
    identity: str
    prompted: bool
    prompts: frozenset[str]
    chunk: int
    workers: int

    def parameters(self, prompt: Prompt) -> dict[str, object]:
        """Everything else that an answer depends on, as JSON."""
        ...

    def ask(self, chats: Sequence[Chat], meter: Meter, fault: Callable[[str], None]) -> list[Reply]:
        """The answer to each question. `fault` is called with the kind of each request that fails.

        Raises:
            Unanswered: No answer was given after all tries.
            Stop: A cap is reached.
            UserError: The labeler cannot be asked at all.
        """
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and its input."""

    prompt: Prompt
    fields: dict[str, str]


@dataclass(slots=True)
class Outcome:
    """The outcome of a question to a model.

    Attributes:
        prompt: The label of the prompt; None if the model does not read prompts.
        answer: The answer; None if no usable one was given.
        verdicts: Reason and detail of each answer that was not usable, or of the failure to get one.
        keys: The keys of the replies in the store.
    """

    question: Question
    model: str
    prompt: str | None
    answer: Any = None
    verdicts: list[tuple[str, str]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @property
    def unusable(self) -> list[str]:
        """The reasons why answers could not be used, without failures to get an answer."""
        return [reason for reason, _ in self.verdicts[: len(self.replies)]]

    @property
    def provenance(self) -> dict[str, str | None]:
        """The model that answered, the prompt, and the time."""
        return {"model": self.model, "prompt": self.prompt, "time": self.replies[-1].time}


class Job:
    """Puts questions to one labeler, whose answers the store keeps; all jobs of a command share the meter."""

    def __init__(
        self,
        labeler: Labeler,
        store: Store,
        meter: Meter,
        *,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.labeler, self.store, self.meter = labeler, store, meter
        self.interrupted = interrupted
        self.outcomes: dict[str, Outcome] = {}  # by key, in the order of the questions
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._asked = 0
        self._trouble: Counter[str] = Counter()

    def ask(self, what: str, questions: Sequence[Question]) -> list[Outcome]:
        """The outcome of each question, in their order; equal questions are asked once.

        Raises:
            Stop: A cap was reached, Ctrl-C was pressed, or the endpoint does not answer. All answers so far are kept.
            UserError: The labeler cannot be asked, or cannot answer this prompt.
        """
        for name in sorted({q.prompt.name for q in questions} - self.labeler.prompts):
            can = ", ".join(sorted(self.labeler.prompts))
            raise UserError(
                f"--model {self.labeler.model}: a rater cannot answer {name!r}, only {can}\nfix: give a language model"
            )
        keys = [self._key(question, 0) for question in questions]
        unique = dict(zip(keys, questions, strict=True))
        say("asking", f"{what}: {len(unique):,} questions")
        settled = 0
        try:
            with progress("answered", len(unique)) as advance:
                for outcomes in self._run(_chunks(unique, self.labeler.chunk), unique):
                    self.outcomes |= outcomes
                    settled += len(outcomes)
                    advance(settled, self._note())
        except Stop as stop:
            answered = sum(key in unique and bool(outcome.replies) for key, outcome in self.outcomes.items())
            stop.answered = f"{answered:,} of {len(unique):,} questions of {what!r} are answered"
            raise
        before = [key for key in self.outcomes if key not in unique]
        self.outcomes = {key: self.outcomes[key] for key in [*before, *unique]}  # answers arrive in any order
        return [self.outcomes[key] for key in keys]

    def _run(self, chunks: list[list[str]], unique: dict[str, Question]) -> Iterator[dict[str, Outcome]]:
        """Settle chunks in several threads; the first cause that ends the job is raised when all have finished."""
        ahead, pending, cause = iter(chunks), set[Future[dict[str, Outcome]]](), None
        with ThreadPoolExecutor(self.labeler.workers) as pool:
            while True:
                while cause is None and len(pending) < 2 * self.labeler.workers and (chunk := next(ahead, None)):
                    pending.add(pool.submit(self._settle, chunk, unique))
                if not pending:
                    break
                done, pending = wait(pending, _LOOK, FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if error is None:
                        yield future.result()
                    elif cause is None and not isinstance(error, Halted):
                        cause = error
                if cause is None and self.interrupted():
                    cause = Stop("stopped by Ctrl-C", code=130)
                if cause is not None:
                    self.meter.halted.set()
        if cause is not None:
            raise cause

    def _settle(self, keys: list[str], unique: dict[str, Question]) -> dict[str, Outcome]:
        """Ask a chunk until each of its questions has a usable answer or has used all attempts."""
        labels = {key: unique[key].prompt.label if self.labeler.prompted else None for key in keys}
        outcomes = {key: Outcome(unique[key], self.labeler.model, labels[key]) for key in keys}
        still = list(outcomes.values())
        asked = 0
        for attempt in range(ATTEMPTS):
            chats = [self._chat(outcome, attempt) for outcome in still]
            known = self.store.get([chat.key for chat in chats])
            new, failure = self._missing([chat for chat in chats if chat.key not in known])
            asked += len(new)
            for outcome, chat in zip(still, chats, strict=True):
                _judge(outcome, chat.key, (known | new).get(chat.key), failure)
            still = [o for o in still if o.answer is None and failure is None]
        with self._lock:
            self._asked += asked
            self._trouble.update(reason for outcome in outcomes.values() for reason in outcome.unusable)
        return outcomes

    def _missing(self, chats: list[Chat]) -> tuple[dict[str, Reply], Unanswered | None]:
        """Ask for the answers that are not in the store, and keep them there.

        An error halts the job at once, before this worker takes its next questions.
        """
        if not chats:
            return {}, None
        first = chats[0].key
        if self.meter.halted.is_set():
            raise Halted
        try:
            replies = self.labeler.ask(chats, self.meter, lambda kind: self._fault(first, kind))
            new = {chat.key: reply for chat, reply in zip(chats, replies, strict=True)}
            self.store.put(new.items())
        except Unanswered as error:
            self._count_failure(error)
            return {}, error
        except BaseException:
            self.meter.halted.set()
            raise
        with self._lock:
            self._failed_in_a_row = 0
        return new, None

    def _fault(self, key: str, kind: str) -> None:
        self.store.fault(key, kind)
        with self._lock:
            self._trouble[kind] += 1

    def _count_failure(self, error: Unanswered) -> None:
        if self.meter.halted.is_set():
            raise Halted
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= GIVE_UP:
                self.meter.halted.set()
                raise Stop(f"{self._failed_in_a_row} questions in succession had no answer: {error}", code=1)

    def _note(self) -> str:
        with self._lock:
            return "  ".join(
                [f"{self._asked:,} asked now", *(f"{n} {why}" for why, n in sorted(self._trouble.items()))]
            )

    def _chat(self, outcome: Outcome, attempt: int) -> Chat:
        question = outcome.question
        complaint = outcome.verdicts[-1][0].replace("_", " ") if outcome.verdicts else ""
        messages = question.prompt.messages(question.fields, complaint)
        return Chat(self._key(question, attempt), question.prompt, question.fields, messages)

    def _key(self, question: Question, attempt: int) -> str:
        prompt = question.prompt
        words = [prompt.name, prompt.version, prompt.sha256] if self.labeler.prompted else []
        return key_of(self.labeler.identity, self.labeler.parameters(prompt), words, question.fields, attempt)


def _chunks(questions: dict[str, Question], size: int) -> list[list[str]]:
    """The keys that are asked together. All have one prompt; the chunks do not depend on what the store has."""
    found = []
    for name in dict.fromkeys(question.prompt.name for question in questions.values()):
        keys = [key for key, question in questions.items() if question.prompt.name == name]
        found += [keys[i : i + size] for i in range(0, len(keys), size)]
    return found


def _judge(outcome: Outcome, key: str, reply: Reply | None, failure: Unanswered | None) -> None:
    """Record a reply as the answer, or the reason why it cannot be used."""
    outcome.keys.append(key)
    if reply is None:
        outcome.verdicts.append((failure.kind, failure.detail) if failure else ("unanswered", ""))
        return
    outcome.replies.append(reply)
    question = outcome.question
    try:
        answer = parse(question.prompt.name, reply.text, question.fields, finish=reply.finish)
        if question.prompt.copied(answer.texts()):
            raise Unusable("copied", "a text from the examples of the prompt")
        outcome.answer = answer
    except Unusable as error:
        outcome.verdicts.append((error.reason, error.detail))
