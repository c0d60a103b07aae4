"""The header of the card, which the Hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cse.assets.hub import is_repo_id
from cse.data.reading.files import KINDS
from cse.data.reading.sources import HUB_ID
from cse.encoder.checkpoint.layout import Layout
from cse.publish.card.facts import Facts
from cse.publish.card.scores import evaluations

_METRICS = {"spearman_cosine": "spearmanr"}  # the Hub's name of a metric, where it is another one


def metadata(
    folder: Path,
    repo_id: str,
    license: str,
    facts: Facts,
    layout: Layout,
    scored: Mapping[str, Any] | None,
    adapter_base: str | None,
) -> Any:
    """The header, in the class of huggingface_hub that checks it. `adapter_base`: the backbone of an adapter alone."""
    from huggingface_hub import ModelCardData

    tags = ["lora" if adapter_base else "sentence-transformers", "feature-extraction", "sentence-similarity", "cse"]
    tags += [f"objective:{name}" for name in facts.objectives]
    tags += ["custom_code"] if layout.needs_code else []
    found = evaluations(scored, facts.seed, layout.compared_by) if scored else []
    base = adapter_base or _base_model(folder, facts)
    optional: dict[str, Any] = {"base_model": base} if base else {}
    optional |= {"base_model_relation": "adapter"} if adapter_base else {}
    optional |= {"language": facts.language} if facts.language else {}
    data = HUB_ID.fullmatch(facts.path or "")
    if data and (data["file"] or Path(data["repo"]).suffix not in KINDS) and not Path(data["repo"]).exists():
        optional["datasets"] = [data["repo"]]
    optional |= {"eval_results": found, "model_name": repo_id} if found else {}
    return ModelCardData(
        license=license,
        library_name="peft" if adapter_base else "sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=tags,
        metrics=sorted({_METRICS.get(result.metric_type, result.metric_type) for result in found}) or None,
        **optional,
    )


def _base_model(folder: Path, facts: Facts) -> str | None:
    """The Hub id of the backbone: the one in the recipe, or the one in the NOTICE of an asset."""
    name = facts.backbone
    if name is None or name.startswith("LOCAL/"):
        return None
    if name.startswith("asset:"):
        notice = folder / "NOTICE"
        text = notice.read_text(encoding="utf-8") if notice.is_file() else ""
        stated = re.search(r"^Authors.*?\(([\w.-]+/[\w.-]+)\)", text, re.MULTILINE)
        return stated[1] if stated else None
    return name if is_repo_id(name) else None
