"""What the card says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cse.encoder.layout import ACTIVATION_PATHS, Layout, Module
from cse.publish.card.facts import NO_RUN, Facts

POOLING = {
    "cls": "the last layer at the first token",
    "last": "the last layer at the last token",
    "mean": "mean of the last layer over tokens",
    "mean_last_two": "mean over tokens of the mean of the last two layers",
    "first_last_embeddings": "mean over tokens of the mean of hidden state 0 (the embeddings) and the last layer",
    "first_last_layer1": "mean over tokens of the mean of hidden state 1 (the first layer) and the last layer",
}


def summary(layout: Layout, facts: Facts) -> str:
    """Two sentences."""
    first = (
        f"A sentence encoder: it maps a text to a vector of {layout.dim} numbers, and the cosine of two vectors says "
        "how close the texts are in meaning."
    )
    if not facts.recipe:
        return f"{first} How it was trained is not recorded here."
    version = facts.environment.get("cse", "")
    return (
        f"{first} It was trained from `{facts.backbone}` on {facts.data.get('source')} with {facts.objective} "
        f"(recipe `{facts.name or 'unnamed'}` of cse{f' {version}' if version else ''})."
    )


def after(module: Module) -> str:
    """A module after pooling."""
    if module.dense is None:
        return "unit length"
    activation = ACTIVATION_PATHS[module.dense.activation].rpartition(".")[2]
    return f"Dense {module.dense.in_features} → {module.dense.out_features}, {activation}"


def limits(layout: Layout, facts: Facts, scored: Mapping[str, Any] | None) -> list[str]:
    """What one should not take the model for."""
    lines = [f"Texts beyond {layout.max_length} tokens are cut; long documents need splitting first."]
    if scored and scored["tasks"]:
        lines.append(
            f"What the scores show is similarity of meaning on {', '.join(scored['tasks'])}. Retrieval, other "
            "languages and other kinds of text were not measured."
        )
        if facts.seed is not None:
            lines.append("The table is of one seed; another seed gives somewhat other numbers.")
    else:
        lines.append("Nothing was measured on it, so nothing is known of how good it is.")
    if not facts.overlap:
        lines.append("Whether training text occurs in the evaluation sets is not recorded.")
    lines.append("It has whatever biases its backbone and training text have.")
    return lines


def license_text(license: str, base: str | None, facts: Facts) -> str:
    """Of the model, the backbone and the training text."""
    text = f"`{license}`."
    if base is not None:
        text += f" The backbone{f' (`{facts.backbone}`)' if facts.backbone else ''} is under `{base}`"
        text += "; its notices are in this folder where it came with them." if facts.backbone else "."
    if facts.data.get("license", NO_RUN) != NO_RUN:
        text += f" Training text: {facts.data['license']}; none of it is part of this folder."
    return text
