"""Where the tokens of a text stand in it, and which of them lie within ranges of its characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cse.encoder.prompts import put_before
from cse.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Range: TypeAlias = tuple[int, int]  # the first character, and the one after the last
Span: TypeAlias = "Range | Sequence[Range]"
NOWHERE: Range = (0, 0)  # the place of a token that is not of the text: special, of a template, of a prompt


def places(text: str, offsets: Iterable[Range], prompt: str = "") -> list[Range]:
    """The place of each token in a text, given the offsets of tokens in the text as it was tokenized.

    White space is not part of a token: GPT-2's tokens begin with the space before a word.

    Args:
        text: The text as the user has it.
        offsets: Start and end of each token in `put_before(prompt, text).strip()`; equal for special tokens.
        prompt: The prompt that stands before the text.
    """
    read, joined = put_before(prompt, text).strip(), prompt + text
    before = len(prompt) - (len(joined) - len(joined.lstrip()))  # characters of `read` before those of `text`
    found = []
    for start, end in offsets:
        while start < end and read[start : start + 1].isspace():
            start += 1
        while start < end and read[end - 1 : end].isspace():
            end -= 1
        found.append((start - before, end - before) if max(before, start) < end and start >= before else NOWHERE)
    return found


def inside(places: Sequence[Range], spans: Sequence[Sequence[Range]]) -> NDArray[np.bool_]:
    """Which tokens belong to each span: (S, L) True where a token lies within one of the ranges of a span."""
    start, end = np.array(places, dtype=np.int64).reshape(-1, 2).T  # (L,)
    found = np.zeros((len(spans), len(start)), dtype=bool)
    for mask, ranges in zip(found, spans, strict=True):
        for first, last in ranges:
            mask |= (start < end) & (first <= start) & (end <= last)
    return found


def words(places: Sequence[Range]) -> list[list[int]]:
    """The positions of the tokens of each word: tokens without a gap between them, so that words end at white space."""
    found: list[list[int]] = []
    last = -1
    for position, (start, end) in enumerate(places):
        if start == end:
            continue
        if found and start <= last:
            found[-1].append(position)
        else:
            found.append([position])
        last = end
    return found


def check_spans(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[list[Range]]]:
    """The ranges of each span of each text.

    Raises:
        UserError: There are not as many lists of spans as texts, or a span is not ranges within its text.
    """
    if len(spans) != len(texts):
        raise UserError(
            f"spans has {len(spans)} lists for {len(texts)} texts\nfix: give a list of spans for each text, in order"
        )
    each = enumerate(zip(texts, spans, strict=True))
    return [[_ranges(span, text, number) for span in found] for number, (text, found) in each]


def _ranges(span: Any, text: str, number: int) -> list[Range]:
    """The ranges of a span of text `number`."""
    try:
        pairs = [span] if isinstance(span[0], int) else list(span)
        ranges = [(int(start), int(end)) for start, end in pairs]
    except (TypeError, ValueError, IndexError):
        ranges = []
    if not ranges or not all(0 <= start < end <= len(text) for start, end in ranges):
        raise UserError(
            f"spans has {str(span)[:60]} for text {number}, which has {len(text)} characters\n"
            f"fix: give (start, end), or several, with 0 <= start < end <= {len(text)}"
        )
    return ranges


def require_tokens(
    texts: Sequence[str], spans: Sequence[Sequence[Sequence[Range]]], masks: Sequence[NDArray[np.bool_]], length: int
) -> None:
    """Raise unless every span of every text has a token.

    Raises:
        UserError: A span holds no whole token, or one of the tokens that were cut off.
    """
    for number, mask in enumerate(masks):
        for ranges, found in zip(spans[number], mask, strict=True):
            if not found.any():
                what = " ... ".join(texts[number][start:end] for start, end in ranges)
                raise UserError(
                    f"spans: {what[:60]!r} of text {number} holds no whole token among the first {length} tokens\n"
                    "fix: give ranges of whole words, and cut long texts into parts first"
                )


def side_by_side(masks: Sequence[NDArray[np.bool_]], length: int) -> Tensor:
    """Spans (S, L) of n rows, of unequal numbers, as one mask (n, S, `length`), with S >= 1."""
    import torch

    out = np.zeros((len(masks), max([1, *map(len, masks)]), length), dtype=bool)
    for row, mask in zip(out, masks, strict=True):
        row[: len(mask), : mask.shape[1]] = mask
    return torch.from_numpy(out)
