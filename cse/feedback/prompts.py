"""The wording of the questions: versioned YAML files, each of which a user can replace by their own."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cse.errors import UserError
from cse.feedback.answers import Unusable, parse

_ROLES = ("user", "assistant")
FOLDER = Path(__file__).parent / "prompts"
FIELDS: Mapping[str, frozenset[str]] = {
    "score": frozenset({"text_a", "text_b"}),
    "rate": frozenset({"text_a", "text_b"}),
    "contrast": frozenset({"sentence"}),
    "fill": frozenset({"masked"}),
    "paraphrase": frozenset({"sentence"}),
    "write": frozenset({"topic", "genre", "count", "draw"}),
    "queries": frozenset({"passage", "count"}),
    "rewrites": frozenset({"sentence", "count"}),
    "reword": frozenset({"sentence"}),
    "propositions": frozenset({"text_a", "text_b"}),
}


class Example(BaseModel):
    """The input of a question and its answer, which precede a question in the chat."""

    model_config = ConfigDict(extra="forbid")
    input: dict[str, str]
    answer: dict[str, Any]


class Prompt(BaseModel):
    """The wording of one kind of question, with its parameters, as a file has it.

    Attributes:
        name: The name of the built-in prompt, also for a prompt that replaces it.
        version: A number that its author raises when the wording changes.
        user: The question; `$field` is replaced by a field of the input, and `$$` by a dollar sign.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    name: str
    version: int
    temperature: Annotated[int | float, Field(ge=0, le=2)]
    max_tokens: Annotated[int, Field(ge=1)]
    system: str
    user: str
    examples: list[Example] = []

    @model_validator(mode="after")
    def _fits(self) -> Prompt:
        fields = FIELDS.get(self.name)
        if fields is None:
            raise ValueError(f"name must be one of {', '.join(FIELDS)}")
        found = string.Template.pattern.finditer(self.user)
        if {m["named"] or m["braced"] for m in found if not m["escaped"]} != fields:
            names = ", ".join(f"${field}" for field in sorted(fields))
            raise ValueError(f"user must have {names} and no other $name; a dollar sign is written $$")
        return self

    @cached_property
    def turns(self) -> list[tuple[str, str]]:
        """The examples as question and answer; the answers must be usable."""
        answers = [json.dumps(example.answer, ensure_ascii=False) for example in self.examples]
        for example, answer in zip(self.examples, answers, strict=True):
            parse(self.name, answer, example.input)
        return [(self._question(each.input), answer) for each, answer in zip(self.examples, answers, strict=True)]

    @cached_property
    def sha256(self) -> str:
        """A hash of the wording, so that a change is noticed even if the version was not raised."""
        return hashlib.sha256("\x1f".join([self.system, self.user, *chain(*self.turns)]).encode()).hexdigest()

    @property
    def label(self) -> str:
        """A name for provenance, such as `score v1 3f0a91c2`."""
        return f"{self.name} v{self.version} {self.sha256[:8]}"

    def messages(self, fields: Mapping[str, str], complaint: str = "") -> list[dict[str, str]]:
        """The chat that asks about one input; `complaint` says what was wrong with the previous answer."""
        question = self._question(fields)
        if complaint:
            question += f"\n\nAn earlier answer could not be used ({complaint}). Answer with the JSON object only."
        turns = [(role, text) for turn in self.turns for role, text in zip(_ROLES, turn, strict=True)]
        chat = [("system", self.system.rstrip()), *turns, ("user", question)]
        return [{"role": role, "content": content} for role, content in chat]

    def copied(self, values: Iterable[str]) -> bool:
        """Tell whether one of the texts comes from an example; small models often repeat those."""
        return any(json.dumps(value, ensure_ascii=False) in answer for value in values for _, answer in self.turns)

    def _question(self, fields: Mapping[str, str]) -> str:
        return string.Template(self.user).substitute(fields).rstrip()


def load(replacements: Sequence[Path] = (), *, temperature: float | None = None) -> dict[str, Prompt]:
    """All prompts by name: those of files take the places of the built-in ones; `temperature` is that of all."""
    if temperature is not None and not 0 <= temperature <= 2:
        raise UserError(f"--temperature is {temperature}\nfix: give 0 to 2")
    prompts = {name: _read(FOLDER / f"{name}.yaml", temperature) for name in FIELDS}
    replaced: dict[str, Path] = {}
    for path in replacements:
        prompt = _read(path, temperature)
        if prompt.name in replaced:
            raise UserError(f"--prompt {path} and {replaced[prompt.name]} both replace {prompt.name!r}\nfix: give one")
        replaced[prompt.name] = path
        prompts[prompt.name] = prompt
    return prompts


def subjects(kind: str, path: Path | None) -> list[str]:
    """The topics or genres: those in the user's file, one on each line, or those of cse."""
    if path is None:
        return list(yaml.safe_load((FOLDER / "subjects.yaml").read_text(encoding="utf-8"))[kind])
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--{kind} {path}: cannot be read as UTF-8 text: {error}\nfix: give a text file") from error
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        raise UserError(f"--{kind} {path}: the file is empty\nfix: give the {kind}, one per line")
    return found


def _read(path: Path, temperature: float | None) -> Prompt:
    try:
        prompt = Prompt.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        prompt.messages(dict.fromkeys(FIELDS[prompt.name], ""))  # which looks at the examples, too
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"--prompt {path}: cannot be read as YAML: {str(error).splitlines()[0]}\nfix: correct the file"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the prompt"
        raise UserError(f"--prompt {path}: {place}: {first['msg']}\nfix: see the prompts in {FOLDER}") from error
    except (Unusable, KeyError) as error:
        raise UserError(
            f"--prompt {path}: an example cannot be used: {error}\n"
            f"fix: each has `input`, with {', '.join(sorted(FIELDS[prompt.name]))}, and `answer`"
        ) from error
    return prompt if temperature is None else prompt.model_copy(update={"temperature": temperature})
