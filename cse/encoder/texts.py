"""Texts to rows of token ids, and rows of unequal length side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cse.encoder.offsets import NOWHERE, Range, places
from cse.encoder.prompts import put_before
from cse.encoder.template import bake
from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepared(
    tokenizer: PreTrainedTokenizerBase, *, lower_case: bool, template: str | None
) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer of an encoder: it can pad, and lower-cases and puts a template around every text if asked to.

    Returns:
        The tokenizer, and whether it had no pad token.
    """
    mended = _mend_padding(tokenizer)
    if lower_case:
        _lower_cased(tokenizer)
    return (tokenizer if template is None else bake(tokenizer, template)), mended


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, prompt: str, max_length: int | None, lower_case: bool
) -> list[list[int]]:
    """The token ids of each text behind a prompt, cut to `max_length` if it is given.

    An empty text has one padding token, so that it has a vector.

    Raises:
        UserError: `texts` is one text, or holds something else than texts.
    """
    clean = as_read(texts, prompt, lower_case=lower_case)
    if not clean:
        return []
    if tokenizer.is_fast:
        tokenizer(clean[0], **_cut(max_length))  # lets its Rust part cut texts, or not
        rust: Any = tokenizer
        # What else the tokenizer makes of a text, Python takes a third of the time for, and holds up other threads.
        ids = [encoding.ids for encoding in rust.backend_tokenizer.encode_batch_fast(clean)]
    else:
        ids = tokenizer(clean, **_cut(max_length))["input_ids"]
    return [row or [tokenizer.pad_token_id] for row in ids]


def tokenize_with_places(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, prompt: str, max_length: int | None, lower_case: bool
) -> tuple[list[list[int]], list[list[Range]]]:
    """What `tokenize` gives, and the characters of each text that its tokens stand for; see `offsets.places`.

    Raises:
        UserError: `texts` is refused as by `tokenize`, or the tokenizer does not know where its tokens stand.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer {type(tokenizer).__name__} does not say where its tokens stand in a text\n"
            "fix: use a checkpoint with a tokenizer.json"
        )
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
    """Texts as a tokenizer gets them.

    Raises:
        UserError: `texts` is one text, or holds something else than texts.
    """
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


def _mend_padding(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give a tokenizer without a pad token one; returns whether it had none."""
    if tokenizer.pad_token is not None:
        return False
    # Padding is masked, so any token of the vocabulary will do; a new one would have no row in the embeddings.
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return True


def _lower_cased(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer lower-case every text first, as `do_lower_case` of sentence-transformers asks."""
    from tokenizers.normalizers import Lowercase, Sequence

    rust = tokenizer.backend_tokenizer
    if rust.normalizer is None or "A" in rust.normalizer.normalize_str("A"):
        rust.normalizer = Sequence([Lowercase(), *([rust.normalizer] if rust.normalizer is not None else [])])
