"""The commands of `cse`. Most are a function, and an entry of the table in `verbs`; each other has a file.

`VERB` names the function as `module:name`: its signature and docstring are the arguments and options, and
`show(found, arguments)` prints what it returned. Positional parameters but `out` are arguments; `NAMES` has those with
another name on the command line. A command that is more than its function has a file of its name, which is found
without an edit elsewhere, and defines `HELP`, `add_arguments(parser)` and `run(arguments, overrides) -> exit code`,
which may use `declare` and `call`.

A file imports nothing heavy at the top, so that help is quick. With `TAKES_OVERRIDES = True`, options of a recipe are
passed to `run`; otherwise they are errors. `ACTIONS` names the subcommands; the first one is the default.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import get_data
from typing import Any, NamedTuple

from cse.errors import UserError

TABLES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".gz")
SAME = {  # the help of parameters that mean the same everywhere, whose docstrings may say `See ...`
    "device": "auto is the accelerator of this machine, or the CPU",
    "precision": "auto is bf16 if the hardware computes it natively",
    "prompt": "prompt of the model that is put before every text; default: its default prompt",
    "pooler": "pooler of a plain Hugging Face model; default: mean",
    "shard": "do one of N equal parts, I/N, counted from 1; each is complete or absent, and the last one may run first",
    "shards": "do N parts, shared by the processes of --processes, torchrun, srun or an array job of SLURM",
}
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "Path": Path}


class Parameter(NamedTuple):
    """A parameter of a function, as its source declares it."""

    name: str
    positional: bool
    required: bool
    default: Any
    options: dict[str, Any]  # of argparse: type, nargs, choices, action
    text: str  # its sentence in the docstring


def declare(
    parser: argparse.ArgumentParser,
    verb: str,
    names: Mapping[str, str] = {},
    omit: Collection[str] = (),
    commas: Collection[str] = (),
) -> None:
    """Declare the parameters of a function as arguments and options, with its defaults and the help of its docstring.

    The module of a function `module:name` is read, not imported. `names` has what parameters are called on the command
    line, if it is not their own name: `{"kind": "--class"}`; `omit` those that it does not have; and `commas` sequences
    that are one word, separated by commas.
    """
    wanted = [parameter for parameter in parameters(verb) if parameter.name not in omit]
    flags = {p.name: p.name if p.positional and p.name != "out" else f"--{p.name.replace('_', '-')}" for p in wanted}
    flags |= names
    for parameter in wanted:
        name, flag, options = parameter.name, flags[parameter.name], dict(parameter.options)
        if name in commas:
            options = {"type": numbers if options.get("type") is int else lambda text: text.split(",")}
        if flag.startswith("-"):
            options |= {"dest": name, "required": parameter.required}
            if "choices" not in options and "action" not in options:
                named = name.endswith(("column", "columns", "prompt", "prompt_b"))
                options["metavar"] = (
                    "NAME" if named else "N" if options["type"] is int else flag[2:].upper().replace("-", "_")
                )
        else:
            options["metavar"] = flag
            if not parameter.required:
                options["nargs"] = "*" if "nargs" in options else "?"
        text = re.sub(r"`(\w+)`", lambda word: flags.get(word[1], word[1]), _help(parameter)).replace("`", "")
        word = flag if flag.startswith("-") else name
        parser.add_argument(word, default=parameter.default, help=text.replace("%", "%%"), **options)


def call(verb: str, arguments: argparse.Namespace, *first: Any, **others: Any) -> Any:
    """Import a function, and call it with the arguments that `declare` declared for it, and with others."""
    from cse.console import quiet

    quiet()
    module, _, name = verb.partition(":")
    given = {p.name: getattr(arguments, p.name) for p in parameters(verb) if hasattr(arguments, p.name)}
    return getattr(import_module(module), name)(*first, **(given | others))


@cache
def parameters(verb: str) -> list[Parameter]:
    """The parameters of a function `module:name`, from the source of the module, which is not imported."""
    module, _, name = verb.partition(":")
    function = next(n for n in _source(module).body if isinstance(n, ast.FunctionDef) and n.name == name)
    texts = _texts_of(ast.get_docstring(function) or "")
    own = function.args
    first: list[ast.expr | None] = [None] * (len(own.args) - len(own.defaults))
    pairs = [*zip(own.args, [*first, *own.defaults], strict=True), *zip(own.kwonlyargs, own.kw_defaults, strict=True)]
    found = []
    for argument, node in pairs:
        default = None if node is None else _value(node, module)
        options = _options(argument.annotation, module)
        text = texts.get(argument.arg, "")
        found.append(Parameter(argument.arg, argument in own.args, node is None, default, options, text))
    return found


def _help(parameter: Parameter) -> str:
    """The sentence of a parameter as a line of help: `Number of rows. None: all.` is `number of rows; default: all`."""
    text = parameter.text
    if parameter.name in SAME and (not text or text.startswith("See ")):
        text = SAME[parameter.name]
    text = text.removesuffix(".").replace(". None: ", "; default: ").replace("Whether to ", "")
    if text[1:2].islower() or text[1:2] == " ":
        text = text[0].lower() + text[1:]
    default = parameter.default
    shown = ", ".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
    if default and "default: " not in text and not re.search(rf"\b{re.escape(shown)}\b", text):
        text = f"{text}; default: {shown}"
    return text


@cache
def _source(module: str) -> ast.Module:
    path = "/".join(module.split(".")[1:])
    try:
        return ast.parse(get_data("cse", f"{path}.py") or b"")
    except OSError:
        return ast.parse(get_data("cse", f"{path}/__init__.py") or b"")


def _texts_of(docstring: str) -> dict[str, str]:
    """The texts of the section `Args` by parameter."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    found = re.findall(r"^    (\w+): ((?:.|\n(?!    \w))*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _value(node: ast.expr, module: str) -> Any:
    """The value of a default: a literal, or a constant that the module assigns or imports."""
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    constant, _ = _assigned(node.id, module)
    assert constant is not None, f"{module}: {node.id} is not a constant"
    return ast.literal_eval(constant)


def _options(annotation: ast.expr | None, module: str) -> dict[str, Any]:
    """Translate a type to what argparse must know; of a union with a sequence, the first type counts."""
    parts = [part for part in _union(annotation) if not (isinstance(part, ast.Constant) and part.value is None)]
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    if isinstance(parts[0], ast.Subscript) and ast.unparse(parts[0].value) == "Sequence":
        return {**_options(parts[0].slice, module), "nargs": "+"}
    if names == {"bool"}:
        return {"action": "store_true"}
    if names == {"int", "str"}:
        return {"type": number_or_name}
    if len(parts) > 1:
        return {"type": Path if names == {"str", "Path"} else str}
    if isinstance(parts[0], ast.Name) and (known := TYPES.get(parts[0].id)):
        return {"type": known}
    choices = _choices(parts[0], module)
    return {"choices": choices} if choices else {"type": str}


def numbers(text: str) -> list[int]:
    """Numbers of one word: `256,64`."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 256,64")
    return [int(part) for part in text.split(",")]


def number_or_name(text: str) -> int | str:
    """A column: the number of one without a name, or its name."""
    return int(text) if text.isdecimal() else text


def _union(annotation: ast.expr | None) -> Iterator[ast.expr]:
    if isinstance(annotation, ast.BinOp):
        yield from _union(annotation.left)
        yield from _union(annotation.right)
    elif annotation is not None:
        yield annotation


def _choices(part: ast.expr, module: str) -> list[str]:
    """The values of a `Literal`, or of one that the module assigns or imports; empty for other types."""
    if isinstance(part, ast.Name):
        found, home = _assigned(part.id, module)
        return _choices(found, home) if found is not None else []
    if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "Literal":
        values = ast.literal_eval(part.slice)
        return list(values) if isinstance(values, tuple) else [values]
    return []


def _assigned(name: str, module: str) -> tuple[ast.expr | None, str]:
    """Find the value that a module assigns to a name, and the module that does; None if no module of cse does."""
    for node in ast.walk(_source(module)):
        if isinstance(node, ast.Assign) and name in [t.id for t in node.targets if isinstance(t, ast.Name)]:
            return node.value, module
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            home = node.module or ""
            return _assigned(name, home) if home.startswith("cse.") else (None, module)
    return None, module


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """Declare --device and --precision, the same for every command that encodes."""
    for option in ("device", "precision"):
        choices = _choices(ast.Name(option.capitalize()), "cse.encoder.device")
        parser.add_argument(f"--{option}", choices=choices, default="auto", help=SAME[option])


def two_texts(a: str, b: str, column: str, *, by_line: str | None) -> tuple[bool, list[list[str]]]:
    """The texts of two arguments, each a text or a file of texts.

    Unless `by_line` is None, two files are compared line by line, and must have as many; it ends the fix.

    Returns:
        Whether the arguments are files, and the texts of each.
    """
    files = [_is_file(text) for text in (a, b)]
    if files[0] != files[1]:
        raise UserError(
            f"{[a, b][files.index(True)]!r} is a file and {[a, b][files.index(False)]!r} is not\n"
            "fix: give two sentences, or two files"
        )
    texts = [_texts(text, column) if files[0] else [text] for text in (a, b)]
    if by_line is not None and len(texts[0]) != len(texts[1]):
        raise UserError(
            f"{a} has {len(texts[0]):,} rows and {b} has {len(texts[1]):,}\n"
            f"fix: give files of equal length to compare row by row{by_line}"
        )
    return files[0], texts


def _is_file(text: str) -> bool:
    """Tell whether an argument names a file. A name of a file that does not exist leads to an error when it is read."""
    named_so = not any(c.isspace() for c in text) and Path(text).suffix.lower() in TABLES
    return named_so or text.startswith("asset:") or (len(text) < 1024 and Path(text).is_file())


def _texts(path: str, column: str) -> list[str]:
    from cse.inference.encode import TextFile

    texts = TextFile.scan(path, column)
    return [text for block in texts.blocks(texts.rows) for text in block.texts]
