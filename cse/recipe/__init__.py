"""Recipes: YAML to objects. `files` reads and merges, `sections` fits a recipe to its model, `schema` checks it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cse.errors import UserError
from cse.recipe import options as typed
from cse.recipe.files import dump, find, folder, header, mapping, names, on_top_of, read, require_shape
from cse.recipe.objects import insert_parts, require_objects
from cse.recipe.schema import COMPONENTS, Resolved, Schema, declared, help_of, made
from cse.recipe.sections import specialize

__all__ = ["Recipe", "build", "find", "folder", "header", "load", "names", "read"]

UNNAMED = "custom"  # the name of a recipe without a file


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe whose options are all known.

    Attributes:
        name: Its file's name without suffix.
        config: Every option, defaults included: `config.objective.init_args.temperature`.
        text: The same as YAML, which loads as the same recipe.
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


def load(
    recipe: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    parts: Mapping[str, Any] | None = None,
    *,
    trusted: Collection[str] | None = (),
) -> Recipe:
    """Read and check a recipe without building anything heavy.

    Args:
        recipe: A name of the package's, a path that ends in .yaml, or what such a file holds, where `extends` is a name
            or a path from the working folder.
        overrides: Options such as `--trainer.max_steps=50`. `--encoder MODEL` and `--data FILE` are short for
            `--encoder.backbone` and `--data.path`. `--trusted-modules=a,b` adds to `trusted`.
        parts: Mappings that are merged with the recipe's parts of the same names, and objects that take their places;
            `rows` are in memory, and the recipe's data class reads them.
        trusted: Modules besides this package whose classes the file may name. None: all. A recipe of the package, and
            one that is not a file, may name all; the file that it extends may not. So may the modules in
            CSE_TRUSTED_MODULES, and those of classes that the options name, since the user typed them.

    Raises:
        UserError: An option is unknown, of the wrong type, out of range, or missing; the model cannot be an encoder;
            or the file names a class of another module.
    """
    options, parts = typed.read(overrides), parts or {}
    path: Path | None = None
    allowed = {"cse", *typed.modules_of_environment(), *options.modules()}
    if isinstance(recipe, Mapping):
        require_shape(recipe, "recipe")
        source = find(str(recipe["extends"])) if recipe.get("extends") is not None else None
        allowed |= typed.modules_named(dict(recipe))
        content = dict(recipe) if source is None else on_top_of(source, recipe)
    else:
        path = source = find(recipe)
        content = read(path)
    foreign = None if source is None or source.resolve().is_relative_to(folder().resolve()) else source
    schema = Schema(None if foreign is None or trusted is None else {*trusted, *allowed})
    name = UNNAMED if path is None else path.stem if path.parent.name != "paper" else f"paper-{path.stem}"
    objects = {name: part for name, part in parts.items() if name == "rows" or not isinstance(part, Mapping)}
    expect = content.pop("expect", None) or {}
    require_objects(content.pop("objects", None) or {}, objects, path)
    content.pop("extends", None)
    content, describe = specialize(content, options, parts)
    unwritten = insert_parts(content, parts, path)
    known = declared(unwritten)
    try:
        content = {"trainer": {}, **typed.apply(content, options, list(known))}
        _help(content, options, schema)
        config = schema.options(known, content, "", "")
    except UserError as error:
        said = f"recipe {foreign or (recipe if path else name)}: {error}"
        raise UserError(said) from error
    config.trainer.make()  # which checks their ranges
    more = {"expect": dict(sorted(expect.items())), "objects": unwritten}
    text = dump({**_plain(config), **{key: value for key, value in more.items() if value}})
    return Recipe(name, config, text, expect, foreign if path else None, objects, describe(config))


def _plain(value: Any) -> Any:
    """A value as YAML can write it; `init_args` are left out where there are none."""
    if isinstance(value, Resolved):
        return {key: _plain(each) for key, each in vars(value).items() if key != "init_args" or vars(each)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _help(content: Mapping[str, Any], options: typed.Options, schema: Schema) -> None:
    """Print the options of the class that `--objective.help`, or `--objective.help=CLASS`, asks for, and exit."""
    for option, value in options.values:
        where, _, last = option.rpartition(".")
        if last == "help":
            node: Any = content
            for key in where.split("."):
                node = mapping(mapping(node).get("init_args", node)).get(key)
            named = value or mapping(node).get("class_path", node)
            print(help_of(schema.resolve(str(named), (object,), where), where))  # noqa: T201
            raise SystemExit(0)


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
        value = recipe.objects.get(part, getattr(recipe.config, part, None))
        known = {"path": recipe.objects["rows"]} if part == "data" and "rows" in recipe.objects else {}
        try:
            setattr(built, part, made(value, part, **known))
        except ValueError as error:
            what, _, fix = str(error).partition("\nfix: ")
            fix = fix or f"give `{part}` other arguments, in the recipe or on the command line"
            raise UserError(f"recipe {recipe.name}: {part}: {what}\nfix: {fix}") from error
    return built
