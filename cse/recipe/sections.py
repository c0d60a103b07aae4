"""Fit a recipe to a model and a data set: of its sections in `for`, only those that fit are merged.

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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, get_args

from cse.encoder.kinds import Kind, KindName, detect, without_layers
from cse.errors import UserError
from cse.recipe.files import mapping, merge
from cse.recipe.options import Options

Describe = Callable[[Any], str]


def specialize(content: dict[str, Any], options: Options, parts: Mapping[str, Any]) -> tuple[dict[str, Any], Describe]:
    """Merge the sections that fit the model and the data.

    Of the model, one section counts: that of its `asset:NAME`, or else that of its kind. A maximal length that the
    model cannot read is lowered to what it can.

    Args:
        content: The recipe's mapping, parents merged.
        options: Options of the user, which may name another model or other data.
        parts: Parts that take the place of the recipe's; see `cse.recipe.load`.

    Returns:
        The mapping without `for`; and what says in words, given the parsed options, which settings a model got that
        the recipe does not name. It says nothing for a model with a section of its own.

    Raises:
        UserError: A section has an unknown name, or the model cannot be an encoder.
    """
    content = dict(content)
    sections = content.pop("for", None) or {}
    unknown = [name for name in sections if name not in get_args(KindName) and not str(name).startswith("asset:")]
    if unknown:
        known = ", ".join(get_args(KindName))
        raise UserError(f"recipe: the section {unknown[0]!r} in `for` is unknown\nfix: name it asset:NAME, {known}")
    part = parts.get("encoder")
    if (given := options.last("encoder.backbone")) == "null":
        raise UserError("encoder.backbone is null\nfix: give a folder, asset:NAME or an id of the Hub: --encoder MODEL")
    given = given or getattr(part, "source", None) or _arguments(parts, "encoder").get("backbone")
    backbone = given or _arguments(content, "encoder").get("backbone")
    data = options.last("data.path") or _arguments(content, "data").get("path")
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
    taken = _arguments(_arguments(content, "encoder"), "adapter").get("length", 0)  # positions of soft prompts
    most = kind.max_length - (taken if isinstance(taken, int) else 0)
    for collator in _collators(content):
        if isinstance(length := collator.get("max_length"), int) and length > most:
            collator["max_length"] = most
    if part is not None and not isinstance(part, Mapping):  # an encoder that exists says itself what it is
        return content, lambda config: ""
    return content, partial(_describe, kind, kind.name in sections, options)


def _collators(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of the collators that tokenize: the recipe's own, and those of the sources of a mixture."""
    for part in (content, *mapping(_arguments(content, "data").get("sources")).values()):
        collator = _arguments(mapping(part), "collator")
        while isinstance(collator.get("views"), dict):  # a collator around another one, such as Masked
            collator = _arguments(collator, "views")
        yield collator


def _arguments(content: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The arguments of a part, if it is a mapping that has some."""
    return mapping(mapping(content.get(part)).get("init_args"))


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
