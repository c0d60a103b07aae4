"""Texts to rows of token ids, and rows of unequal length side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, prompt: str, max_length: int, lower_case: bool
) -> list[list[int]]:
    """The token ids of each text behind a prompt, cut to `max_length`.

    An empty text has one padding token, so that it has a vector.

    Raises:
        UserError: `texts` is one text, or holds something else than texts.
    """
    wrong = [texts] if isinstance(texts, str) else [text for text in texts if not isinstance(text, str)]
    if wrong:
        what = "texts is" if isinstance(texts, str) else "texts has"
        raise UserError(f"{what} {str(wrong[0])[:60]!r}, of type {type(wrong[0]).__name__}\nfix: give a list of str")
    clean = [put_before(prompt, text).strip() for text in texts]
    clean = [text.lower() for text in clean] if lower_case else clean
    if not clean:
        return []
    ids: list[list[int]] = tokenizer(clean, truncation=True, max_length=max_length)["input_ids"]
    return [row or [tokenizer.pad_token_id] for row in ids]


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
