"""The header of the card, which the Hub reads and checks, and the license in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cse.assets.hub import is_repo_id
from cse.data.reading.files import KINDS
from cse.data.reading.sources import HUB_ID
from cse.encoder.checkpoint.layout import Layout
from cse.errors import UserError
from cse.publish.card.facts import Facts
from cse.publish.card.scores import evaluations

# Licenses that allow a changed work to be published under another license.
PERMISSIVE = frozenset(
    """
    apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear isc zlib unlicense cc0-1.0 cc-by-4.0 bsl-1.0 wtfpl
    cdla-permissive-2.0 ncsa postgresql pddl unknown other
    """.split()  # noqa: SIM905
)
IN_WORDS = (  # names of some licenses in a NOTICE or LICENSE
    (r"apache(?: software)? licen[cs]e,?\s+(?:version )?2\.0", "apache-2.0"),
    (r"\bmit\b(?: licen[cs]e)?", "mit"),
    (r"cc[ -]by[ -]sa[ -]4\.0", "cc-by-sa-4.0"),
    (r"cc[ -]by[ -]nc[ -]4\.0", "cc-by-nc-4.0"),
    (r"cc[ -]by[ -]4\.0", "cc-by-4.0"),
    (r"gnu general public licen[cs]e\s+version 3", "gpl-3.0"),
)
IDENTIFIER = re.compile(r"[A-Za-z][\w.+-]*")  # of a license, as the Hub names it
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


def choose(license: str | None, folder: Path, backbone: str | None) -> tuple[str, str | None]:
    """The license to publish under, and the license of the backbone if it is known.

    Args:
        license: The license that the user asks for. None: the license of the backbone.
        folder: The published folder, which has the LICENSE and NOTICE of the backbone if the backbone had them.
        backbone: The backbone, as the recipe names it.

    Raises:
        UserError: The license of the backbone forbids it, or neither is known.
    """
    base = of_folder(folder) or _of_cached(backbone)
    if license is None:
        if base is None:
            raise UserError(
                f"--license is not given, and the license of {backbone or 'the backbone'} is not known here\n"
                "fix: look it up, and give the same license or one that it allows, such as --license apache-2.0"
            )
        return base, base
    chosen = license.strip().lower()
    if base is not None and base not in PERMISSIVE and chosen != base:
        raise UserError(
            f"--license is {license!r}, but the backbone is under {base}, which a model made from it must keep\n"
            f"fix: give --license {base}"
        )
    return chosen, base


def of_folder(folder: Path) -> str | None:
    """The license stated by the NOTICE or LICENSE of a folder; None if they name none in words that are known."""
    notice = _text(folder / "NOTICE")
    stated = re.search(r"^\W*licen[cs]e\b[\s:]+(.+)$", notice, re.IGNORECASE | re.MULTILINE)
    for text in (stated[1] if stated else "", *(_text(folder / f"LICENSE{end}")[:600] for end in ("", ".txt", ".md"))):
        for pattern, identifier in IN_WORDS:
            if re.search(pattern, text, re.IGNORECASE):
                return identifier
        if IDENTIFIER.fullmatch(text.strip()):
            return text.strip().lower()
    return None


def _of_cached(backbone: str | None) -> str | None:
    """The license on the card of a Hub model or of a folder, if it is on this machine. Nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not backbone or backbone.startswith("asset:"):
        return None
    if Path(backbone).is_dir():
        return of_folder(Path(backbone)) or _on_card(Path(backbone) / "README.md")
    try:
        found: Any = try_to_load_from_cache(backbone, "README.md")
    except HFValidationError:
        return None
    return _on_card(Path(found)) if isinstance(found, str) else None


def _on_card(path: Path) -> str | None:
    header = re.match(r"---\n(.*?)\n---", _text(path), re.DOTALL)
    try:
        stated = (yaml.safe_load(header[1]) or {}).get("license") if header else None
    except (yaml.YAMLError, AttributeError):
        return None
    return stated if isinstance(stated, str) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
