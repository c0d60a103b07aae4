"""Recipes: YAML to objects. `files` reads and merges, `specialize` fits a recipe to its model, `schema` checks it.

Of the sections of a recipe in `for`, only those that fit its model and data are merged:

    for:
      asset:smollm2: {...}            options for one backbone of the package
      asset:wiki: {...}               options for one data set of the package
      encoder: {...}                  options for any other model, by its kind; see `cse.encoder.kinds`
      causal: {...}
      sentence-transformers: {...}

So settings that were tuned for one asset touch no other model. The resolved recipe of a run has no `for`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cse.encoder.kinds import Kind, detect, without_layers
from cse.errors import UserError, require_within
from cse.recipe import options as typed
from cse.recipe.files import (
    arguments_of,
    dump,
    find,
    folder,
    header,
    mapping,
    merge,
    names,
    on_top_of,
    read,
    require_shape,
)
from cse.recipe.objects import insert_parts, require_objects
from cse.recipe.options import Options
from cse.recipe.schema import COMPONENTS, Resolved, Schema, declared, help_of, made, tried

__all__ = ["Recipe", "build", "find", "folder", "header", "load", "names", "read", "try_out"]

Describe = Callable[[Any], str]
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
    allowed = {"cse", *typed.listed(os.environ.get("CSE_TRUSTED_MODULES", "")), *options.modules()}
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
    require_within("[0, 1e15)", "recipe", seed=config.seed)
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


def _help(content: Mapping[str, Any], options: Options, schema: Schema) -> None:
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
    """
    from cse.seeding import seed_dropout

    seed_dropout(recipe.config.seed, "init")
    built = SimpleNamespace()
    for part in (*COMPONENTS, "trainer", "callbacks"):
        value = recipe.objects.get(part, getattr(recipe.config, part, None))
        known = {"path": recipe.objects["rows"]} if part == "data" and "rows" in recipe.objects else {}
        with _refused(recipe, part):
            setattr(built, part, made(value, part, **known))
    return built


def try_out(recipe: Recipe) -> None:
    """Build what a recipe names and needs neither data nor a model, and drop it: constructors check their arguments."""
    for part in (*COMPONENTS, "callbacks"):
        with _refused(recipe, part):
            tried(getattr(recipe.config, part, None), part)


@contextmanager
def _refused(recipe: Recipe, part: str) -> Iterator[None]:
    """Name the recipe and the part whose constructor raises a ValueError."""
    try:
        yield
    except ValueError as error:
        what, _, fix = str(error).partition("\nfix: ")
        fix = fix or f"give `{part}` other arguments, in the recipe or on the command line"
        raise UserError(f"recipe {recipe.name}: {part}: {what}\nfix: {fix}") from error


def specialize(content: dict[str, Any], options: Options, parts: Mapping[str, Any]) -> tuple[dict[str, Any], Describe]:
    """Merge the sections that fit the model and the data, which options or parts may name in the recipe's place.

    Of the model, one section counts: that of its `asset:NAME`, or else that of its kind. A maximal length that the
    model cannot read is lowered to what it can.

    Returns:
        The mapping without `for`; and what says in words, given the parsed options, which settings a model got that
        the recipe does not name. It says nothing for a model with a section of its own.
    """
    content = dict(content)
    sections = content.pop("for", None) or {}
    part = parts.get("encoder")
    if (given := options.last("encoder.backbone")) == "null":
        raise UserError("encoder.backbone is null\nfix: give a folder, asset:NAME or an id of the Hub: --encoder MODEL")
    given = given or getattr(part, "source", None) or arguments_of(parts, "encoder").get("backbone")
    backbone = given or arguments_of(content, "encoder").get("backbone")
    data = options.last("data.path") or arguments_of(content, "data").get("path")
    if "rows" in parts or parts.get("data") is not None:
        data = None
    for name in (data, backbone):
        content = merge(content, (sections.get(name) if isinstance(name, str) else None) or {})
    if not isinstance(backbone, str) or backbone in sections or not (sections or given):
        return content, lambda config: ""
    kind = detect(backbone, options.last("encoder.revision"))
    if kind.layout.static:
        raise UserError(without_layers("model", backbone))
    content = copy.deepcopy(merge(content, sections.get(kind.name) or {}))
    taken = arguments_of(arguments_of(content, "encoder"), "adapter").get("length", 0)  # positions of soft prompts
    most = kind.max_length - (taken if isinstance(taken, int) else 0)
    for collator in _collators(content):
        if isinstance(length := collator.get("max_length"), int) and length > most:
            collator["max_length"] = most
    if part is not None and not isinstance(part, Mapping):  # an encoder that exists says itself what it is
        return content, lambda config: ""
    return content, partial(_describe, kind, kind.name in sections, options)


def _collators(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of the collators that tokenize: the recipe's own, and those of the sources of a mixture."""
    for part in (content, *mapping(arguments_of(content, "data").get("sources")).values()):
        collator = arguments_of(mapping(part), "collator")
        while isinstance(collator.get("views"), dict):  # a collator around another one, such as Masked
            collator = arguments_of(collator, "views")
        yield collator


def _describe(kind: Kind, has_section: bool, options: Options, config: Any) -> str:
    """Say what was chosen for a model of this kind, and which options the user gave."""
    encoder, settings, post = config.encoder.init_args, config.trainer, kind.layout.post
    own = encoder.pooler is None and kind.layout.pooler is not None
    parts = [f"{encoder.pooler or kind.layout.pooler or 'cls'} pooling" + (" of its modules.json" if own else "")]
    if post:
        parts.append(f"its {' and '.join(module.kind for module in post)} kept")
    if any(kind.layout.prompts.values()):
        parts.append("its prompts kept")
    if encoder.head != "none":
        parts.append(f"{encoder.head} head" if encoder.export_head else f"{encoder.head} head in training only")
    if encoder.template:
        parts.append("a template")
    what = "full fine-tuning" if encoder.adapter is None else encoder.adapter.class_path.rpartition(".")[2]
    what = what if settings.train_layers is None else f"fine-tuning of the last {settings.train_layers} layers"
    parts.append(f"{what} at {settings.learning_rate:g}")
    if encoder.dropout is not None and encoder.dropout.attention is not None:
        parts.append(f"attention dropout {encoder.dropout.attention:g}")
    if settings.max_steps is None:
        cap = f", at most {settings.cap_steps:,} steps" if settings.cap_steps is not None else ""
        parts.append(f"{settings.epochs:g} epoch{'s' if settings.epochs != 1 else ''}{cap}")
    names = dict.fromkeys(name for name, _ in options.values)
    yours = [n for n in names if n.startswith(("encoder.", "trainer.")) and n != "encoder.backbone"]
    given = f"; given: {', '.join(yours)}" if yours else ""
    source = f"the recipe's settings for {kind.name} models" if has_section else "the recipe's settings"
    return f"{kind.describe()}: {', '.join(parts)} ({source}{given})"
