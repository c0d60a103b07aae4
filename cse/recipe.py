"""Recipes: YAML to objects. The only file that imports the config library; a constructor's signature is the schema."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from cse.errors import UserError
from cse.explain import explain

COMPONENTS = ("data", "collator", "encoder", "objective", "evaluator", "sampler", "negatives")
OPTIONAL = {"evaluator", "sampler", "negatives"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A parsed recipe.

    Attributes:
        name: Its file's name without suffix.
        config: jsonargparse's namespace of every option, defaults expanded.
        text: The same as YAML, which parses to the same recipe.
        expect: The band that the authors of the recipe saw, if any.
    """

    name: str
    config: Any
    text: str
    expect: dict[str, Any]


def folders() -> list[Path]:
    """Where recipes are looked for by name: here, beside the package in a checkout, in an installation."""
    return [Path("recipes"), Path(__file__).resolve().parent.parent / "recipes", Path(sys.prefix) / "share/cse/recipes"]


def names() -> list[str]:
    """Every recipe that can be named, paper/ ones included."""
    found = {str(p.relative_to(f).with_suffix("")) for f in folders() for p in f.rglob("*.yaml") if p.name[0] != "_"}
    return sorted(found)


def find(name: str) -> Path:
    """The file of a recipe, by name or path.

    Raises:
        UserError: There is none; the nearest name is suggested.
    """
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"recipe {name!r}: there is no such file")
    for folder in folders():
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    known = names()
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known recipes: {', '.join(known[:12])}"
    raise UserError(f"recipe {name!r} is unknown; {hint}")


def read(path: Path) -> dict[str, Any]:
    """The recipe's mapping with what it extends merged in.

    A list replaces its parent's, and so does a class_path the arguments of another class.

    Raises:
        UserError: Not YAML, not a mapping, or it extends what is not there.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"recipe {path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path}: is not a mapping of options")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    base = path.parent / parent
    if not base.is_file():
        raise UserError(f"recipe {path}: extends {parent!r}, and there is no {base}")
    return merge(read(base), content)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mapping by mapping."""
    switched = "class_path" in over and over["class_path"] != base.get("class_path")
    merged = {} if switched else dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Parse and check a recipe without building anything heavy.

    Args:
        name: A recipe's name, or a path that ends in .yaml.
        overrides: Options such as `--trainer.max_steps=50`.

    Raises:
        UserError: An option is unknown, of the wrong type, or missing.
    """
    path = find(name)
    content = read(path)
    expect = content.pop("expect", None) or {}
    parser = _parser()
    arguments = [f"--config={yaml.safe_dump(content)}", *overrides]
    try:
        config = parser.parse_args(arguments)
    except Exception as error:  # jsonargparse raises several kinds
        raise UserError(f"recipe {path.stem}: {explain(str(error))}") from error
    config.pop("config", None)
    text = parser.dump(config, skip_none=False)
    if expect:
        text += yaml.safe_dump({"expect": expect})
    return Recipe(path.stem if path.parent.name != "paper" else f"paper-{path.stem}", config, text, expect)


def build(recipe: Recipe) -> Any:
    """The objects that a recipe names, seeded before the first of them exists.

    Returns:
        A namespace of data, collator, encoder, objective, evaluator, sampler, negatives, trainer and callbacks.

    Raises:
        UserError: A component refuses its arguments.
    """
    from cse.seeding import seed_dropout
    from cse.training.settings import Settings

    seed_dropout(recipe.config.seed, "init")
    built = SimpleNamespace()
    for part in (*COMPONENTS, "trainer", "callbacks"):
        try:
            value = recipe.config[part]
            setattr(built, part, Settings(**vars(value)) if part == "trainer" else _make(value))
        except ValueError as error:
            raise UserError(f"recipe {recipe.name}: {part}: {error}") from error
    return built


def _make(value: Any) -> Any:
    """What a class_path with init_args names, also within lists and arguments. Checked types are taken as they are.

    jsonargparse could do it, but would bury a constructor's own words in those of its types.
    """
    if isinstance(value, list):
        return [_make(item) for item in value]
    if not hasattr(value, "class_path"):
        return value
    module, _, name = value.class_path.rpartition(".")
    arguments = vars(value.init_args) if "init_args" in value else {}
    return getattr(import_module(module), name)(**{k: _make(v) for k, v in arguments.items()})


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    from cse.data.datasets import Dataset
    from cse.encoder.model import Encoder
    from cse.interfaces import Collator, Evaluator, Objective, Sampler
    from cse.mining.refresh import RefreshNegatives
    from cse.training.run import Callback
    from cse.training.settings import Settings

    parser = ArgumentParser(prog="cse train RECIPE", exit_on_error=False, default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="more options, as YAML")
    parser.add_argument("--seed", type=int, default=42, help="of everything random")
    classes = (Dataset, Collator, Encoder, Objective, Evaluator, Sampler, RefreshNegatives)
    for component, base in zip(COMPONENTS, classes, strict=True):
        parser.add_subclass_arguments(base, component, required=component not in OPTIONAL)
    parser.add_class_arguments(Settings, "trainer")
    parser.add_argument("--callbacks", type=list[Callback], default=[], help="more watchers of the run")
    return parser
