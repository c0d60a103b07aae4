"""Augmentation by synonyms from a WordNet on this machine."""

from __future__ import annotations

import os
import random
import re
from functools import lru_cache
from pathlib import Path

from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Augmentation

CLASSES = ("noun", "verb", "adj", "adv")
FUNCTION_WORDS = """
    a about after all am an and any are as at be because been before being but by can could did do does for from had has
    have he her hers him his how i if in into is it its may me might must my no nor not of off on or our ours shall she
    should so some such than that the their theirs them then there these they this those to too under until up us very
    was we were what when where which while who whom whose why will with would you your yours
"""
CORE = re.compile(r"^(\W*)([^\W\d_]+)(\W*)$")  # a word of letters, with the punctuation around it
PLACES = (
    "/usr/share/wordnet",
    "/usr/local/share/wordnet",
    "~/nltk_data/corpora/wordnet",
    "/usr/share/nltk_data/corpora/wordnet",
)
_FUNCTION_WORDS = frozenset(FUNCTION_WORDS.split())


class SynonymSubstitution(Augmentation):
    """Replaces words by synonyms (CLEAR, arXiv:2012.15466: 30% of the words; EDA, arXiv:1901.11196: 10%).

    The synonyms of a word are the other members of its first senses in WordNet, in the class (noun, verb, adjective,
    adverb) in which the word is most frequent in WordNet's text collection. Function words and words without synonyms,
    such as inflected forms, stay.

    Args:
        probability: Probability that a word with a synonym is replaced.
        senses: Number of senses of a word to use, the most frequent first.
        folder: The folder of WordNet's files (`index.noun`, `data.noun`, ...). None: the one in WNSEARCHDIR, or a usual
            folder of Debian or NLTK.

    Raises:
        UserError: An argument is out of range. At first use: WordNet is not found, or its files are damaged.

    Deviations:
        CLEAR takes the word with the nearest vector. This class is for English only.
    """

    def __init__(self, *, probability: float = 0.3, senses: int = 1, folder: str | None = None) -> None:
        require_within("(0, 1)", "SynonymSubstitution", probability=probability)
        require_at_least(1, "SynonymSubstitution", senses=senses)
        self.probability, self.senses = probability, senses
        self.folder = folder

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text with some words replaced by synonyms."""
        wordnet = _wordnet(self.folder, os.environ.get("WNSEARCHDIR"))
        return " ".join(self._word(word, wordnet, rng) for word in text.split())

    def _word(self, word: str, wordnet: WordNet, rng: random.Random) -> str:
        parts = CORE.match(word)
        known = parts is not None and parts[2].lower() not in _FUNCTION_WORDS
        synonyms = wordnet.synonyms(parts[2].lower(), self.senses) if parts and known else ()
        if parts is None or not synonyms or rng.random() >= self.probability:
            return word
        synonym = rng.choice(synonyms)
        return parts[1] + (synonym[0].upper() + synonym[1:] if parts[2][0].isupper() else synonym) + parts[3]


class WordNet:
    """Synonyms from the database files of WordNet; the manual page wndb(5WN) describes their format.

    Args:
        folder: The folder of the files.

    Raises:
        UserError: A file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._data: dict[str, bytes] = {}
        self._index: dict[str, tuple[int, str, list[int]]] = {}
        self.folder = folder
        try:
            for name in CLASSES:
                self._data[name] = (folder / f"data.{name}").read_bytes()
                self._read_index(name)
        except (OSError, ValueError, IndexError) as error:
            raise UserError(
                f"SynonymSubstitution.folder is {folder}, which is not a WordNet: {error}\n"
                "fix: give a folder with the index and data files of WordNet 3"
            ) from error
        self.synonyms = lru_cache(maxsize=100_000)(self._synonyms)

    def _read_index(self, name: str) -> None:
        """Read `lemma pos synsets pointers [pointer ...] synsets tagged offset [offset ...]`, after the license.

        For a lemma in several classes, the class that is tagged most often in WordNet's texts is kept.
        """
        for line in (self.folder / f"index.{name}").read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                continue
            cells = line.split()
            lemma, rest = cells[0], cells[4 + int(cells[3]) :]
            tagged, offsets = int(rest[1]), [int(cell) for cell in rest[2:]]
            if lemma not in self._index or tagged > self._index[lemma][0]:
                self._index[lemma] = tagged, name, offsets

    def _synonyms(self, word: str, senses: int) -> tuple[str, ...]:
        """The other words for the first senses of a lower-case word, in the order of WordNet."""
        if word not in self._index:
            return ()
        _, name, offsets = self._index[word]
        found = [lemma for offset in offsets[:senses] for lemma in self._members(name, offset)]
        return tuple(dict.fromkeys(lemma for lemma in found if lemma.lower() != word))

    def _members(self, name: str, offset: int) -> list[str]:
        """The words of `offset file type count word id [word id ...]`; count is hexadecimal; some words have (a)."""
        end = self._data[name].index(b"|", offset)
        cells = self._data[name][offset:end].decode("utf-8").split()
        words = cells[4 : 4 + 2 * int(cells[3], 16) : 2]
        return [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words]


@lru_cache(maxsize=2)
def _wordnet(folder: str | None, searched: str | None) -> WordNet:
    if folder is not None:
        return WordNet(Path(folder).expanduser())
    for place in (*([searched] if searched else []), *PLACES):
        path = Path(place).expanduser()
        if (path / "index.noun").is_file():
            return WordNet(path)
    raise UserError(
        "SynonymSubstitution needs WordNet, which was not found on this machine\n"
        "fix: apt install wordnet-base; or python -m nltk.downloader wordnet, unzipped; or set "
        "SynonymSubstitution.folder or WNSEARCHDIR to its folder"
    )
