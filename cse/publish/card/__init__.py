"""The model card, README.md of a published folder. Nothing here uses the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cse.console import inline
from cse.encoder.checkpoint.layout import ACTIVATION_PATHS, Layout, Module
from cse.errors import UserError
from cse.evaluation import benchmark
from cse.evaluation import results as results_file
from cse.evaluation.reports import svg
from cse.evaluation.reports.table import CODES, WIDTHS, at_width, reduced, series
from cse.files import write_text
from cse.inference.quantize import FILE, Calibration
from cse.publish.card.facts import NO_RUN, Facts, read_facts
from cse.publish.card.metadata import (
    MEASURES,
    changes,
    choose,
    citations,
    metadata,
    others,
    sts,
    transfer,
)
from cse.publish.card.usage import (
    adapter_code,
    compare_code,
    quantize_code,
    read_published,
    sentence_transformers_code,
    transformers_code,
)

if TYPE_CHECKING:
    from cse.publish.stage import Adapter

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
PLOT = "scores-by-dimensions.svg"
BEGIN, END = "<!-- yours: begin -->", "<!-- yours: end -->"
HINT = f"{BEGIN}\n<!-- What you write between these two lines stays when the model is published again. -->\n{END}"


def write_card(
    folder: Path,
    repo_id: str,
    *,
    run: Path | None,
    results: Path | None,
    license: str | None,
    previous: str | None,
    adapter: Adapter | None = None,
    checkpoint: str = "best",
    bench: Path | None = None,
) -> None:
    """Write `folder/README.md`.

    Args:
        folder: The folder to publish, as `cse.publish.stage.stage` writes it.
        repo_id: The repository on the Hub, you/name.
        run: The folder of the run, with its recipe, environment and data. None: the card says they are not recorded.
        results: The results.json of `cse eval`. None: the card says that the model is not scored.
        license: The license, as an identifier of the Hub. None: the license of the backbone.
        previous: The README that is published now; the text between its markers is kept.
        adapter: The adapter, if the folder holds an adapter alone.
        checkpoint: The name of the checkpoint's folder in the run, by which the run compared it with its beginning.
        bench: The bench-model.json of `cse bench-model`. None: the card has no table of variants.

    Raises:
        UserError: A file is damaged, the license is unknown or not allowed, or `previous` has only one marker.
    """
    from huggingface_hub import ModelCard

    layout = read_published(adapter.checkpoint, whole=False) if adapter else read_published(folder)
    facts = read_facts(run)
    scored = results_file.read(results) if results is not None else None
    drawn = series(scored or {})
    if drawn:
        write_text(folder / PLOT, svg.file(drawn, "dimensions", "score × 100"))
    published = of_width(scored, layout)
    chosen, base = choose(license, folder, facts.backbone)
    shown = compare_code(layout)
    card = ModelCard.from_template(
        metadata(folder, repo_id, chosen, facts, layout, published, adapter.base if adapter else None),
        template_path=str(Path(__file__).with_name("card.md")),
        title=repo_id.rpartition("/")[2],
        summary=summary(layout, facts),
        yours=HINT,
        layout=layout,
        code=layout.needs_code,
        adapter=adapter,
        adapter_code=adapter_code(layout, repo_id, adapter.base, adapter.revision) + shown if adapter else "",
        sentence_transformers_code=sentence_transformers_code(layout, repo_id),
        transformers_code=f"{transformers_code(layout, repo_id)}{shown}",
        measure=MEASURES[layout.compared_by],
        pooling=POOLING["static" if layout.static else layout.pooler or "mean"],
        after=[after(module) for module in layout.post] + ([f"the first {layout.cut}"] if layout.cut else []),
        facts=facts,
        seed=facts.seed,
        recipe=_fenced(facts.recipe) if facts.recipe else "",
        inline=inline,
        limits=limits(layout, facts, published),
        license_text=license_text(chosen, base, facts),
        citations=citations(facts.recipe),
        changes=changes(run, checkpoint),
        widths=reduced(scored or {}, WIDTHS),
        plot=PLOT,
        kinds=reduced(scored or {}, CODES),
        calibration=Calibration.read(folder / FILE) if (folder / FILE).is_file() else None,
        quantize_code=quantize_code(repo_id),
        variants=benchmark.markdown(benchmark.read(bench)) if bench is not None else "",
        **_scores(published),
    )
    text = re.sub(r"\n{3,}", "\n\n", str(card))  # empty sections of the template leave blank lines
    text = text.replace(HINT, _yours(previous), 1)
    write_text(folder / "README.md", text.strip() + "\n")


def _fenced(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML for a block of code, which no text of it ends."""
    text: str = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return text.replace("```", "'''")


def of_width(scored: Mapping[str, Any] | None, layout: Layout) -> Mapping[str, Any] | None:
    """The scores of the vectors that are published; None if only longer vectors were scored."""
    dim = ((scored or {}).get("geometry") or {}).get("dim")
    cut = scored is not None and layout.truncate_dim is not None and dim != layout.dim
    return at_width(scored, layout.dim) if cut and scored is not None else scored


def _yours(previous: str | None) -> str:
    """The user's own part of the published card, with its markers."""
    if previous is None or (BEGIN not in previous and END not in previous):
        return HINT
    start, end = previous.find(BEGIN), previous.rfind(END)
    if start < 0 or end < start:
        missing = BEGIN if start < 0 or end >= 0 else END
        raise UserError(
            f"the published README.md lacks the marker {missing}, so your own part of it cannot be found\n"
            f"fix: put your text between the lines {BEGIN} and {END}"
        )
    return previous[start : end + len(END)]


def _scores(scored: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of the template about scores."""
    if scored is None:
        return {"sts": None, "others": None, "transfer": None, "geometry": None}
    space = scored.get("geometry") or {}
    geometry = [space.get(key) for key in ("alignment", "uniformity", "mean_cosine")]
    cells = ["-" if value is None else f"{value:.3f}" for value in geometry]
    cells.append(f"{space.get('effective_rank') or 0:.1f} of {space.get('dim')}")
    versions = scored.get("versions") or {}
    return {
        "sts": sts(scored),
        "others": others(scored),
        "missing": sorted(scored.get("missing") or {}),
        "transfer": transfer(scored),
        "geometry": cells if space else None,
        "precision": scored.get("precision") or "unknown precision",
        "model_hash": str((scored.get("model") or {}).get("sha256") or "unknown")[:16],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


# -- The sentences of the card ----------------------------------------------------------------------------------------


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
