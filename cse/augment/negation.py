"""Augmentation by negation: the meaning changes, and most words stay."""

from __future__ import annotations

import random
import re
from typing import Literal

from cse.interfaces import Augmentation

ALWAYS = """
    am is are was were can could will would shall should may might must do does did isn't aren't wasn't weren't can't
    couldn't won't wouldn't shan't shouldn't mightn't mustn't don't doesn't didn't hasn't haven't hadn't cannot
"""
BEFORE_PARTICIPLE = frozenset({"has", "have", "had"})  # otherwise main verbs, as in "has a cat"
IRREGULAR = {"won't": "will", "can't": "can", "shan't": "shall", "cannot": "can"}
PARTICIPLE = re.compile(r"\w+(?:ed|en|wn)$|been$|had$|made$|done$|gone$|become$|led$|won$|held$|seen$")
_AUXILIARIES = frozenset(ALWAYS.split())


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
        """The negated text."""
        words = text.split()
        if not words:
            return text
        if self.rule == "auxiliary":
            cores = [word.strip('.,;:!?"“”()').replace("’", "'").lower() for word in words]
            for i, core in enumerate(cores):
                if core == "not" and len(words) > 1:
                    return " ".join(words[:i] + words[i + 1 :])
            for i, core in enumerate(cores):
                if _is_auxiliary(core, cores[i + 1 : i + 2]):
                    return " ".join([*words[:i], _negated(words[i], core), *words[i + 1 :]])
        return " ".join(["Not", *words])


def _is_auxiliary(core: str, following: list[str]) -> bool:
    participle = bool(following) and PARTICIPLE.match(following[0]) is not None
    return core in _AUXILIARIES or (core in BEFORE_PARTICIPLE and participle)


def _negated(word: str, core: str) -> str:
    """An auxiliary with its negation added, or removed if it has one, in its own case and with its punctuation."""
    plain = IRREGULAR.get(core, core.removesuffix("n't"))
    start = word.replace("’", "'").lower().index(core)
    own = word[start : start + len(core)]
    if plain == core:
        return f"{word[: start + len(core)]} not{word[start + len(core) :]}"
    kept = plain.capitalize() if own[0].isupper() else plain
    return word[:start] + kept + word[start + len(core) :]
