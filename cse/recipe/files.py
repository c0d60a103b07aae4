"""The files of recipes: where they are, what they hold, and how one is merged on top of another."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml

from cse.encoder.kinds import KindName
from cse.errors import UserError
from cse.files import require_name

MAX_VALUES = 10_000  # of a recipe with its anchors expanded; the largest of the package has about 100
MAX_DEPTH = 50
MAPPINGS = {  # with an example of each
    "trainer": "{max_steps: 100}",
    "expect": "{tasks: STSB-dev, low: 80.1, high: 80.9}",
    "for": "{causal: {...}}",
    "objects": "{}",
}


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
    """The recipe's mapping, merged on top of the one that it extends; `heirs` are the files that extend it.

    A list replaces its parent's, and a new class_path drops the arguments of the parent's class. `expect` is never
    inherited: the scores that a parent reached say nothing about a recipe that changes it. What the recipe itself says
    also takes precedence over its parent's sections in `for`; see `cse.recipe.specialize`.
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
    return on_top_of(base, content, chain)


def on_top_of(base: Path, content: Mapping[str, Any], heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's mapping merged on top of the file that it extends; see `read`."""
    inherited = read(base, heirs)
    inherited.pop("expect", None)
    return extend(inherited, {name: value for name, value in content.items() if name != "extends"})


def mapping(value: Any) -> dict[str, Any]:
    """The value, if it is a mapping; else an empty one."""
    return value if isinstance(value, dict) else dict(value) if isinstance(value, Mapping) else {}


def arguments_of(content: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The arguments of a part, if it is a mapping that has some."""
    return mapping(mapping(content.get(part)).get("init_args"))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` on top of `base`, mapping by mapping."""
    switched = {"class_path"} <= over.keys() & base.keys() and over["class_path"] != base["class_path"]
    merged = {} if switched else dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def extend(parent: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Merge a recipe on top of its parent. What it says itself also takes precedence over its parent's sections."""
    own = {key: value for key, value in content.items() if key != "for"}
    sections = {name: _without(section, own) for name, section in (parent.get("for") or {}).items()}
    return merge(parent | ({"for": sections} if sections else {}), content)


def _without(section: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A section without what `own` sets too, so that merging it on top of `own` leaves that as it is."""
    if "class_path" in own and own["class_path"] != section.get("class_path", own["class_path"]):
        return {}  # these are arguments of another class
    kept = {key: value for key, value in section.items() if key not in own}
    for key in section.keys() & own.keys():
        if isinstance(section[key], dict) and isinstance(own[key], dict) and (rest := _without(section[key], own[key])):
            kept[key] = rest
    return {key: kept[key] for key in section if key in kept}


def parse(path: Path) -> dict[str, Any]:
    """The mapping that a recipe's file holds, its parent not merged."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"recipe {path}: cannot be read: {reason}\nfix: correct the YAML at that place") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path}: is not a mapping of options\nfix: write `option: value` at its top level")
    _require_bounded(content, path)
    require_shape(content, f"recipe {path}")
    return content


def dump(content: Mapping[str, Any]) -> str:
    """A mapping as YAML, which `parse` reads as the same."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class Loader(yaml.SafeLoader):
    """YAML as `yaml.safe_load` reads it, but 1e-3 is a number; 010, 1:30 and dates are texts; no key is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping of different keys: the last would win unseen."""
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                problem = f"{key.value!r} is given twice, first at line {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(problem=problem)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads as the same: the text 1e-3 in quotes, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a list each time that it occurs."""
        return True


for _each in (Loader, _Dumper):  # as YAML 1.2 has it, and every other language
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
for _tag in ("binary", "omap", "pairs", "set", "timestamp"):  # which no option takes
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.construct_undefined)  # type: ignore[type-var]
_OLD = ("tag:yaml.org,2002:str", re.compile(r"[-+]?0[\d_]+$|[-+]?\d[\d_]*:\d|\d{4}-\d"))  # numbers of YAML 1.1 alone
Loader.yaml_implicit_resolvers = {key: [_OLD, *each] for key, each in Loader.yaml_implicit_resolvers.items()}


def require_shape(content: Mapping[str, Any], where: str) -> None:
    """Check that what is read before the schema has the right shape: mappings, and expected scores that are numbers."""
    parts = {name: content[name] for name in MAPPINGS if name in content}
    sections = content.get("for")
    parts |= {f"for: {name}": each for name, each in sections.items()} if isinstance(sections, Mapping) else {}
    for name, value in parts.items():
        if not isinstance(value, Mapping):
            example = MAPPINGS.get(name, "{trainer: {...}}")
            raise UserError(f"{where}: {name} is {value!r}\nfix: write a mapping, such as {example}")
    kinds = get_args(KindName)
    for name in sections or ():
        if name not in kinds and not str(name).startswith("asset:"):
            known = ", ".join(kinds)
            raise UserError(f"{where}: the section {name!r} in `for` is unknown\nfix: name it asset:NAME, {known}")
    for name in ("low", "high"):
        bound = content.get("expect", {}).get(name, 0.0)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise UserError(f"{where}: expect.{name} is {bound!r}\nfix: write a score, such as 80.1")


def _require_bounded(content: Any, path: Path) -> None:
    seen = 0
    pending: list[tuple[Any, int]] = [(content, 0)]
    while pending:
        value, depth = pending.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise UserError(
                f"recipe {path}: holds more than {MAX_VALUES:,} values or {MAX_DEPTH} levels once its anchors are "
                "expanded\nfix: remove anchors that contain themselves or repeat each other"
            )
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending.extend((item, depth + 1) for item in items)
