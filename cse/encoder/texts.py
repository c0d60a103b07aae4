"""Texts to rows of token ids, whole or in windows, and where the tokens stand in the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cse.encoder.prompts import put_before
from cse.encoder.template import bake
from cse.encoder.vectors import unit
from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Range: TypeAlias = tuple[int, int]  # the first character, and the one after the last
Span: TypeAlias = "Range | Sequence[Range]"
NOWHERE: Range = (0, 0)  # the place of a token that is not of the text: special, of a template, of a prompt


def prepared(
    tokenizer: PreTrainedTokenizerBase, *, lower_case: bool, template: str | None
) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer of an encoder: it can pad, and lower-cases and puts a template around every text if asked to.

    Returns:
        The tokenizer, and whether it had no pad token.
    """
    from tokenizers.normalizers import Lowercase, Sequence

    mended, rust = tokenizer.pad_token is None, tokenizer.backend_tokenizer
    if (
        mended
    ):  # padding is masked, so any token of the vocabulary will do; a new one would have no row in the embeddings
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    # As `do_lower_case` of sentence-transformers asks, texts are lower-cased first.
    if lower_case and (rust.normalizer is None or "A" in rust.normalizer.normalize_str("A")):
        rust.normalizer = Sequence([Lowercase(), *([rust.normalizer] if rust.normalizer is not None else [])])
    return (tokenizer if template is None else bake(tokenizer, template)), mended


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, prompt: str, max_length: int | None, lower_case: bool
) -> list[list[int]]:
    """The token ids of each text behind a prompt, cut to `max_length` if it is given.

    An empty text has one padding token, so that it has a vector.
    """
    clean = as_read(texts, prompt, lower_case=lower_case)
    if not clean:
        return []
    tokenizer(clean[0], **_cut(max_length))  # lets its Rust part cut texts, or not
    rust: Any = tokenizer
    # What else the tokenizer makes of a text, Python takes a third of the time for, and holds up other threads.
    ids = [encoding.ids for encoding in rust.backend_tokenizer.encode_batch_fast(clean)]
    return [row or [tokenizer.pad_token_id] for row in ids]


def tokenize_with_places(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, prompt: str, max_length: int | None, lower_case: bool
) -> tuple[list[list[int]], list[list[Range]]]:
    """Give what `tokenize` gives, and the characters of each text that its tokens stand for; see `places`."""
    clean = as_read(texts, prompt, lower_case=lower_case)
    if not clean:
        return [], []
    read = tokenizer(clean, return_offsets_mapping=True, **_cut(max_length))
    offsets = zip(texts, read["offset_mapping"], strict=True)
    found = [places(text, pairs, prompt) or [NOWHERE] for text, pairs in offsets]
    return [row or [tokenizer.pad_token_id] for row in read["input_ids"]], found


def _cut(max_length: int | None) -> dict[str, Any]:
    """The options of a tokenizer that cuts texts, or leaves them whole without a warning."""
    return {"verbose": False} if max_length is None else {"truncation": True, "max_length": max_length}


def as_read(texts: Sequence[str], prompt: str, *, lower_case: bool) -> list[str]:
    """Texts as a tokenizer gets them."""
    wrong = [texts] if isinstance(texts, str) else [text for text in texts if not isinstance(text, str)]
    if wrong:
        what = "texts is" if isinstance(texts, str) else "texts has"
        raise UserError(f"{what} {str(wrong[0])[:60]!r}, of type {type(wrong[0]).__name__}\nfix: give a list of str")
    clean = [put_before(prompt, text).strip() for text in texts]
    try:
        "".join(clean).encode()
    except UnicodeEncodeError:
        broken = next(text for text in clean if any("\ud800" <= letter <= "\udfff" for letter in text))
        raise UserError(
            f"texts has {broken[:60]!r}, which contains half a character (a lone surrogate)\n"
            "fix: read it as UTF-8; on a command line, set LC_ALL=C.UTF-8"
        ) from None
    return [text.lower() for text in clean] if lower_case else clean


def pad(rows: Sequence[Sequence[int] | NDArray[np.int32]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Lay n rows of ids side by side.

    Returns:
        input_ids and attention_mask, both (n, L) int64, padded on the right to the longest row.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (n, L)
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]) if len(rows) else []
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def places(text: str, offsets: Iterable[Range], prompt: str = "") -> list[Range]:
    """The place of each token in a text, given start and end of each in `put_before(prompt, text).strip()`.

    White space is not part of a token: GPT-2's tokens begin with the space before a word. Special tokens are `NOWHERE`.
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
    """Find the tokens of each span: (S, L) True where a token lies within one of the ranges of a span."""
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
    """The ranges of each span of each text."""
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
    """Raise unless every span of every text has a token."""
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
    out = np.zeros((len(masks), max([1, *map(len, masks)]), length), dtype=bool)
    for row, mask in zip(out, masks, strict=True):
        row[: len(mask), : mask.shape[1]] = mask
    return torch.from_numpy(out)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of n texts.

    A window has what the tokenizer adds to every text, the prompt, and as many tokens of the text as then fit. A text
    that fits as a whole is one window, as it is. There is no last window of tokens that were all in the one before.

    Deviations:
        ClipMD (idan0405/ClipMD, ClipMDModel.py:35-82) takes the plain mean, adds a last window even if its tokens were
        all seen, and gives windows no special tokens of their own.
    """

    rows: list[list[int]]  # the token ids of each window
    text: NDArray[np.int64]  # (W,) the number of the text of each window
    weight: NDArray[np.float32]  # (W,) the number of tokens of the text in each window
    texts: int  # n

    @classmethod
    def whole(cls, rows: list[list[int]]) -> Windows:
        """One window for each text, of which these are the token ids."""
        return cls(rows, np.arange(len(rows)), np.ones(len(rows), dtype=np.float32), len(rows))

    @classmethod
    def cut(
        cls,
        rows: Sequence[list[int]],
        step: int,
        *,
        added: tuple[Sequence[int], Sequence[int]],
        prompt: Sequence[int],
        max_length: int,
    ) -> Windows:
        """Cut the token ids of whole texts.

        Args:
            rows: The ids of each text with all that belongs around it, not truncated.
            step: The number of tokens from one window to the next.
            added: The ids that the tokenizer puts before and after every text.
            prompt: The ids of the prompt, which stand between those before and the text.
            max_length: Most ids of a window.

        Raises:
            UserError: Windows of this step would leave tokens out, or overlap by more than half.
        """
        before, after = (list(ids) for ids in added)
        before += list(prompt)
        room = max_length - len(before) - len(after)
        if not (room + 1) // 2 <= step <= room:
            raise UserError(
                f"windows is {step}, and a window holds {room} tokens of a text\n"
                f"fix: give a step from {(room + 1) // 2}, where windows overlap by half, to {room}, where they do not"
            )
        pieces: list[list[int]] = []
        text, weight = [], []
        for number, row in enumerate(rows):
            fits = len(row) <= max_length
            head = [] if fits else before if row[: len(before)] == before else before[: len(added[0])]
            tail = [] if fits else after
            own = row[len(head) : len(row) - len(tail)]
            for start in [0] if fits else starts(len(own), max_length - len(head) - len(tail), step):
                part = own[start : start + max_length - len(head) - len(tail)]
                pieces.append([*head, *part, *tail])
                text.append(number)
                weight.append(max(1, len(part)))
        return cls(pieces, np.array(text, dtype=np.int64), np.array(weight, dtype=np.float32), len(rows))

    def mean(self, vectors: NDArray[np.float32], *, scaled: bool) -> NDArray[np.float32]:
        """The vectors (n, D) of the texts from those of their windows (W, D).

        With `scaled`, vectors have unit length, and those of texts of several windows are scaled again.
        """
        texts = self.texts
        if len(vectors) == texts:
            return vectors
        total = np.zeros((texts, vectors.shape[1]), dtype=np.float64)
        np.add.at(total, self.text, vectors * self.weight[:, None].astype(np.float64))
        shared = np.bincount(self.text, weights=self.weight, minlength=texts)[:, None]
        found = (total / shared).astype(np.float32)
        several = np.bincount(self.text, minlength=texts) > 1
        if scaled:
            found[several] = unit(found[several])
        found[~several] = vectors[~several[self.text]]  # without the rounding of the mean
        return found


def starts(length: int, size: int, step: int) -> list[int]:
    """The first token of each window of `size` tokens, at least one, until all `length` tokens are in one."""
    return list(range(0, max(1, length - size + step), step))
