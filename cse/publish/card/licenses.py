"""The license of a published model: the identifiers that the Hub knows, and what the backbone's license allows."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from cse.errors import UserError

# huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
    """.split()  # noqa: SIM905
)
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


def choose(license: str | None, folder: Path, backbone: str | None) -> tuple[str, str | None]:
    """The license to publish under, and the license of the backbone if it is known.

    Args:
        license: The license that the user asks for. None: the license of the backbone.
        folder: The published folder, which has the LICENSE and NOTICE of the backbone if the backbone had them.
        backbone: The backbone, as the recipe names it.

    Raises:
        UserError: The Hub does not know the license, the license of the backbone forbids it, or neither is known.
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
    if chosen not in LICENSES:
        said = [word for word in re.split(r"[\s,;:]+", chosen) if word in LICENSES]
        near = (
            said
            or difflib.get_close_matches(chosen, sorted(LICENSES), n=3, cutoff=0.3)
            or ["apache-2.0", "mit", "other"]
        )
        raise UserError(
            f"--license is {license!r}, which the Hub does not know\n"
            f"fix: give one identifier; the nearest are {', '.join(near)}"
        )
    if base is not None and base not in PERMISSIVE and chosen != base:
        raise UserError(
            f"--license is {license!r}, but the backbone is under {base}, which a model made from it must keep\n"
            f"fix: give --license {base}"
        )
    return chosen, base


def of_folder(folder: Path) -> str | None:
    """The license stated by the NOTICE or LICENSE of a folder; None if they name none that the Hub knows."""
    notice = _text(folder / "NOTICE")
    stated = re.search(r"^\W*licen[cs]e\b[\s:]+(.+)$", notice, re.IGNORECASE | re.MULTILINE)
    for text in (stated[1] if stated else "", *(_text(folder / f"LICENSE{end}")[:600] for end in ("", ".txt", ".md"))):
        for pattern, identifier in IN_WORDS:
            if re.search(pattern, text, re.IGNORECASE):
                return identifier
        if text.strip().lower() in LICENSES:
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
    import yaml

    header = re.match(r"---\n(.*?)\n---", _text(path), re.DOTALL)
    try:
        stated = (yaml.safe_load(header[1]) or {}).get("license") if header else None
    except (yaml.YAMLError, AttributeError):
        return None
    return stated if isinstance(stated, str) and stated in LICENSES else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
