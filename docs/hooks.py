"""A page `--8<-- path` of the site is that file of the repository, and links to the repository's files work."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r'--8<-- "(.+)"\s*')
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def pages() -> dict[str, str]:
    """The page of the site that includes each file of the repository."""
    found = {}
    for page in (ROOT / "docs").rglob("*.md"):
        include = INCLUDE.fullmatch(page.read_text(encoding="utf-8"))
        if include:
            found[include[1]] = page.relative_to(ROOT / "docs").as_posix()
    return found


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Put the file in place of the line that includes it, and make links out of docs/ work."""
    include = INCLUDE.fullmatch(markdown)
    known, source = pages(), include[1] if include else f"docs/{page.file.src_uri}"

    def moved(link: re.Match[str]) -> str:
        """A link to a file that is a page leads there, and another one to the file in the repository."""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if target.endswith(".md") and target.startswith("docs/"):
            return posixpath.relpath(target[5:], posixpath.dirname(page.file.src_uri) or ".") + (link[2] or "")
        if not (ROOT / target).exists():
            raise ValueError(f"{source}: the link {link[1]} leads to no file")
        if target in known:
            return posixpath.relpath(known[target], posixpath.dirname(page.file.src_uri) or ".") + (link[2] or "")
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{config.extra['social'][0]['link']}/{kind}/main/{target}{link[2] or ''}"

    return LINK.sub(moved, (ROOT / source).read_text(encoding="utf-8") if include else markdown)
