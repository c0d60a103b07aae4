"""Augmentations of contiguous parts of a text."""

from __future__ import annotations

import random

from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Augmentation


class SpanDeletion(Augmentation):
    """Deletes spans of words (CLEAR, arXiv:2012.15466: 5 spans of 5% of the text each).

    A span has max(1, round(rate N)) of the N words. Spans do not overlap, and every placement is as likely as any
    other. A short text loses fewer spans, since a span has at least one word, so that the share of lost words stays
    near spans * rate. At least one span is lost, but never the last word that is left.

    Args:
        spans: Number of spans.
        rate: Share of the words in each span.

    Deviations:
        CLEAR puts a [DEL] token in place of each span. It is left out here, since no pretrained model knows the token.
    """

    def __init__(self, *, spans: int = 5, rate: float = 0.05) -> None:
        self.spans, self.rate = _spans("SpanDeletion", "spans", spans, rate, most=1.0)

    def __call__(self, text: str, rng: random.Random) -> str:
        words = text.split()
        size, count = _plan(len(words), self.spans, self.rate, most=len(words) - 1)
        gone = {i for start in _starts(len(words), size, count, rng) for i in range(start, start + size)}
        return " ".join(word for i, word in enumerate(words) if i not in gone) or text


class SpanReordering(Augmentation):
    """Swaps pairs of spans (CLEAR, arXiv:2012.15466: 5 pairs, each span 5% of the text).

    Spans are as in `SpanDeletion`. A text of one word stays as it is.

    Args:
        pairs: Number of pairs.
        rate: Share of the words in each span.
    """

    def __init__(self, *, pairs: int = 5, rate: float = 0.05) -> None:
        self.pairs, self.rate = _spans("SpanReordering", "pairs", pairs, rate, most=0.5)

    def __call__(self, text: str, rng: random.Random) -> str:
        words = text.split()
        size, count = _plan(len(words), self.pairs, self.rate, most=len(words) // 2)
        starts = _starts(len(words), size, 2 * count, rng)
        rng.shuffle(starts)
        for one, other in zip(starts[::2], starts[1::2], strict=True):
            a, b = slice(one, one + size), slice(other, other + size)
            words[a], words[b] = words[b], words[a]
        return " ".join(words)


class Crop(Augmentation):
    """Keeps one contiguous part of the text. Its share of the words and its place are uniformly distributed.

    Args:
        min_share: Smallest share of the words to keep.
        max_share: Largest share of the words to keep.
    """

    def __init__(self, *, min_share: float = 0.5, max_share: float = 0.9) -> None:
        require_within("(0, 1]", "Crop", min_share=min_share, max_share=max_share)
        if min_share > max_share:
            raise UserError(
                f"Crop.min_share is {min_share} and Crop.max_share is {max_share}\nfix: give min_share <= max_share"
            )
        self.min_share, self.max_share = min_share, max_share

    def __call__(self, text: str, rng: random.Random) -> str:
        words = text.split()
        size = max(1, round(rng.uniform(self.min_share, self.max_share) * len(words)))
        start = rng.randint(0, max(0, len(words) - size))
        return " ".join(words[start : start + size]) or text


def _spans(owner: str, name: str, count: int, rate: float, *, most: float) -> tuple[int, float]:
    require_at_least(1, owner, **{name: count})
    require_within("(0, 1)", owner, rate=rate)
    if count * rate > most or (most == 1 and count * rate == 1):
        raise UserError(
            f"{owner}.{name} is {count} and rate is {rate}, together {count * rate:g} of a text\n"
            f"fix: give smaller numbers: {name} times rate must be {'< 1' if most == 1 else f'<= {most}'}"
        )
    return count, rate


def _plan(words: int, count: int, rate: float, *, most: int) -> tuple[int, int]:
    """Length and number of spans; together they have at most `most` words."""
    size = max(1, round(rate * words))
    wanted = max(1, min(count, round(count * rate * words / size)))
    return size, max(0, min(wanted, most // size))


def _starts(words: int, size: int, count: int, rng: random.Random) -> list[int]:
    """The sorted starts of `count` spans of `size` words that do not overlap; all placements are equally likely."""
    free = words - count * (size - 1)  # the number of places if each span is one place
    return [start + i * (size - 1) for i, start in enumerate(sorted(rng.sample(range(max(0, free)), count)))]
