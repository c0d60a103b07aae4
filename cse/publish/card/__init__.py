"""The model card: README.md of a published folder, for readers and for the Hub. Nothing here asks the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cse.errors import UserError
from cse.files import write_text
from cse.publish.card.citation import citations
from cse.publish.card.facts import read_facts
from cse.publish.card.licenses import choose
from cse.publish.card.metadata import metadata
from cse.publish.card.scores import average, read_results, rows, seeds_of, transfer
from cse.publish.card.usage import (
    EXAMPLES,
    adapter_code,
    read_published,
    sentence_transformers_code,
    transformers_code,
)
from cse.publish.card.words import POOLING, after, license_text, limits, summary

if TYPE_CHECKING:
    from cse.publish.adapter import Adapter

BEGIN, END = "<!-- yours: begin -->", "<!-- yours: end -->"
SHOWN = f"\nvectors = F.normalize(encode({EXAMPLES}), dim=-1)\nprint(vectors @ vectors.T)\n"
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
) -> None:
    """Write `folder/README.md`.

    Args:
        folder: What is published, as `cse.publish.stage.stage` makes it.
        repo_id: Where it is published: you/name.
        run: The run's folder: recipe, environment and data are read from it. None: the card says they are not recorded.
        results: results.json of `cse eval`. None: the card says that the model is not scored.
        license: An identifier of the Hub's. None: the backbone's.
        previous: The README that is published now; what stands between its markers is kept.
        adapter: What the folder holds of it, where it holds an adapter alone.

    Raises:
        UserError: A file is damaged, the license is unknown or not allowed, or `previous` has one marker only.
    """
    from huggingface_hub import ModelCard

    layout, facts = read_published(adapter.checkpoint if adapter else folder), read_facts(run)
    scored = read_results(results) if results is not None else None
    chosen, base = choose(license, folder, facts.backbone)
    card = ModelCard.from_template(
        metadata(folder, repo_id, chosen, facts, layout, scored, adapter.base if adapter else None),
        template_path=str(Path(__file__).with_name("card.md")),
        title=repo_id.rpartition("/")[2],
        summary=summary(layout, facts),
        yours=HINT,
        layout=layout,
        code=layout.needs_code,
        adapter=adapter,
        adapter_code=adapter_code(layout, repo_id, adapter.base, adapter.revision) + SHOWN if adapter else "",
        examples=EXAMPLES,
        sentence_transformers_code=sentence_transformers_code(layout, repo_id),
        transformers_code=transformers_code(layout, repo_id),
        pooling=POOLING[layout.pooler or "mean"],
        after=[after(module) for module in layout.post],
        facts=facts,
        seed=facts.seed,
        recipe=yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True) if facts.recipe else "",
        limits=limits(layout, facts, scored),
        license_text=license_text(chosen, base, facts),
        citations=citations(facts.recipe),
        **_scores(scored, run),
    )
    text = re.sub(r"\n{3,}", "\n\n", str(card))  # what a template's empty sections leave
    text = text.replace(HINT, _yours(previous), 1)
    write_text(folder / "README.md", text.strip() + "\n")


def _yours(previous: str | None) -> str:
    """The user's own part of the card that is published, markers included."""
    if previous is None or (BEGIN not in previous and END not in previous):
        return HINT
    start, end = previous.find(BEGIN), previous.rfind(END)
    if start < 0 or end < start:
        missing = BEGIN if start < 0 or end >= 0 else END
        raise UserError(
            f"the published README.md has no line {missing} where one belongs, so your part of it cannot be told\n"
            f"fix: put your text between {BEGIN} and {END} there"
        )
    return previous[start : end + len(END)]


def _scores(scored: Mapping[str, Any] | None, run: Path | None) -> dict[str, Any]:
    """What the template says of scores."""
    if scored is None:
        return {"rows": [], "transfer": [], "geometry": None}
    space = scored.get("geometry") or {}
    geometry = [space.get(key) for key in ("alignment", "uniformity", "mean_cosine")]
    cells = ["-" if value is None else f"{value:.3f}" for value in geometry]
    cells.append(f"{space.get('effective_rank') or 0:.1f} of {space.get('dim')}")
    versions = scored.get("versions") or {}
    return {
        "rows": rows(scored),
        "average": average(scored),
        "missing": sorted(scored.get("missing") or {}),
        "seeds": seeds_of(run),
        "transfer": transfer(scored),
        "geometry": cells if space else None,
        "precision": scored.get("precision") or "unknown precision",
        "model_hash": str((scored.get("model") or {}).get("sha256") or "unknown")[:16],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
