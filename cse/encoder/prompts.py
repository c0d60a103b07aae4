"""Prompts: texts that are put before every text, by name, as sentence-transformers does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIX = "give the name of one of its prompts, or none; encoder.prompts gives it prompts in training"
ROLES = ("anchor", "positive", "negative")  # of the texts of a row


def check_prompts(
    prompts: Mapping[str, str] | None, default: str | None, *, owner: str = "encoder"
) -> tuple[dict[str, str], str | None]:
    """Check the prompts of `owner`, texts by name, and the name of the default one; return both as given."""
    if prompts is not None and not isinstance(prompts, Mapping):
        raise UserError(f"{owner}.prompts is {prompts!r}\nfix: give texts by name, such as {{query: 'query: '}}")
    found = dict(prompts or {})
    for name, text in found.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{owner}.prompts has the name {name!r}\nfix: give every prompt a name, such as query")
        if not isinstance(text, str):
            raise UserError(f"{owner}.prompts.{name} is {text!r}, which is not a string\nfix: give it a text in quotes")
    if default is not None and default not in found:
        raise UserError(f"{owner}.default_prompt_name is {default!r}, {_known(found)}\nfix: {FIX}")
    return found, default


def choose_prompt(
    prompts: Mapping[str, str],
    default: str | None,
    name: str | None = None,
    prompt: str | None = None,
    *,
    option: str = "prompt_name",
) -> str:
    """The text that is put before every text: `prompt` itself, or that of a name, or of the default name."""
    if prompt is not None:
        if name is not None:
            raise UserError(f"{option} is {name!r} and prompt is {prompt!r}\nfix: give one of the two")
        return prompt
    if name is None:
        return prompts.get(default or "", "")
    # sentence-transformers saves empty placeholders for models that were never given a prompt; they do not count.
    if name not in prompts or not any(prompts.values()):
        raise UserError(f"{option} is {name!r}, {_known(prompts)}\nfix: {FIX}")
    return prompts[name]


def shown(prompts: Mapping[str, str], default: str | None) -> str:
    """The prompts that add something, for the run's header."""
    named = ", ".join(f"{name} {text!r}" for name, text in prompts.items() if text)
    return named + (f"; {default} by default" if default else "")


def put_before(prompt: str, text: str) -> str:
    """A text with its prompt, as the tokenizer gets it."""
    return (prompt + text).strip() if prompt else text


def require_prompt_room(
    tokenizer: PreTrainedTokenizerBase, max_length: int, prompt: str, *, field: str = "max_length"
) -> None:
    """Raise unless at least one id of a text fits behind the prompt, and truncation cuts the text rather than it.

    An empty prompt leaves room if more ids fit than the tokenizer puts around every text.
    """
    taken = len(tokenizer(prompt)["input_ids"])
    if taken >= max_length:
        what = f"the prompt {prompt[:60]!r} takes" if prompt else "what the tokenizer adds takes"
        shorter = ", or a shorter prompt" if prompt else ""
        raise UserError(
            f"{field} is {max_length}, and {what} {taken} of it: no room for a text\n"
            f"fix: give {taken + 16} or more{shorter}"
        )
    if prompt and tokenizer.truncation_side == "left":
        raise UserError(
            f"the tokenizer cuts long texts at their beginning, which would cut the prompt {prompt[:60]!r}\n"
            "fix: set truncation_side to right in its tokenizer_config.json, or use no prompts"
        )


def _known(prompts: Mapping[str, str]) -> str:
    """Say what an encoder has instead of a prompt that was asked for."""
    if not any(prompts.values()):
        return "but the encoder has no prompts"
    return f"which is not a prompt of the encoder; it has {', '.join(prompts)}"
