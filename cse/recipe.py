"""Recipes: YAML to objects. The only file that imports the config library; a constructor's signature is the schema."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import yaml

from cse.errors import UserError
from cse.files import require_name
from cse.training.mixtures import require_named, with_name
from cse.training.nulls import insert_nulls
from cse.training.objects import insert_parts, require_objects
from cse.training.recipe_file import (
    COMPONENTS,
    is_yaml,
    modules_named,
    parse,
    require_shape,
    require_trusted,
    trusted_modules,
    untrusted,
)
from cse.training.sections import extend, shorthands, specialize
from cse.training.settings import FORMER, Settings

OPTIONAL = {"evaluator", "sampler", "negatives"}
UNNAMED = "custom"  # the name of a recipe without a file


@dataclass(frozen=True, slots=True)
class Recipe:
    """A parsed recipe.

    Attributes:
        name: Its file's name without suffix.
        config: jsonargparse's namespace of every option, defaults expanded.
        text: The same as YAML, which parses to the same recipe.
        expect: The band that the authors of the recipe saw, if any.
        own: The file, if it is not one of the package's, whose name it may share.
        objects: Parts that exist already, by name: an objective, a data set; `rows` are those that the data reads.
        chosen: What the recipe chose for a model that it does not name, and why, in words for the run's header.
    """

    name: str
    config: Any
    text: str
    expect: dict[str, Any]
    own: Path | None = None
    objects: Mapping[str, Any] = field(default_factory=dict)
    chosen: str = ""


def folder() -> Path:
    """The recipes of this version: inside the installed package, or beside it in a checkout."""
    package = Path(str(files("cse")))
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def names() -> list[str]:
    """Every recipe that has a name, those in paper/ included."""
    found = {p.relative_to(folder()).with_suffix("").as_posix() for p in folder().rglob("*.yaml") if p.name[0] != "_"}
    return sorted(found)


def find(name: str) -> Path:
    """The file of a recipe.

    A name always means the package's own recipe, and a path that ends in .yaml always means that file, so that a folder
    `recipes/` where the command happens to run can never take the place of what the package ships.

    Raises:
        UserError: No such recipe exists; the nearest name is suggested.
    """
    require_name(name, "recipe")
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"recipe {name}: no such file\nfix: give the path of a YAML file, or one of `cse recipe list`")
    path = folder() / f"{name}.yaml"
    if path.is_file():
        return path
    own = [p for p in (Path(f"{name}.yaml"), Path("recipes") / f"{name}.yaml") if p.is_file()]
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    fix = f"give the file as a path: {own[0]}" if own else f"{hint}`cse recipe list` shows all"
    raise UserError(f"recipe {name!r} is unknown\nfix: {fix}")


def header(path: Path) -> dict[str, str]:
    """The fields of the comment that a recipe opens with; the sentence before the first field is `title`.

    A field is a line such as `# paper      Gao et al. (arXiv:2104.08821)` with the lines up to the next field.
    """
    said: dict[str, str] = {}
    name = "title"
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        field = re.fullmatch(r"# ([a-z]+) {2,}(\S.*)", line)
        name, text = field.groups() if field else (name, line[1:].strip())
        said[name] = f"{said.get(name, '')} {text}".strip()
    return said


def read(path: Path, heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The recipe's mapping, merged on top of the one that it extends.

    A list replaces its parent's, and a new class_path drops the arguments of the parent's class. `expect` is never
    inherited: the scores that a parent reached say nothing about a recipe that changes it. What the recipe itself says
    also takes precedence over its parent's sections in `for`; see `cse.training.sections`.

    Args:
        path: The file of the recipe.
        heirs: The files that extend it, the last one directly.

    Raises:
        UserError: The file is not YAML, is not a mapping, is too large, or extends itself or a file that does not
            exist.
    """
    content = parse(path)
    parent = content.pop("extends", None)
    if parent is None:
        return content
    base = path.parent / str(parent)
    if not isinstance(parent, str) or not base.is_file():
        raise UserError(
            f"recipe {path}: extends {parent!r}, but {base} does not exist\n"
            "fix: give the parent's path from this recipe's folder, or copy it: cse recipe copy NAME"
        )
    chain = (*heirs, path)
    if base.resolve() in [heir.resolve() for heir in chain]:
        circle = " -> ".join(str(heir) for heir in (*chain, base))
        raise UserError(f"recipe {path}: extends in a circle: {circle}\nfix: remove `extends` from one of them")
    return read_on(base, content, chain)


def read_on(base: Path | None, content: Mapping[str, Any], heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's mapping merged on top of the file that it extends, if it extends one; see `read`."""
    own = {name: value for name, value in content.items() if name != "extends"}
    if base is None:
        return own
    inherited = read(base, heirs)
    inherited.pop("expect", None)
    return extend(inherited, own)


def load(
    recipe: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    parts: Mapping[str, Any] | None = None,
    *,
    trusted: Collection[str] | None = (),
) -> Recipe:
    """Parse and check a recipe without building anything heavy.

    Args:
        recipe: A name of the package's, a path that ends in .yaml, or what such a file holds, where `extends` is a name
            or a path from the working folder.
        overrides: Options such as `--trainer.max_steps=50`. `--encoder MODEL` and `--data FILE` are short for
            `--encoder.backbone` and `--data.path`. `--trusted-modules=a,b` adds to `trusted`.
        parts: Mappings that are merged with the recipe's parts of the same names, and objects that take their places;
            `rows` are in memory, and the recipe's data class reads them.
        trusted: Modules besides this package whose classes the file may name. None: all. A recipe of the package, and
            one that is not a file, may name all; the file that it extends may not.

    Raises:
        UserError: An option is unknown, of the wrong type, out of range, or missing; the model cannot be an encoder;
            or the file names a class of another module.
    """
    overrides, allowed = trusted_modules(overrides)
    path: Path | None = None
    if isinstance(recipe, Mapping):
        content = dict(recipe)
        require_shape(content, "recipe")
        source = find(str(content["extends"])) if content.get("extends") is not None else None
        allowed += modules_named(content)
        content = read_on(source, content)
    else:
        path = source = find(recipe)
        content = read(path)
    if any(option.partition("=")[0] == "--config" for option in overrides):
        raise UserError("option --config is unknown\nfix: give the file in the recipe's place: cse train FILE.yaml")
    foreign = None if source is None or source.resolve().is_relative_to(folder().resolve()) else source
    imports = None  # all modules
    if foreign is not None and trusted is not None:
        imports = require_trusted(content, foreign, overrides, {*trusted, *allowed})
    name = UNNAMED if path is None else path.stem if path.parent.name != "paper" else f"paper-{path.stem}"
    objects = {name: part for name, part in (parts or {}).items() if name == "rows" or not isinstance(part, Mapping)}
    expect = content.pop("expect", None) or {}
    require_objects(content.pop("objects", None) or {}, objects, path)
    overrides = shorthands(overrides)
    content, describe = specialize(content, overrides, parts or {})
    unwritten = insert_parts(content, parts or {}, path)
    require_named(content, overrides)
    content, overrides = insert_nulls(content, overrides, COMPONENTS)
    parser = _parser(unwritten)

    def parsed(content: Mapping[str, Any], overrides: Sequence[str]) -> Any:
        return parser.parse_args([f"--config={yaml.safe_dump(content, sort_keys=False)}", *overrides])

    try:
        with _importing_only(imports):
            config = parsed(content, overrides)
    except yaml.representer.RepresenterError as error:
        raise UserError(
            f"recipe {name}: {str(error.args[-1])[:80]} is an object of Python within a mapping\n"
            "fix: give the whole part as an object, or its class_path and init_args"
        ) from error
    except Exception as error:  # jsonargparse raises several kinds
        for part in COMPONENTS:
            _require_class(part, content.get(part), overrides, imports, f"recipe {name if path is None else recipe}")
        what, _, fix = _explain(str(error)).partition("\nfix: ")
        what = with_name(what, content, overrides, parsed)
        show = f"`cse recipe show {'simcse-unsup' if path is None else recipe} --defaults`"
        fix = fix or f"{show} lists every option with its default"
        raise UserError(f"recipe {name if path is None else recipe}: {what}\nfix: {fix}") from error
    config.pop("config", None)
    _require_texts(content, config, f"recipe {name if path is None else recipe}: ")
    if "rows" not in objects and "data" not in objects:
        _require_paths(config.data, "data")
    Settings(**vars(config.trainer))  # which checks their ranges
    text = parser.dump(config, skip_none=False, skip_validation=True)  # it was parsed just now
    for key, lines in (("expect", expect), ("objects", unwritten)):
        text += yaml.safe_dump({key: lines}) if lines else ""
    return Recipe(name, config, text, expect, foreign if path else None, objects, describe(config))


def _require_class(
    part: str, value: Any, overrides: Sequence[str], imports: Collection[str] | None, where: str
) -> None:
    """Check that the class of a part, in a recipe's content or in the last option for it, is one of that part.

    Raises:
        UserError: The class does not exist, or is a class of another kind; the nearest name is suggested.
    """
    options = (word.partition("=") for word in overrides)
    typed = [
        value for option, _, value in options if option in {f"--{part}", f"--{part}.class_path"} and "{" not in value
    ]
    named = typed[-1] if typed else value.get("class_path") if isinstance(value, Mapping) else value
    if not isinstance(named, str) or named == "null":
        return
    module, _, name = named.rpartition(".")
    if imports is not None and not any(f"{module or 'cse'}.".startswith(f"{known}.") for known in imports):
        return  # the parser refused it without importing it
    base, found, known = bases()[part], None, list[str]()
    try:
        inside = import_module(module or "cse")
        known = [each for each in dir(inside) if isinstance(getattr(inside, each, None), type)]
        found = getattr(inside, name, None) if module else None
        what = f"and {module} has no {name}" if module else "which is not the dotted name of a class"
    except ImportError as error:
        what = f"which cannot be imported: {error}"
    if isinstance(found, type) and issubclass(found, base):
        return
    fix = f"name a subclass of {base.__name__}; `cse recipe show NAME` prints those of a recipe"
    if found is not None:
        what = f"which is not a subclass of {base.__name__}"
    elif near := difflib.get_close_matches(name.casefold(), by_name := {each.casefold(): each for each in known}, n=1):
        kind = getattr(inside, by_name[near[0]])
        fix = f"did you mean {kind.__module__}.{kind.__name__}?"
    raise UserError(f"{where}: {part} is {named}, {what}\nfix: {fix}")


def _require_texts(content: Any, parsed: Any, where: str) -> None:
    """Raise if the parser read a text of the recipe as YAML, which only the file itself is."""
    if isinstance(content, str) and not isinstance(parsed, str) and is_yaml(content):
        raise UserError(f"{where} is the text {content[:80]!r}\nfix: write the mapping or list itself, without quotes")
    if isinstance(content, list) and isinstance(parsed, list):
        content, parsed = dict(enumerate(content)), dict(enumerate(parsed))
    if isinstance(content, Mapping) and (isinstance(parsed, dict) or hasattr(parsed, "__dict__")):
        there = parsed if isinstance(parsed, dict) else vars(parsed)
        for key, value in content.items():
            inner = there if key in there else vars(there.get("init_args", SimpleNamespace()))
            name = "" if key == "init_args" else f"{'' if where.endswith(' ') else '.'}{key}"
            _require_texts(value, inner.get(key, ""), where + name)


def _require_paths(data: Any, where: str) -> None:
    """Raise if the path of rows is a list, whose texts would be the rows."""
    arguments = vars(data.init_args)
    for name, source in (arguments.get("sources") or {}).items():
        _require_paths(source.data, f"{where}.sources.{name}.data")
    if not isinstance(path := arguments.get("path", ""), str):
        raise UserError(
            f"{where}.path is {str(path)[:80]}\nfix: give one file, a folder, or a pattern such as '*.txt'; "
            "rows in memory are given in Python"
        )


@contextmanager
def _importing_only(modules: Collection[str] | None) -> Iterator[None]:
    """Let the parser import classes of these modules only, whatever text or file names them. None: of all modules."""
    from jsonargparse import _common as library

    before = dict(library.parsing_settings)
    try:
        if modules is not None:
            library.set_import_path_verdicts(["*"], sorted(modules))
        yield
    finally:
        library.parsing_settings.update(before)


def build(recipe: Recipe) -> Any:
    """The objects that a recipe names, seeded before the first of them exists.

    Returns:
        A namespace of data, collator, encoder, objective, evaluator, sampler, negatives, trainer and callbacks.

    Raises:
        UserError: A component refuses its arguments.
    """
    from cse.seeding import seed_dropout

    seed_dropout(recipe.config.seed, "init")
    built = SimpleNamespace()
    for part in (*COMPONENTS, "trainer", "callbacks"):
        try:
            value = recipe.config.get(part)
            if part in recipe.objects:
                value = recipe.objects[part]
            elif part == "data" and "rows" in recipe.objects:
                value = _make(value, path=recipe.objects["rows"])
            else:
                value = Settings(**vars(value)) if part == "trainer" else _make(value)
            setattr(built, part, value)
        except ValueError as error:
            what, _, fix = str(error).partition("\nfix: ")
            fix = fix or f"give `{part}` other arguments, in the recipe or on the command line"
            raise UserError(f"recipe {recipe.name}: {part}: {what}\nfix: {fix}") from error
    return built


def _make(value: Any, **known: Any) -> Any:
    """Build what a class_path with init_args names, also within lists, mappings and arguments.

    `known` are arguments as they are.

    jsonargparse could build it, but would bury the message of a constructor among its own.
    """
    if isinstance(value, list):
        return [_make(item) for item in value]
    if isinstance(value, dict):
        return {key: _make(item) for key, item in value.items()}
    if not hasattr(value, "class_path"):
        return value
    module, _, name = value.class_path.rpartition(".")
    component = getattr(import_module(module), name)
    arguments = {k: _make(v) for k, v in vars(value.init_args).items()} if "init_args" in value else {}
    for key, options in arguments.items():
        if isinstance(options, type(value)):  # the options of a dataclass, which has no class_path
            arguments[key] = _make_options(get_type_hints(component.__init__)[key], options)
        elif isinstance(options, dict) and isinstance(next(iter(options.values()), None), type(value)):
            arguments[key] = {}
            for name, each in options.items():
                try:
                    arguments[key][name] = _make_options(get_type_hints(component.__init__)[key], each)
                except UserError as error:  # it speaks of `data.path`, which several have
                    what, _, fix = str(error).partition("\nfix: ")
                    raise UserError(f"{key}.{name}: {what}\nfix: {fix}") from error
    return component(**arguments | known)


def _make_options(hint: Any, options: Any) -> Any:
    """The dataclass in a type hint, with these options."""
    part = next(kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind))
    return part(**{name: _make(value) for name, value in vars(options).items()})


def bases() -> dict[str, type]:
    """The class that each part of a recipe is an object of."""
    from cse.data.datasets import Dataset
    from cse.encoder.model import Encoder
    from cse.interfaces import Collator, Evaluator, Objective, RowSource, Sampler

    return dict(zip(COMPONENTS, (Dataset, Collator, Encoder, Objective, Evaluator, Sampler, RowSource), strict=True))


def _parser(absent: Collection[str] = ()) -> Any:
    """The parser of recipes in which some parts may be absent."""
    from jsonargparse import ArgumentParser

    from cse.training.run import Callback

    parser = ArgumentParser(prog="cse train RECIPE", exit_on_error=False, default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="more options, as YAML")
    parser.add_argument("--seed", type=int, default=42, help="seed of everything that is drawn at random")
    for component, base in bases().items():
        if component not in absent:
            # `add_subclass_arguments` would read a text, in any option of the part, as the path of a YAML file
            required = component not in OPTIONAL
            kind: Any = base if required else base | None
            parser.add_argument(f"--{component}", type=kind, required=required, help="class_path and init_args")
    parser.add_class_arguments(Settings, "trainer")
    parser.add_argument("--callbacks", type=list[Callback], default=[], help="further callbacks of the run")
    return parser


# The config library's messages, cut to what helps: the option, its value, what it should be, the nearest name. They are
# no part of its interface: pyproject.toml caps its version, and tests/test_recipes.py has one test per message.
_NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value"
    r"|Problem with given class_path|Parser key"
)


def _explain(message: str) -> str:
    """At most three lines: which option is wrong, how, and what may have been meant."""
    denied = re.search(r"Importing '([\w.]+)' is not allowed", message)
    if denied:
        return untrusted(f"names {denied.group(1)}", denied.group(1))
    unknown = re.search(r"unrecognized arguments: --([\w.-]+)", message)
    if unknown:
        return f"option --{unknown.group(1)} is unknown{_nearest(unknown.group(1), _options())}"
    absent = re.search(r"arguments are required: ([\w., ]+)", message)
    if absent and "Parser key" not in message and set(absent.group(1).split(", ")) <= {*COMPONENTS}:
        names = ", ".join(sorted(absent.group(1).split(", ")))
        return f"it lacks {names}\nfix: write them with their class_path, or name a parent: extends: FILE.yaml"
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    where = ".".join(dict.fromkeys(keys)).replace(".init_args", "") or "option"
    class_path = next(reversed(re.findall(r"given class_path '([\w.]+)'", message)), "")  # the innermost is to blame
    refused = re.search(r"Option '([\w.]+)' is not accepted", message)
    if refused:
        name = refused.group(1)
        if not class_path:  # at the top level of the recipe
            return f"option {name} is unknown{_nearest(name, [*COMPONENTS, 'trainer', 'seed', 'callbacks'])}"
        return f"option {where}.{name} is unknown to {class_path}{_nearest(name, _arguments(class_path))}"
    details = [line.strip(" -") for line in message.splitlines() if line.strip() and not _NOISE.search(line)]
    if listed := re.search(r"Expected a <class 'collections.abc.Sequence'>. Got value: (.*)", message):
        return f"{where} is {listed[1]}, and must be a list\nfix: --{where}=[{listed[1]}]"
    if infinite := re.search(r"Expected a <class 'float'>. Got value: ([-+]?(nan|inf\w*))$", message, re.M | re.I):
        return f"{where} is {infinite[1]}\nfix: give a finite number"
    return f"{where}: {_plain(details[0] if details else message)}"[:400] + _value(message)


def _plain(detail: str) -> str:
    detail = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", detail.replace("Expected a one", "Expected one"))
    detail = re.sub(r"<class '([\w.]+)'>", r"\1", detail)
    return re.sub(r"Expected a (one of|\w+)", r"expected \1", detail).removeprefix("- ")


def _value(message: str) -> str:
    value = re.search(r"Given value: (?!NestedArg|Namespace)(.+)", message)
    return f"; got {value.group(1)[:80]}" if value and "Got value" not in message else ""


def _nearest(name: str, known: list[str]) -> str:
    if former := FORMER.get(name.rpartition(".")[2]):
        return f"\nfix: {former}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"\nfix: did you mean {near[0]}?"
    some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"\nfix: it takes {some}" if known else ""


def _options() -> list[str]:
    trainer = [f"trainer.{name}" for name in inspect.signature(Settings).parameters]
    classes = [f"{component}.class_path" for component in COMPONENTS]
    return [*trainer, "seed", "run-dir", "resume", "trusted-modules", *classes]


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []
