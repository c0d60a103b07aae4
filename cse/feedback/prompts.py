"""The wording of the questions: versioned YAML files, each of which a user can replace by their own."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
}
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "version": int,
    "temperature": (int, float),
    "max_tokens": int,
    "system": str,
    "user": str,
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """The wording of one kind of question.

    Attributes:
        name: The name of the built-in prompt, also for a prompt that replaces it.
        version: A number that its author raises when the wording changes.
        sha256: A hash of the wording, so that a change is noticed even if the version was not raised.
        temperature: Sampling temperature, in [0, 2].
        max_tokens: Largest number of tokens of an answer.
        system: The system message, which gives the model its role.
        user: The question; `$field` is replaced by a field of the input, and `$$` by a dollar sign.
        examples: Questions and answers that precede the question in the chat.
    """

    name: str
    version: int
    sha256: str
    temperature: float
    max_tokens: int
    system: str
    user: str
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """A name for provenance, such as `score v1 3f0a91c2`."""
        return f"{self.name} v{self.version} {self.sha256[:8]}"

    def messages(self, fields: Mapping[str, str], complaint: str = "") -> list[dict[str, str]]:
        """The chat that asks about one input; `complaint` says what was wrong with the previous answer."""
        question = string.Template(self.user).substitute(fields).rstrip()
        if complaint:
            question += f"\n\nAn earlier answer could not be used ({complaint}). Answer with the JSON object only."
        turns = [(role, text) for example in self.examples for role, text in zip(_ROLES, example, strict=True)]
        chat = [("system", self.system.rstrip()), *turns, ("user", question)]
        return [{"role": role, "content": content} for role, content in chat]

    def copied(self, values: Iterable[str]) -> bool:
        """Whether one of the texts comes from an example; small models often repeat those."""
        return any(json.dumps(value, ensure_ascii=False) in answer for value in values for _, answer in self.examples)


def load(replacements: Sequence[Path] = (), *, temperature: float | None = None) -> dict[str, Prompt]:
    """All prompts by name, with replacements applied.

    Args:
        replacements: Files in the form of the built-in prompts; the `name` in a file says which prompt it replaces.
        temperature: The temperature of all prompts. None: the one in each prompt.

    Raises:
        UserError: A file is not a prompt or lacks a field of the input, or two files replace the same prompt.
    """
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
    """The topics or genres: those in the user's file, one on each line, or those of cse.

    Raises:
        UserError: The file cannot be read or is empty.
    """
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
    content = _checked(path)
    if temperature is not None:
        content["temperature"] = temperature
    if not 0 <= content["temperature"] <= 2:
        raise UserError(f"--temperature is {content['temperature']}\nfix: give 0 to 2")
    examples = tuple(_example(path, content, example) for example in content.pop("examples", []))
    words = [content["system"], content["user"], *(text for example in examples for text in example)]
    digest = hashlib.sha256("\x1f".join(words).encode()).hexdigest()
    return Prompt(sha256=digest, examples=examples, **content)


def _example(path: Path, content: dict[str, Any], example: Any) -> tuple[str, str]:
    """An example as question and answer; the answer must be usable."""
    try:
        answer = json.dumps(example["answer"], ensure_ascii=False)
        parse(content["name"], answer, example["input"])
        return string.Template(content["user"]).substitute(example["input"]).rstrip(), answer
    except (Unusable, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--prompt {path}: an example cannot be used: {error}\n"
            f"fix: each has `input`, with {', '.join(sorted(FIELDS[content['name']]))}, and `answer`"
        ) from error


def _checked(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"--prompt {path}: cannot be read as YAML: {str(error).splitlines()[0]}\nfix: correct the file"
        ) from error
    wanted = ", ".join(_KINDS)
    if not isinstance(content, dict) or set(content) - {"examples"} != set(_KINDS):
        raise UserError(
            f"--prompt {path} is not a prompt\nfix: its keys must be {wanted} and, optionally, examples; see {FOLDER}"
        )
    if not isinstance(content.get("examples", []), list):
        raise UserError(f"--prompt {path}: examples is not a list\nfix: give a list of `input` and `answer` pairs")
    for key, kind in _KINDS.items():
        if not isinstance(content[key], kind) or isinstance(content[key], bool):
            raise UserError(
                f"--prompt {path}: {key} is {content[key]!r}, which has the wrong type\n"
                f"fix: see the prompts in {FOLDER}"
            )
    if content["name"] not in FIELDS:
        raise UserError(f"--prompt {path}: name is {content['name']!r}\nfix: give one of {', '.join(FIELDS)}")
    if content["max_tokens"] < 1:
        raise UserError(f"--prompt {path}: max_tokens is {content['max_tokens']}\nfix: give 1 or more")
    _require_fields(path, content["name"], string.Template(content["user"]))
    return content


def _require_fields(path: Path, name: str, template: string.Template) -> None:
    if not template.is_valid() or set(template.get_identifiers()) != FIELDS[name]:
        names = ", ".join(f"${field}" for field in sorted(FIELDS[name]))
        raise UserError(
            f"--prompt {path}: the user text of {name!r} must have {names} and no other $name\n"
            "fix: name these fields and no others; write a dollar sign as $$"
        )
