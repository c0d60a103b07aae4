"""Labelers: the interface of all models that answer questions, and how they are named on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cse.assets import resolve
from cse.assets.hub import snapshot
from cse.encoder.identity import model_hash
from cse.errors import UserError
from cse.feedback.meter import Meter
from cse.feedback.prompts import Prompt
from cse.feedback.store import Reply

KINDS = ("openai", "encoder", "cross-encoder")
RATED = frozenset({"score", "rate"})  # prompts whose questions a rater can answer
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class Chat:
    """A question in the form that a labeler receives.

    Attributes:
        key: The key of its answer in the store.
        prompt: The prompt.
        fields: The input fields that the question is about.
        messages: The chat with prompt and input.
    """

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


def split(option: str, spec: str) -> tuple[str, str]:
    """Kind and name of `openai:NAME`, `encoder:FOLDER` or `cross-encoder:FOLDER`.

    Raises:
        UserError: `spec` does not have one of these forms.
    """
    kind, colon, name = spec.partition(":")
    if kind not in KINDS or not colon or not name:
        raise UserError(
            f"{option} is {spec!r}\nfix: give KIND:NAME, where KIND is one of {', '.join(KINDS)}, "
            "such as openai:gpt-4o-mini, encoder:runs/.../best"
        )
    return kind, name


def weights(option: str, name: str) -> tuple[Path, str, str]:
    """The folder of a model's weights, the model's name, and a hash of the weights.

    Args:
        option: The option that names the model, for the message.
        name: A folder, `asset:NAME` or a Hub id.

    Raises:
        UserError: No such model exists.
    """
    folder = resolve(name) if name.startswith("asset:") else Path(name).expanduser()
    if not (folder.is_dir() and any(folder.glob("*.json"))):
        if folder.exists() or name.startswith(("asset:", ".", "/", "~")) or name.count("/") > 1:
            raise UserError(
                f"{option} {name} is not the folder of a model\nfix: give a folder with config.json, or a Hub id"
            )
        folder = snapshot(name, allow=_WEIGHTS, what=f"{option} {name}")
    return folder, folder.resolve().name if Path(name).exists() else name, model_hash(folder)[:12]
