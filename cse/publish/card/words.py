"""The sentences of the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cse.encoder.checkpoint.layout import ACTIVATION_PATHS, Layout, Module
from cse.publish.card.facts import NO_RUN, Facts

POOLING = {
    "cls": "the last layer at the first token",
    "last": "the last layer at the last token",
    "mean": "mean of the last layer over tokens",
    "static": "mean of the vectors of the tokens, one for each token of the vocabulary",
    "mask": "the last layer at the mask token, which the tokenizer puts beside every text",
    "mean_last_two": "mean over tokens of the mean of the last two layers",
    "first_last_embeddings": "mean over tokens of the mean of hidden state 0 (the embeddings) and the last layer",
    "first_last_layer1": "mean over tokens of the mean of hidden state 1 (the first layer) and the last layer",
}

MEASURES = {"cosine": "cosine", "euclidean": "Euclidean distance"}


def summary(layout: Layout, facts: Facts) -> str:
    """Two sentences: what the model does, and what it was trained from."""
    first = (
        f"A sentence encoder: it maps a text to a vector of {layout.dim} numbers, and the "
        f"{MEASURES[layout.compared_by]} of two vectors says how close the texts are in meaning."
    )
    if not facts.recipe:
        return f"{first} How it was trained is not recorded here."
    version = facts.environment.get("cse", "")
    return (
        f"{first} It was trained from `{facts.backbone}` on {facts.data.get('source')} "
        f"with {' and '.join(facts.objectives)} "
        f"(recipe `{facts.name or 'unnamed'}` of cse{f' {version}' if version else ''})."
    )


def after(module: Module) -> str:
    """A module after pooling, in words."""
    if module.dense is None:
        return "unit length"
    activation = ACTIVATION_PATHS[module.dense.activation].rpartition(".")[2]
    return f"Dense {module.dense.in_features} → {module.dense.out_features}, {activation}"


def limits(layout: Layout, facts: Facts, scored: Mapping[str, Any] | None) -> list[str]:
    """The limits of the model, one sentence or two for each."""
    lines = [facts.note] if facts.note else []
    if layout.static:
        lines.append("The order of words does not count: a text and its words in another order have the same vector.")
    if layout.limited:
        lines.append(f"Texts are cut after {layout.max_length} tokens; split long documents first.")
    if layout.pooler == "mask":
        lines.append("A text must not contain the mask token, or its state there becomes part of the vector.")
    if scored and scored["tasks"]:
        names, kinds = ", ".join(scored["tasks"]), {task["kind"] for task in scored["tasks"].values()}
        what = "The scores measure similarity of meaning on" if kinds == {"sts"} else "The model was scored on"
        other = "Retrieval, other languages" if kinds == {"sts"} else "Other tasks, other languages"
        lines.append(f"{what} {names}. {other} and other kinds of text were not measured.")
        if facts.seed is not None:
            lines.append("The scores are those of one seed; other seeds give somewhat different scores.")
    else:
        lines.append("The model was not scored, so its quality is unknown.")
    if not facts.overlap:
        lines.append("Whether training text occurs in the evaluation sets is not recorded.")
    lines.append("The model has the biases of its backbone and of its training text.")
    return lines


def license_text(license: str, base: str | None, facts: Facts) -> str:
    """The license of the model, of the backbone and of the training text."""
    text = f"`{license}`."
    if base is not None:
        text += f" The backbone{f' (`{facts.backbone}`)' if facts.backbone else ''} is under `{base}`"
        text += "; its notices, if it came with any, are in this folder." if facts.backbone else "."
    if facts.data.get("license", NO_RUN) != NO_RUN:
        text += f" Training text: {facts.data['license']}; none of it is part of this folder."
    return text
