"""The schema of a recipe is its constructors: values are checked against their signatures, and classes imported here.

A part is a mapping with `class_path` and `init_args`, or a class's dotted name alone. No value is read as YAML but a
`Word`, which the user typed.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from cse.errors import UserError
from cse.recipe.files import Loader
from cse.recipe.settings import Settings

COMPONENTS = ("data", "collator", "encoder", "objective", "evaluator", "sampler", "negatives")
OPTIONAL = {"evaluator", "sampler", "negatives"}
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
READS = ("path", "data", "tasks", "sets", "corpus", "pool", "backbone")  # what constructors read when it is given
WRITE_CLASS = "write class_path and init_args below it"
KINDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a text", NoneType: "null"}
PATHS = "one file, a folder, or a pattern such as '*.txt'; rows in memory are given in Python"


class Word(str):
    """A value of the command line, which is read by the type that its option declares."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """An argument of a class that the command line replaces by another, which has it too if it can."""

    value: Any


class Resolved(SimpleNamespace):
    """The options of a class with their defaults: `class_path` and `init_args` of a part, or those of a dataclass.

    Attributes:
        built_as: The class. `vars` does not have it, so that no argument may have this name.
    """

    __slots__ = ("built_as",)
    built_as: Any

    def make(self, **known: Any) -> Any:
        """Build the object, and those that its options are; `known` are arguments as they are."""
        options = vars(self.init_args if hasattr(self, "class_path") else self)
        return self.built_as(**({name: made(value, name) for name, value in options.items()} | known))


class Option(NamedTuple):
    """An argument of a constructor: its type, and its default, which is `Parameter.empty` if it must be given."""

    hint: Any
    default: Any


@cache
def options_of(kind: type) -> dict[str, Option]:
    """The arguments of a class's constructor by name."""
    try:
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    except (NameError, TypeError) as error:
        raise UserError(
            f"{kind.__module__}.{kind.__name__}: its annotations cannot be read: {error}\n"
            "fix: import at the top of its module what they name, not under TYPE_CHECKING"
        ) from error
    parameters = inspect.signature(kind).parameters.items()
    starred = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return {name: Option(hints.get(name, Any), p.default) for name, p in parameters if p.kind not in starred}


def bases() -> dict[str, type]:
    """The class that each part of a recipe is an object of."""
    from cse.data.datasets import Dataset
    from cse.encoder.model import Encoder
    from cse.interfaces import Collator, Evaluator, Objective, RowSource, Sampler

    return dict(zip(COMPONENTS, (Dataset, Collator, Encoder, Objective, Evaluator, Sampler, RowSource), strict=True))


def declared(absent: Collection[str] = ()) -> dict[str, Option]:
    """The options at the top level of a recipe in which some parts may be absent."""
    from cse.interfaces import Callback

    parts = {name: Option(base, inspect.Parameter.empty) for name, base in bases().items() if name not in absent}
    parts |= {name: Option(part.hint | None, None) for name, part in parts.items() if name in OPTIONAL}
    ends = {"trainer": Option(Settings, {}), "callbacks": Option(list[Callback], [])}
    return {"seed": Option(int, 42), **parts, **ends}


class Schema:
    """Checks values against types. Only classes of these modules, and of those in them, are imported; None: any."""

    def __init__(self, modules: Collection[str] | None = None) -> None:
        self.modules = modules

    def options(self, declared: Mapping[str, Option], given: Mapping[str, Any], where: str, owner: str) -> Resolved:
        """Complete the options of a class, `owner` in words (empty for the recipe itself), that `where` gives."""
        before = f"{where}." if where else ""
        for name, value in given.items():
            if name not in declared and not isinstance(value, Kept):
                of_owner = f" to {owner}" if owner else ""
                raise UserError(f"option {before}{name} is unknown{of_owner}\nfix: {_nearest(str(name), declared)}")
        found = Resolved()
        for name, option in declared.items():
            value = given.get(name, option.default)
            if isinstance(value, Kept):
                try:
                    value = self.value(option.hint, value.value, before + name)
                except UserError:
                    value = option.default
            elif name in given:
                value = self.value(option.hint, value, before + name)
            setattr(found, name, value)
        if missing := [name for name, value in vars(found).items() if value is inspect.Parameter.empty]:
            parent = "write class_path and init_args below each, or name a parent: extends: FILE.yaml"
            fix = "give each a value" if where else parent
            raise UserError(f"{where or 'it'} lacks {', '.join(missing)}\nfix: {fix}")
        return found

    def value(self, hint: Any, value: Any, where: str) -> Any:
        """A value as its option declares it, the options of parts resolved; a UserError if it is of another type."""
        hints = _alternatives(hint)
        if isinstance(value, Word):
            value = _read(value, hints)
        classes = tuple(each for each in hints if _is_part(each))
        names_class = isinstance(value, str) and not {str, Path} & {*hints} and not _in_literal(hints, value)
        if classes and (isinstance(value, Mapping) or names_class):
            return self._part(classes, value, where)
        for each in hints:
            if _takes(each, value):
                return self._as(each, value, where)
        _refuse(hints, value, where)

    def _as(self, hint: Any, value: Any, where: str) -> Any:
        """A value as one of the types that its option declares, which takes values of this kind."""
        origin, inner = get_origin(hint), get_args(hint)
        if _is_list(origin):
            return [self.value(inner[0], item, where) for item in value]
        if _is_mapping(origin):
            return {str(key): self._named(inner[1], key, value, where) for key in value}
        if is_plain(hint):
            owner = "" if hint is Settings else f"cse.{hint.__name__}"
            found = self.options(options_of(hint), value, where, owner)
            found.built_as = hint
            return found
        return float(value) if hint is float else str(value) if isinstance(value, Word) else value

    def _named(self, hint: Any, key: Any, values: Mapping[str, Any], where: str) -> Any:
        """One value of a mapping. An option of the command line for a name that the recipe lacks may be misspelled."""
        value, others = values[key], [str(name) for name in values if name != key]
        if isinstance(value, Mapping) and is_plain(hint) and all(isinstance(each, Word) for each in value.values()):
            first = next(name for name, option in options_of(hint).items() if option.default is inspect.Parameter.empty)
            if first not in value and others:
                near = difflib.get_close_matches(str(key), others, n=1, cutoff=0.4)
                fix = (
                    f"did you mean {near[0]}?" if near else f"give {where}.{key}.{first}, or one of {', '.join(others)}"
                )
                raise UserError(f"{where}.{key}: the recipe has no such name\nfix: {fix}")
        return self.value(hint, value, f"{where}.{key}")

    def _part(self, bases: tuple[type, ...], value: Any, where: str) -> Resolved:
        node = {"class_path": value} if isinstance(value, str) else value
        path, arguments = node.get("class_path"), node.get("init_args") or {}
        if not isinstance(arguments, Mapping):
            raise UserError(f"{where}.init_args is {_shown(arguments)}\nfix: write a mapping of arguments")
        if beside := [name for name in node if name not in {"class_path", "init_args"}]:
            raise UserError(f"{where}.{beside[0]} is unknown\nfix: {WRITE_CLASS}, and arguments below init_args")
        if not isinstance(path, str):
            raise UserError(f"{where}.class_path is {_shown(path)}\nfix: {WRITE_CLASS}")
        kind = self.resolve(path, bases, where)
        found = Resolved(class_path=str(path), init_args=self.options(options_of(kind), arguments, where, str(path)))
        found.built_as = kind
        return found

    def resolve(self, path: str, bases: tuple[type, ...], where: str) -> type:
        """Import a class, after a check that its module may be imported; no class of a recipe is imported elsewhere.

        It must be a subclass of one of `bases`; `where` is the option that names it.
        """
        module, _, name = path.rpartition(".")
        if not re.fullmatch(r"[\w.]+", path) or path.endswith((".yaml", ".yml")):
            raise UserError(f"{where} is {_shown(path)}\nfix: {WRITE_CLASS}")
        within = f"{module or 'cse'}."
        if self.modules is None or any(within.startswith(f"{each}.") for each in self.modules):
            found, known, what = _import(module, name)
        elif is_installed(module):
            raise UserError(
                f"names {path}, and reading the recipe would run the code of that module\n"
                f"fix: read that module; if you trust it, --trusted-modules={module.partition('.')[0]}"
            )
        else:
            found, known, what = None, [], "which cannot be imported: there is no such module"
        if isinstance(found, type) and issubclass(found, bases):
            return found
        base = " or ".join(each.__name__ for each in bases)
        fix = f"name a subclass of {base}; `cse recipe show NAME` prints those of a recipe"
        by_name = {each.__name__.casefold(): f"{each.__module__}.{each.__name__}" for each in known}
        if found is not None:
            what = f"which is not a subclass of {base}"
        elif near := difflib.get_close_matches(name.casefold(), by_name, n=1):
            fix = f"did you mean {by_name[near[0]]}?"
        raise UserError(f"{where} is {path}, {what}\nfix: {fix}")


def _import(module: str, name: str) -> tuple[Any, list[type], str]:
    """Find what a module has of a name, its classes, and why there is nothing, in words."""
    try:
        inside = import_module(module or "cse")
    except ImportError as error:
        return None, [], f"which cannot be imported: {error}"
    names = getattr(inside, "__all__", dir(inside))
    known = [each for key in names if isinstance(each := getattr(inside, key, None), type)]
    if not module:
        return None, known, "which is not the dotted name of a class"
    return getattr(inside, name, None), known, f"and {module} has no {name}"


def is_installed(module: str) -> bool:
    """Tell whether the package that holds a module can be imported; looking it up runs no code of it."""
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def help_of(kind: type, where: str) -> str:
    """The options of a class, each with its type, its default and its sentence in the docstring."""
    document = inspect.getdoc(kind) or ""
    said = dict[str, str]()
    for each in reversed(kind.__mro__):
        section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.cleandoc(each.__doc__ or ""), re.MULTILINE)
        said |= re.findall(r"^    (\w+): ((?:.|\n(?!    \w))*)", section[1] if section else "", re.MULTILINE)
    lines = [f"{kind.__module__}.{kind.__name__}: {document.partition(chr(10))[0]}"]
    for name, option in options_of(kind).items():
        must = option.default is inspect.Parameter.empty
        default = "required" if must else f"default: {_shown(option.default)}"
        types = " or ".join(_called(each) for each in _alternatives(option.hint))
        text = textwrap.fill(" ".join(said.get(name, "").split()), 94)
        lines += [f"  --{where}.{name}  {types}; {default}", textwrap.indent(text, " " * 6)]
    return "\n".join(lines)


def made(value: Any, where: str, **known: Any) -> Any:
    """Build what a value names, also within lists and mappings; see `Resolved.make`.

    Raises:
        UserError: A constructor refuses its arguments; one within a mapping is named.
    """
    if isinstance(value, Resolved):
        return value.make(**known)
    if isinstance(value, list):
        return [made(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, item in value.items():
        try:
            found[key] = made(item, f"{where}.{key}")
        except UserError as error:  # it speaks of `data.path`, which several have
            what, _, fix = str(error).partition("\nfix: ")
            raise UserError(f"{where}.{key}: {what}\nfix: {fix}") from error
    return found


def tried(value: Any, where: str) -> bool:
    """Build what needs no data or model, or the parts of it that need none, and drop it; tell whether all was built."""
    if isinstance(value, list):
        return all([tried(item, where) for item in value])
    if not isinstance(value, Resolved | dict):
        return True
    options = value if isinstance(value, dict) else vars(getattr(value, "init_args", value))
    ready = all([tried(item, f"{where}.{name}") for name, item in options.items()])
    if ready and isinstance(value, Resolved) and all(options.get(name) is None for name in READS):
        made(value, where)
        return True
    return ready and isinstance(value, dict)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in {Union, UnionType}:
        return tuple(each for inner in get_args(hint) for each in _alternatives(inner))
    return (hint,)


def _is_list(origin: Any) -> bool:
    return origin is not None and isinstance(origin, type) and issubclass(origin, Iterable) and not _is_mapping(origin)


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def is_plain(hint: Any) -> bool:
    """Tell whether options of a class are written without its name: those of a record, not of an objective."""
    return isinstance(hint, type) and is_dataclass(hint) and not hasattr(hint, "forward")


def _is_part(hint: Any) -> bool:
    simple = {bool, int, float, str, Path, Sized, NoneType}
    return isinstance(hint, type) and get_origin(hint) is None and hint not in simple and not is_plain(hint)


def _takes(hint: Any, value: Any) -> bool:
    """Tell whether a type has values of this kind; those within a list or a mapping are not looked at."""
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in {int, float} and math.isfinite(value)
    if hint in {bool, int, NoneType}:
        return type(value) is hint
    if hint in {str, Path} or hint is Any:
        return isinstance(value, str) or hint is Any
    if isinstance(value, Mapping):
        return _is_mapping(origin) or is_plain(hint)
    return _is_list(origin) and isinstance(value, list | tuple)


def _in_literal(hints: Sequence[Any], value: Any) -> bool:
    return isinstance(value, str) and any(value in get_args(each) for each in hints if get_origin(each) is Literal)


def _read(word: Word, hints: Sequence[Any]) -> Any:
    """A word as the first of the declared types that can hold it; the word itself if none can but a text."""
    if _in_literal(hints, word):
        return word
    if word == "null" or (word == "~" and NoneType in hints):
        return None
    try:
        read = yaml.load(word, Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return word
    nested = any(get_origin(each) not in {None, Literal} or _is_part(each) or is_plain(each) for each in hints)
    if isinstance(read, list | dict):
        return read if word[:1] in {"[", "{"} and (nested or Sized in hints) else word
    types = {float, int} if type(read) is int else {type(read)}
    return read if types & {bool, int, float} & {*hints} and type(read) in {bool, int, float} else word


def _refuse(hints: Sequence[Any], value: Any, where: str) -> NoReturn:
    """Raise for a value that none of the declared types can hold."""
    if not isinstance(value, str | int | float | list | tuple | Mapping | NoneType):
        raise UserError(
            f"{where}: {str(value)[:80]} is an object of Python within a mapping\n"
            "fix: give the whole part as an object, or its class_path and init_args"
        )
    if any(_is_part(each) for each in hints):
        fix = WRITE_CLASS
    elif Sized in hints:
        fix = f"give {PATHS}"
    else:
        kinds = [_called(each) for each in hints]
        fix = f"give {' or '.join(dict.fromkeys(kinds))}"
        if isinstance(value, Word) and any(_is_list(get_origin(each)) for each in hints):
            fix += f": --{where}=[{value}]"
    raise UserError(f"{where} is {_shown(value)}\nfix: {fix}")


def _called(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if _is_mapping(origin):
        return f"a mapping by name, each {' or '.join(_called(each) for each in _alternatives(inner[1]))}"
    if _is_list(origin):
        return "a list"
    if is_plain(hint):
        return f"a mapping of {_first(options_of(hint))}"
    return KINDS.get(hint, KINDS[str] if hint is Path else getattr(hint, "__name__", str(hint)))


def _shown(value: Any) -> str:
    """A value as its user wrote it."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | NoneType) else None
    return (text or (str(value) if isinstance(value, Word) else repr(value)))[:80]


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known := list(known), n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"it takes {_first(known)}" if known else "remove it"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join([*names[:8], "..."] if len(names) > 8 else names)
