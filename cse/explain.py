"""The config library's messages, cut to what helps: the option, its value, what it should be, the nearest name."""

from __future__ import annotations

import difflib
import inspect
import re
from importlib import import_module

NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value"
    r"|Problem with given class_path|Parser key"
)


def explain(message: str) -> str:
    """At most three lines: which option is wrong, how, and what may have been meant."""
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", message)
    if unknown:
        return f"option --{unknown.group(1)} is unknown{_nearest(unknown.group(1), _options())}"
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    where = ".init_args.".join(dict.fromkeys(keys)) or "option"
    found = re.search(r"given class_path '([\w.]+)'", message)
    class_path = found.group(1) if found else ""
    refused = re.search(r"Option '([\w.]+)' is not accepted", message)
    if refused:
        name = refused.group(1)
        return f"option {where}.init_args.{name} is unknown to {class_path}{_nearest(name, _arguments(class_path))}"
    details = [line.strip(" -") for line in message.splitlines() if line.strip() and not NOISE.search(line)]
    return f"{where}: {_plain(details[0] if details else message)}"[:400] + _value(message)


def _plain(detail: str) -> str:
    detail = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", detail.replace("Expected a one", "Expected one"))
    detail = re.sub(r"<class '([\w.]+)'>", r"\1", detail)
    return re.sub(r"Expected a (one of|\w+)", r"expected \1", detail).removeprefix("- ")


def _value(message: str) -> str:
    value = re.search(r"Given value: (?!NestedArg)(.+)", message)
    return f"; got {value.group(1)[:80]}" if value and "Got value" not in message else ""


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known[:12])}" if known else ""


def _options() -> list[str]:
    from cse.training.settings import Settings

    components = ["data", "collator", "encoder", "objective", "evaluator", "sampler", "negatives"]
    trainer = [f"trainer.{name}" for name in inspect.signature(Settings).parameters]
    return [*trainer, "seed", *[f"{c}.{end}" for c in components for end in ("class_path", "init_args")]]


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []
