"""Texts tokenized once, ahead of training, and kept in the cache as memory-mapped arrays."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from cse.console import progress
from cse.encoder.prompts import ROLES, put_before, require_prompt_room
from cse.encoder.template import added_ids, added_in, require_room
from cse.files import atomic_dir, cache_dir, read_json, sha256_file, write_json, writing_cache

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("cse")
CHUNK = 16_384  # texts that one call of the Rust tokenizer takes: enough to keep its threads busy


class TokenStore:
    """Token ids of a data set's texts: each distinct text once, as the encoder would tokenize it.

    The ids lie on disk (a flat array and the offsets of its rows, memory-mapped); a dict from text to row stays in
    memory; it takes about 200 bytes for each text, which is acceptable for some millions of texts. With
    prompts, each text is stored behind each prompt; its number stays that of the bare text.

    Attributes:
        texts: The distinct texts by number.
        max_length: Largest number of ids of a text, template and special tokens included.
        truncated: Number of distinct texts, each behind each prompt, that were longer.
        pad_id: The id that fills up short rows on the right.
        mask_id: The mask token; None for a tokenizer without one.
        special_ids: Ids of special tokens.
        vocab_size: Size of the vocabulary; all ids are smaller.
        added: Numbers of ids that the tokenizer puts before and after every text: special tokens and template.
        prompt_ids: The ids of each distinct prompt; empty without prompts.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        rust: Tokenizer,
        max_length: int,
        folder: Path,
        prompts: Mapping[str, str],
    ) -> None:
        """Open a filled folder; use `build`."""
        self._flat: NDArray[np.int32] = np.load(folder / "ids.npy", mmap_mode="r")
        self._offsets: NDArray[np.int64] = np.load(folder / "offsets.npy")
        self.texts = texts
        self._rows = {text: row for row, text in enumerate(texts)}
        self._rust, self._tokenizer = rust, tokenizer
        self.max_length = max_length
        self.truncated = int(read_json(folder / "meta.json")["truncated"])
        self.pad_id = int(tokenizer.pad_token_id)
        self.mask_id: int | None = tokenizer.mask_token_id
        self.special_ids = tuple(sorted(set(tokenizer.all_special_ids)))
        self.vocab_size = len(tokenizer)
        before, after = added_ids(tokenizer)
        self.added = len(before), len(after)
        self._prompts, distinct = {role: prompts.get(role, "") for role in ROLES}, _distinct(prompts)
        self._block = {role: distinct.index(prompt) for role, prompt in self._prompts.items()}
        # Without the space at its end: in many vocabularies that space belongs to the first word behind it.
        ids = (tokenizer(prompt.strip(), add_special_tokens=False)["input_ids"] for prompt in distinct if prompt)
        self.prompt_ids: tuple[tuple[int, ...], ...] = tuple(map(tuple, ids))

    @classmethod
    def build(
        cls,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        prompts: Mapping[str, str] = MappingProxyType({}),
    ) -> TokenStore:
        """The store of these texts, from the cache if they were tokenized before.

        Args:
            texts: In any number and order; repeated ones are stored once.
            tokenizer: A fast tokenizer with a pad token.
            max_length: Largest number of ids of a text, template, special tokens and prompt included. Longer texts are
                cut at their end, so that the prompt stays.
            prompts: The text that is put before the texts of each role; see `cse.encoder.prompts.prompts_by_role`.

        Raises:
            UserError: max_length leaves no room for a text, or the cache cannot be written.
        """
        from filelock import FileLock

        require_room(tokenizer, max_length, field="max_length")
        for prompt in _distinct(prompts):
            require_prompt_room(tokenizer, max_length, prompt, field="collator.max_length")
        distinct = list(dict.fromkeys(texts))
        stored = [put_before(prompt, text) for prompt in _distinct(prompts) for text in distinct]
        rust, pad_id = rust_tokenizer(tokenizer, max_length), int(tokenizer.pad_token_id)
        folder = cache_dir() / "tokens" / _key(stored, rust, pad_id)
        with writing_cache("tokens"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # the processes of one run ask at once; the first tokenizes
                if not _whole(folder):
                    with atomic_dir(folder) as fresh:
                        _write(fresh, stored, rust, pad_id)
        return cls(distinct, tokenizer, rust, max_length, folder, prompts)

    def __len__(self) -> int:
        """The number of distinct texts."""
        return len(self._rows)

    def text_id(self, text: str) -> int:
        """The row of a text.

        Raises:
            KeyError: The store was built without this text.
        """
        return self._rows[text]

    def ids(self, text_id: int, role: str = "anchor") -> NDArray[np.int32]:
        """The ids (L,) of a row, behind the prompt of a role."""
        row = self._block[role] * len(self._rows) + text_id
        return self._flat[self._offsets[row] : self._offsets[row + 1]]

    def encode(self, text: str, role: str = "anchor") -> list[int]:
        """The ids of a text that is not in the store, tokenized in the same way, behind the prompt of a role."""
        return list(self._rust.encode(put_before(self._prompts[role], text)).ids) or [self.pad_id]

    def added_in(self, template: str | None) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after every text, if it had this template; None: as it is.

        Raises:
            UserError: The template does not have exactly one `{text}` with something beside it.
        """
        return added_ids(self._tokenizer) if template is None else added_in(self._tokenizer, template)

    def lengths(self) -> NDArray[np.int64]:
        """The number of ids (n,) of every text behind every prompt."""
        return np.diff(self._offsets)

    def pad(self, rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        """Lay n rows of ids side by side.

        Returns:
            input_ids and attention_mask, both (n, L) int64, padded on the right to the longest row.
        """
        from cse.encoder.texts import pad

        return pad(rows, self.pad_id)


def rust_tokenizer(tokenizer: PreTrainedTokenizerFast, max_length: int) -> Tokenizer:
    """The Rust part of a tokenizer, which gives the same ids, cut to max_length, several times as fast."""
    from tokenizers import Tokenizer

    rust = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    rust.no_padding()
    rust.enable_truncation(max_length)
    return rust


def _distinct(prompts: Mapping[str, str]) -> list[str]:
    """The different prompts of all roles."""
    return list(dict.fromkeys(prompts.get(role, "") for role in ROLES))


def _key(texts: Sequence[str], rust: Tokenizer, pad_id: int) -> str:
    """A hash of everything that the ids depend on: the texts, and the tokenizer with its max_length."""
    digest = hashlib.sha256(f"{rust.to_str()} {pad_id}".encode())
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:32]


def _write(folder: Path, texts: Sequence[str], rust: Tokenizer, pad_id: int) -> None:
    lengths = np.zeros(len(texts) + 1, dtype=np.int64)
    parts: list[NDArray[np.int32]] = []
    truncated = 0
    with progress("tokenize", len(texts), lines=False) as advance:
        for start in range(0, len(texts), CHUNK):
            encodings = rust.encode_batch_fast(texts[start : start + CHUNK])
            rows = [encoding.ids or [pad_id] for encoding in encodings]  # an empty text still has a vector
            lengths[start + 1 : start + 1 + len(rows)] = [len(row) for row in rows]
            parts.append(np.concatenate([np.array(row, dtype=np.int32) for row in rows]))
            truncated += sum(bool(encoding.overflowing) for encoding in encodings)
            advance(start + len(rows))
    np.save(folder / "ids.npy", np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32))
    np.save(folder / "offsets.npy", np.cumsum(lengths))
    sums = {name: sha256_file(folder / name) for name in ("ids.npy", "offsets.npy")}
    write_json(folder / "meta.json", {"truncated": truncated, "sha256": sums})


def _whole(folder: Path) -> bool:
    """Whether a cache entry exists and is undamaged; a damaged entry is built again."""
    if not folder.exists():
        return False
    try:
        good = all(
            sha256_file(folder / name) == value for name, value in read_json(folder / "meta.json")["sha256"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        log.warning("tokens     the cache entry %s is damaged; tokenizing again", folder)
    return good
