"""Texts tokenized once, ahead of training, and kept in the cache as memory-mapped arrays."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain, compress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from cse.console import progress
from cse.data.reading.numbering import GrowingArray, Numbering, Numbers, fingerprints
from cse.data.reading.store import cached, mark
from cse.data.reading.texts import StoredTexts, TextStream, TextWriter, stream
from cse.encoder.prompts import ROLES, put_before, require_prompt_room
from cse.encoder.template import added_ids, added_in, require_room
from cse.encoder.texts import places
from cse.files import cache_dir, read_json, write_sealed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

FORMAT = 3  # to be raised when other files are written
LENGTHS = 1 << 20  # offsets that are read at once
WORD_STARTS = ("\u0120", "\u2581")  # a space in byte-level and in SentencePiece vocabularies
CHUNK = 16_384  # texts that one call of the Rust tokenizer takes: enough to keep its threads busy


class TokenStore:
    """Token ids of a data set's texts: each distinct text once, as the encoder would tokenize it; see also `Tokens`.

    Everything lies on disk, memory-mapped, and is shared by the processes of a machine: a flat array of ids with the
    offsets of its rows, and the numbers of the texts (`Numbering`). With prompts, each text is stored behind
    each prompt; its number stays that of the bare text.

    Attributes:
        texts: The distinct texts by number.
        truncated: Number of distinct texts, each behind each prompt, that were longer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        rust: Tokenizer,
        max_length: int,
        folder: Path,
        prompts: Mapping[str, str],
    ) -> None:
        """Open a filled folder; use `build`."""
        self.texts = StoredTexts(folder)
        self._flat: NDArray[np.int32] = np.load(folder / "ids.npy", mmap_mode="r")
        self._offsets: NDArray[np.int64] = np.load(folder / "offsets.npy", mmap_mode="r")
        meta = read_json(folder / "meta.json")
        self._numbers, self._seed = Numbers(folder), int(meta["seed"])
        self._rust, self._tokenizer = rust, tokenizer
        self.max_length = max_length
        self.truncated = int(meta["truncated"])
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
        texts: TextStream | Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        prompts: Mapping[str, str] = MappingProxyType({}),
    ) -> TokenStore:
        """The store of these texts, from the cache if they were tokenized before.

        Args:
            texts: In any number and order; repeated ones are stored once. A stream is known by its key, and not read
                if its texts were tokenized before.
            tokenizer: A fast tokenizer with a pad token.
            max_length: Largest number of ids of a text, template, special tokens and prompt included. Longer texts are
                cut at their end, so that the prompt stays.
            prompts: The text that is put before the texts of each role; see `Encoder.prompts_by_role`.
        """
        require_room(tokenizer, max_length, field="max_length")
        for prompt in _distinct(prompts):
            require_prompt_room(tokenizer, max_length, prompt, field="collator.max_length")
        given, distinct = stream(texts), _distinct(prompts)
        rust, pad_id = rust_tokenizer(tokenizer, max_length), int(tokenizer.pad_token_id)
        named = f"{FORMAT} {given.key} {distinct} {pad_id} {rust.to_str()}"
        folder = cache_dir() / "tokens" / hashlib.sha256(named.encode()).hexdigest()[:32]
        cached(folder, "tokens", partial(_write, given, distinct, rust, pad_id))
        return cls(tokenizer, rust, max_length, folder, prompts)

    def __len__(self) -> int:
        """The number of distinct texts."""
        return len(self._numbers)

    def text_id(self, text: str) -> int:
        """The row of a text; raises a KeyError for one without which the store was built."""
        return int(self.text_ids([text])[0])

    def text_ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The rows (n,) of texts; raises a KeyError as `text_id`."""
        found = self._numbers.find(fingerprints(texts, self._seed))
        if (found < 0).any():
            raise KeyError(texts[int(np.argmin(found))])
        return found

    def ids(self, text_id: int, role: str = "anchor") -> NDArray[np.int32]:
        """The ids (L,) of a row, behind the prompt of a role."""
        row = self._block[role] * len(self) + text_id
        return self._flat[self._offsets[row] : self._offsets[row + 1]]

    def encode(self, text: str, role: str = "anchor") -> list[int]:
        """The ids of a text that is not in the store, tokenized in the same way, behind the prompt of a role."""
        return list(self._rust.encode(put_before(self._prompts[role], text)).ids) or [self.pad_id]

    def places(self, text: str, role: str = "anchor") -> list[tuple[int, int]]:
        """The characters of a text, start and end, that each of its ids stands for; (0, 0) for ids of no text."""
        prompt = self._prompts[role]
        return places(text, self._rust.encode(put_before(prompt, text).strip()).offsets, prompt) or [(0, 0)]

    def added_in(self, template: str | None) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after every text, if it had this template; None: as it is."""
        return added_ids(self._tokenizer) if template is None else added_in(self._tokenizer, template)

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """Told by the marks of the vocabulary: `##` in BERT's; in most others, a word's first token has the mark."""
        model = json.loads(self._rust.to_str())["model"]
        tokens = self._tokenizer.convert_ids_to_tokens(range(self.vocab_size))
        prefix = model.get("continuing_subword_prefix")
        if prefix or model["type"] == "WordLevel":
            return np.array([bool(prefix) and token.startswith(prefix) for token in tokens])
        return np.array([not token.startswith(WORD_STARTS) for token in tokens])

    def lengths(self) -> Counter[int]:
        """Count the texts, each behind each prompt, by their number of ids."""
        found = Counter[int]()
        for start in range(0, len(self._offsets) - 1, LENGTHS):
            sizes, counts = np.unique(np.diff(self._offsets[start : start + LENGTHS + 1]), return_counts=True)
            found.update(dict(zip(sizes.tolist(), counts.tolist(), strict=True)))
        return found

    def pad(self, rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        """Lay n rows of ids side by side: input_ids and attention_mask, both (n, L) int64, padded on the right."""
        import torch

        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (n, L)
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]) if len(rows) else []
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


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


def _write(texts: TextStream, prompts: Sequence[str], rust: Tokenizer, pad_id: int, folder: Path, seed: int) -> None:
    """Write ids and offsets of the distinct texts behind each prompt, and their numbers."""
    numbering, truncated, end, done = Numbering(folder), 0, 0, 0
    plain = TextWriter(folder)
    ids, offsets = GrowingArray(folder / "ids.npy", np.int32), GrowingArray(folder / "offsets.npy", np.int64)
    offsets.append(np.zeros(1))
    with progress("tokenize", texts.size * len(prompts), lines=False) as advance:
        for number, prompt in enumerate(prompts):
            for block, new in _first(texts, numbering, seed) if not number else _again(texts, Numbers(folder), seed):
                chosen = list(compress(block, new))
                if not number:
                    plain.append(chosen)
                encodings = rust.encode_batch_fast([put_before(prompt, text) for text in chosen])
                rows = [encoding.ids or [pad_id] for encoding in encodings]  # an empty text still has a vector
                places = end + np.cumsum([len(row) for row in rows], dtype=np.int64)
                offsets.append(places)
                ids.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
                end = int(places[-1]) if len(places) else end
                truncated += sum(bool(encoding.overflowing) for encoding in encodings)
                advance(done := done + len(block))
            if not number:
                numbering.close()
    for array in (ids, offsets, plain):
        array.close()
    marks = {name: mark(folder / name) for name in ("ids.npy", "offsets.npy", *Numbers.FILES, *StoredTexts.FILES)}
    write_sealed(folder / "meta.json", {"truncated": truncated, "seed": seed, "marks": marks})


def _first(texts: TextStream, numbering: Numbering, seed: int) -> Iterator[tuple[list[str], list[bool]]]:
    """Blocks of texts and which of them occur for the first time; those get their numbers."""
    for block in _chunks(texts):
        yield block, numbering.add(fingerprints(block, seed))[1].tolist()


def _again(texts: TextStream, numbers: Numbers, seed: int) -> Iterator[tuple[list[str], list[bool]]]:
    """The same once more: a text that occurs for the first time has a higher number than all before it."""
    highest = -1
    for block in _chunks(texts):
        found = numbers.find(fingerprints(block, seed))
        before = np.maximum.accumulate(np.concatenate([[highest], found]))
        yield block, (found > before[:-1]).tolist()
        highest = int(before[-1])


def _chunks(texts: TextStream) -> Iterator[list[str]]:
    for block in texts.blocks():
        yield from (block[start : start + CHUNK] for start in range(0, len(block), CHUNK))
