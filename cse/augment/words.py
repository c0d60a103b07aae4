"""Augmentations of single words: dropped, moved, repeated, negated, mistyped, or replaced by synonyms of a WordNet."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Augmentation

_ALWAYS = """
    am is are was were can could will would shall should may might must do does did isn't aren't wasn't weren't can't
    couldn't won't wouldn't shan't shouldn't mightn't mustn't don't doesn't didn't hasn't haven't hadn't cannot
"""
ALWAYS = frozenset(_ALWAYS.split())
BEFORE_PARTICIPLE = frozenset({"has", "have", "had"})  # otherwise main verbs, as in "has a cat"
IRREGULAR = {"won't": "will", "can't": "can", "shan't": "shall", "cannot": "can"}
PARTICIPLE = re.compile(r"\w+(?:ed|en|wn)$|been$|had$|made$|done$|gone$|become$|led$|won$|held$|seen$")

CLASSES = ("noun", "verb", "adj", "adv")
_FUNCTION_WORDS = """
    a about after all am an and any are as at be because been before being but by can could did do does for from had has
    have he her hers him his how i if in into is it its may me might must my no nor not of off on or our ours shall she
    should so some such than that the their theirs them then there these they this those to too under until up us very
    was we were what when where which while who whom whose why will with would you your yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
CORE = re.compile(r"^(\W*)([^\W\d_]+)(\W*)$")  # a word of letters, with the punctuation around it
PLACES = "/usr/share/wordnet /usr/local/share/wordnet ~/nltk_data/corpora/wordnet /usr/share/nltk_data/corpora/wordnet"


class WordDeletion(Augmentation):
    """Deletes each word with a given probability. A text of which nothing would be left stays as it is.

    SimCSE compares it with dropout as a source of views (arXiv:2104.08821, table 1).

    Args:
        probability: Probability that a word is deleted.
    """

    def __init__(self, *, probability: float) -> None:
        require_within("(0, 1)", "WordDeletion", probability=probability)
        self.probability = probability

    def __call__(self, text: str, rng: random.Random) -> str:
        kept = [word for word in text.split() if rng.random() >= self.probability]
        return " ".join(kept) or text


class WordReordering(Augmentation):
    """Reorders words, locally or in the whole text.

    Words are sorted by i + U[0, distance + 1), where i is the position, so that no word moves farther than `distance`
    (Lample et al., ICLR 2018, arXiv:1711.00043, section 2.3). Without a distance, all orders are equally likely, as in
    the token shuffling of ConSERT (arXiv:2105.11741, section 3.2), here on words.

    Args:
        distance: The largest number of places that a word may move (Lample et al.: 3). None: no limit.

    Deviations:
        ConSERT shuffles the position ids of sub-words inside the encoder, special tokens included.
    """

    def __init__(self, *, distance: int | None = 3) -> None:
        require_at_least(1, "WordReordering", distance=distance)
        self.distance = distance

    def __call__(self, text: str, rng: random.Random) -> str:
        words = text.split()
        reach = len(words) if self.distance is None else self.distance + 1
        start = 0 if self.distance is None else 1
        keys = [start * i + reach * rng.random() for i in range(len(words))]
        return " ".join(words[i] for i in sorted(range(len(words)), key=keys.__getitem__))


class WordSwap(Augmentation):
    """Exchanges two words of a text, which are drawn (PEARL, arXiv:2401.10407, section 3.2). One word alone stays."""

    def __call__(self, text: str, rng: random.Random) -> str:
        words = text.split()
        if len(words) < 2:
            return text
        i, j = rng.sample(range(len(words)), 2)
        words[i], words[j] = words[j], words[i]
        return " ".join(words)


class WordRepetition(Augmentation):
    """Repeats some words, so that length does not distinguish positives from negatives (ESimCSE).

        n ~ U{0, ..., max(2, int(rate N))};  n of the N words, drawn without replacement, are repeated in place

    Wu et al., COLING 2022, arXiv:2109.04380, equations 3 and 4.

    Args:
        rate: Largest share of words to repeat (ESimCSE: 0.32).

    Deviations:
        Words are repeated instead of sub-words, so that the result does not depend on the tokenizer. n is at most N.
    """

    def __init__(self, *, rate: float = 0.32) -> None:
        require_within("(0, 1)", "WordRepetition", rate=rate)
        self.rate = rate

    def __call__(self, text: str, rng: random.Random) -> str:
        words = text.split()
        count = min(len(words), rng.randint(0, max(2, int(self.rate * len(words)))))
        twice = set(rng.sample(range(len(words)), count))
        return " ".join(word for i, own in enumerate(words) for word in [own] * (2 if i in twice else 1))


class Negation(Augmentation):
    """Negates a text by a rule: SNCSE's soft negative (arXiv:2201.05979), for English.

    If the text has a negated verb (`isn't`, `cannot`) or the word `not`, the negation is removed. Otherwise `not`
    follows the first auxiliary or form of `be`. A text without either begins with `Not`.

    Args:
        rule: `auxiliary` is the rule above. `prefix` writes `Not` before every text, as the authors' program does with
            a text that it has no negation of.

    Deviations:
        The authors' script finds the auxiliary and the main verb by a trained parser, and writes `does not` before a
        main verb. Here a main verb other than `be` is not recognized. `has`, `have` and `had` count as auxiliaries
        before a word that looks like a participle.
    """

    def __init__(self, *, rule: Literal["auxiliary", "prefix"] = "auxiliary") -> None:
        self.rule = rule

    def __call__(self, text: str, rng: random.Random) -> str:
        words = text.split()
        if not words:
            return text
        if self.rule == "auxiliary":
            cores = [word.strip('.,;:!?"“”()').replace("’", "'").lower() for word in words]
            for i, core in enumerate(cores):
                if core == "not" and len(words) > 1:
                    return " ".join(words[:i] + words[i + 1 :])
            for i, core in enumerate(cores):
                if core in ALWAYS or (core in BEFORE_PARTICIPLE and PARTICIPLE.match("".join(cores[i + 1 : i + 2]))):
                    return " ".join([*words[:i], _negated(words[i], core), *words[i + 1 :]])
        return " ".join(["Not", *words])


def _negated(word: str, core: str) -> str:
    """An auxiliary with its negation added, or removed if it has one, in its own case and with its punctuation."""
    plain = IRREGULAR.get(core, core.removesuffix("n't"))
    start = word.replace("’", "'").lower().index(core)
    own = word[start : start + len(core)]
    if plain == core:
        return f"{word[: start + len(core)]} not{word[start + len(core) :]}"
    kept = plain.capitalize() if own[0].isupper() else plain
    return word[:start] + kept + word[start + len(core) :]


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
        UserError: At first use: WordNet is not found, or its files are damaged.

    Deviations:
        CLEAR takes the word with the nearest vector. This class is for English only.
    """

    def __init__(self, *, probability: float = 0.3, senses: int = 1, folder: str | None = None) -> None:
        require_within("(0, 1)", "SynonymSubstitution", probability=probability)
        require_at_least(1, "SynonymSubstitution", senses=senses)
        self.probability, self.senses = probability, senses
        self.folder = folder

    def __call__(self, text: str, rng: random.Random) -> str:
        wordnet = _wordnet(self.folder, os.environ.get("WNSEARCHDIR"))
        return " ".join(self._word(word, wordnet, rng) for word in text.split())

    def _word(self, word: str, wordnet: WordNet, rng: random.Random) -> str:
        parts = CORE.match(word)
        known = parts is not None and parts[2].lower() not in FUNCTION_WORDS
        synonyms = wordnet.synonyms(parts[2].lower(), self.senses) if parts and known else ()
        if parts is None or not synonyms or rng.random() >= self.probability:
            return word
        synonym = rng.choice(synonyms)
        return parts[1] + (synonym[0].upper() + synonym[1:] if parts[2][0].isupper() else synonym) + parts[3]


class WordNet:
    """Synonyms from the database files of WordNet; the manual page wndb(5WN) describes their format."""

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
    for place in (*([searched] if searched else []), *PLACES.split()):
        path = Path(place).expanduser()
        if (path / "index.noun").is_file():
            return WordNet(path)
    raise UserError(
        "SynonymSubstitution needs WordNet, which was not found on this machine\n"
        "fix: apt install wordnet-base; or python -m nltk.downloader wordnet, unzipped; or set "
        "SynonymSubstitution.folder or WNSEARCHDIR to its folder"
    )


# -- Typing errors ----------------------------------------------------------------------------------------------------

Edit = Literal["swap", "omit", "insert", "neighbor", "substitute", "look_alike"]
EDITS: tuple[Edit, ...] = ("swap", "omit", "insert", "neighbor", "substitute", "look_alike")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALIKE = ("0oOQ", "1lI", "2zZ", "5sS", "6bG", "8B", "9gq", "uv", "ce", "nh", "mn", "ij", "ft")  # to a scanner
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # rows of keys, each half a key to the right of the one above
_PLACES = {key: (row, column + row / 2) for row, keys in enumerate(ROWS) for column, key in enumerate(keys)}
NEIGHBORS = {  # the keys that touch the key of each letter
    key: "".join(k for k, (r, c) in _PLACES.items() if k != key and abs(r - row) <= 1 and abs(c - column) <= 1)
    for key, (row, column) in _PLACES.items()
}


class CharacterNoise(Augmentation):
    """Mistypes letters: a letter is left out, doubled, swapped with the next one, or replaced by a neighboring key.

    The four errors are equally likely. If one is impossible (the last letter has no next one, and a letter that is not
    on a QWERTY keyboard has no neighbors), the letter is left out. Digits, punctuation and spaces stay. A word keeps at
    least one character.

    Args:
        probability: Probability that a letter is mistyped.
    """

    def __init__(self, *, probability: float = 0.05) -> None:
        require_within("(0, 1)", "CharacterNoise", probability=probability)
        self.probability = probability

    def __call__(self, text: str, rng: random.Random) -> str:
        return " ".join(self._word(word, rng) or word for word in text.split())

    def _word(self, word: str, rng: random.Random) -> str:
        letters, typed = list(word), []
        at = 0
        while at < len(letters):
            letter, at = letters[at], at + 1
            if not letter.isalpha() or rng.random() >= self.probability:
                typed.append(letter)
                continue
            error = rng.choice(("omit", "double", "swap", "neighbor"))
            if error == "double":
                typed += [letter, letter]
            elif error == "swap" and at < len(letters) and letters[at].isalpha():
                typed += [letters[at], letter]
                at += 1
            elif error == "neighbor" and letter.lower() in NEIGHBORS:
                key = rng.choice(NEIGHBORS[letter.lower()])
                typed.append(key.upper() if letter.isupper() else key)
        return "".join(typed)


class CharacterEdit(Augmentation):
    """Changes one letter of a text, which is drawn, by one of several edits (PEARL, arXiv:2401.10407, section 3.2).

        swap         it changes places with the next letter
        omit         it is left out
        insert       a random letter is put before it
        neighbor     it becomes a neighboring key of a QWERTY keyboard
        substitute   it becomes a random letter
        look_alike   it becomes a letter or digit that a scanner takes it for

    An edit is drawn among those that are possible at the letter. Unlike `CharacterNoise`, which may leave a short text
    as it is, it changes every text that has a letter with a possible edit.

    Args:
        edits: The edits to draw from.

    Deviations:
        The authors' program edits a letter in each of up to 30% of the words, and at least in one.
    """

    def __init__(self, *, edits: Sequence[Edit] = EDITS) -> None:
        if not edits or not set(edits) <= set(EDITS):
            raise UserError(f"CharacterEdit.edits is {list(edits)}\nfix: give one or more of {', '.join(EDITS)}")
        self.edits = tuple(edits)

    def __call__(self, text: str, rng: random.Random) -> str:
        places = [i for i, letter in enumerate(text) if letter.isalnum()]
        rng.shuffle(places)
        for at in places:
            edits = list(self.edits)
            rng.shuffle(edits)
            for edit in edits:
                changed = self._edited(text, at, edit, rng)
                if changed.strip() and changed != text:
                    return changed
        return text

    @staticmethod
    def _edited(text: str, at: int, edit: Edit, rng: random.Random) -> str:
        """The text with an edit at a letter; the text itself if the edit is impossible there."""
        before, letter, after = text[:at], text[at], text[at + 1 :]
        if edit == "omit":
            return before + after
        if edit == "swap":
            return before + after[0] + letter + after[1:] if after[:1].isalnum() else text
        alike = "".join(group for group in ALIKE if letter in group).replace(letter, "")
        choices = {"neighbor": NEIGHBORS.get(letter.lower(), ""), "look_alike": alike}.get(edit, LETTERS)
        if not choices:
            return text
        new = rng.choice(choices)
        new = new.upper() if letter.isupper() and edit != "look_alike" else new
        return before + new + (letter if edit == "insert" else "") + after
