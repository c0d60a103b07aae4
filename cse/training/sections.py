"""How a recipe fits itself to a model and a data set: its sections in `for`, of which only those that fit are merged.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

from cse.encoder.kinds import Kind, KindName, detect, without_layers
from cse.errors import UserError
from cse.training.objects import merge
from cse.training.recipe_file import names_class

Describe = Callable[[Any], str]
SHORTHANDS = {"--encoder": ("--encoder.backbone", "MODEL"), "--data": ("--data.path", "FILE")}


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


def specialize(
    content: dict[str, Any], overrides: Sequence[str], parts: Mapping[str, Any]
) -> tuple[dict[str, Any], Describe]:
    """Merge the sections that fit the model and the data.

    Of the model, one section counts: that of its `asset:NAME`, or else that of its kind. A maximal length that the
    model cannot read is lowered to what it can.

    Args:
        content: The recipe's mapping, parents merged.
        overrides: Options of the user, which may name another model or other data.
        parts: Parts that take the place of the recipe's; see `cse.recipe.load`.

    Returns:
        The mapping without `for`; and what says in words, given the parsed options, which settings a model got that
        the recipe does not name. It says nothing for a model with a section of its own.

    Raises:
        UserError: A section has an unknown name, or the model cannot be an encoder.
    """
    content = dict(content)
    sections = content.pop("for", None) or {}
    for name in sections:
        if name not in get_args(KindName) and not str(name).startswith("asset:"):
            known = ", ".join(get_args(KindName))
            raise UserError(f"recipe: the section {name!r} in `for` is unknown\nfix: name it asset:NAME, {known}")
    part = parts.get("encoder")
    given = _model(overrides) or getattr(part, "source", None) or _argument(parts, "encoder", "backbone")
    backbone = given or _argument(content, "encoder", "backbone")
    data = _given(overrides, "data", "path") or _argument(content, "data", "path")
    if "rows" in parts or parts.get("data") is not None:
        data = None
    for name in (data, backbone):
        content = merge(content, (sections.get(name) if isinstance(name, str) else None) or {})
    if not isinstance(backbone, str) or backbone in sections or not (sections or given):
        return content, lambda config: ""
    kind = detect(backbone, _given(overrides, "encoder", "revision"))
    if kind.layout.static:
        raise UserError(without_layers("model", backbone))
    content = copy.deepcopy(merge(content, sections.get(kind.name) or {}))
    adapter = _argument(content, "encoder", "adapter") or {}
    taken = (adapter.get("init_args") or {}).get("length", 0)  # positions that soft prompts take from every text
    for collator in _collators(content):
        if (collator.get("max_length") or 0) > kind.max_length - taken:
            collator["max_length"] = kind.max_length - taken
    if part is not None and not isinstance(part, Mapping):  # an encoder that exists says itself what it is
        return content, lambda config: ""
    return content, partial(_describe, kind, kind.name in sections, overrides)


def _collators(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of the collators that tokenize: the recipe's own, and those of the sources of a mixture."""
    for part in (content, *(_argument(content, "data", "sources") or {}).values()):
        collator = (part.get("collator") or {}).get("init_args") or {}
        while isinstance(collator.get("views"), dict):  # a collator around another one, such as Masked
            collator = collator["views"].get("init_args") or {}
        yield collator


def shorthands(overrides: Sequence[str]) -> list[str]:
    """Write `--encoder MODEL` as `--encoder.backbone=MODEL`, and `--data FILE` as `--data.path=FILE`.

    A class, such as `--encoder=package.module.MyEncoder`, and a mapping are left to the parser.

    Raises:
        UserError: The value is missing.
    """
    words, rest = [], list(overrides)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if option in SHORTHANDS:
            longer, what = SHORTHANDS[option]
            if not equals and (not rest or rest[0].startswith("--")):
                raise UserError(f"{option} needs a value\nfix: {option} {what}")
            value, equals = value if equals else rest.pop(0), "="
            option = option if names_class(value) else longer
        words.append(option + equals + value)
    return words


def _given(overrides: Sequence[str], component: str, name: str) -> str | None:
    """The value that the last of the overrides gives an argument of a component."""
    found = None
    for i, word in enumerate(overrides):
        option, equals, value = word.partition("=")
        if option in {f"--{component}.{name}", f"--{component}.init_args.{name}"}:
            found = value if equals else next(iter(overrides[i + 1 : i + 2]), None)
    return found


def _model(overrides: Sequence[str]) -> str | None:
    given = _given(overrides, "encoder", "backbone")
    if given == "null":
        raise UserError("encoder.backbone is null\nfix: give a folder, asset:NAME or an id of the Hub: --encoder MODEL")
    return given


def _argument(content: Mapping[str, Any], component: str, name: str) -> Any:
    part = content.get(component)
    return (part.get("init_args") or {}).get(name) if isinstance(part, Mapping) else None


def _describe(kind: Kind, has_section: bool, overrides: Sequence[str], config: Any) -> str:
    """What was chosen for a model of this kind, in words, and which options the user gave."""
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
    parts.append(f"{what} at {settings.learning_rate:g}")
    if encoder.dropout is not None and encoder.dropout.attention is not None:
        parts.append(f"attention dropout {encoder.dropout.attention:g}")
    if settings.max_steps is None:
        cap = f", at most {settings.cap_steps:,} steps" if settings.cap_steps is not None else ""
        parts.append(f"{settings.epochs:g} epoch{'s' if settings.epochs != 1 else ''}{cap}")
    names = [word.partition("=")[0].removeprefix("--").replace(".init_args", "") for word in overrides if "--" in word]
    yours = [n for n in dict.fromkeys(names) if n.startswith(("encoder.", "trainer.")) and n != "encoder.backbone"]
    given = f"; given: {', '.join(yours)}" if yours else ""
    source = f"the recipe's settings for {kind.name} models" if has_section else "the recipe's settings"
    return f"{kind.describe()}: {', '.join(parts)} ({source}{given})"
