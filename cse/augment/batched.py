"""Augmentations of many texts at once: composed of others, by a masked language model, or written before."""

from __future__ import annotations

import json
import random
import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Augmentation

if TYPE_CHECKING:
    from torch import Tensor

Rngs = Sequence[random.Random]
CORE = re.compile(r"^(\W*)(\w[\w'’-]*?)(\W*)$")  # a word, with the punctuation around it
MAX_TOKENS = 512  # tokens of a text that the model sees; words after them stay
BATCH_TOKENS = 4096  # tokens of one pass of the model, padding included
LINE = '{"text": "a phrase", "renderings": ["another"]}'


class Batched(Augmentation):
    """An augmentation that changes many texts at once, because this is cheaper than one by one."""

    def __call__(self, text: str, rng: random.Random) -> str:
        return self.batch([text], [rng])[0]

    @abstractmethod
    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        """Change texts; generator i alone determines the change of text i."""


def render(augmentations: Sequence[Augmentation], texts: Sequence[str], rngs: Rngs) -> list[str]:
    """Change texts by several augmentations in order; each text has its own generator."""
    result = list(texts)
    for each in augmentations:
        if isinstance(each, Batched):
            result = each.batch(result, rngs)
        else:
            result = [each(text, rng) for text, rng in zip(result, rngs, strict=True)]
    return result


def _some(augmentation: Augmentation, texts: Sequence[str], rngs: Rngs, chosen: Sequence[int]) -> list[str]:
    """Change the chosen texts only."""
    result = list(texts)
    for i, text in zip(
        chosen, render([augmentation], [texts[i] for i in chosen], [rngs[i] for i in chosen]), strict=True
    ):
        result[i] = text
    return result


class Sometimes(Batched):
    """Applies an augmentation to a text with a given probability.

    Args:
        augmentation: The augmentation to apply.
        probability: The probability that it is applied, in (0, 1].
    """

    def __init__(self, *, augmentation: Augmentation, probability: float = 0.5) -> None:
        require_within("(0, 1]", "Sometimes", probability=probability)
        self.augmentation, self.probability = augmentation, probability

    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        return _some(
            self.augmentation, texts, rngs, [i for i, rng in enumerate(rngs) if rng.random() < self.probability]
        )


class OneOf(Batched):
    """Applies one of several augmentations, drawn for each text.

    Args:
        augmentations: The augmentations to choose from.
        weights: Their relative probabilities, > 0. None: all are equally likely.
    """

    def __init__(self, *, augmentations: list[Augmentation], weights: list[float] | None = None) -> None:
        if not augmentations:
            raise UserError("OneOf.augmentations is empty\nfix: give one or more")
        if weights is not None and (len(weights) != len(augmentations) or not all(w > 0 for w in weights)):
            raise UserError(
                f"OneOf.weights is {weights}\nfix: give {len(augmentations)} numbers > 0, one per augmentation"
            )
        self.augmentations, self.weights = augmentations, weights

    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        numbers = range(len(self.augmentations))
        drawn = [rng.choices(numbers, self.weights)[0] for rng in rngs]
        result = list(texts)
        for number, augmentation in enumerate(self.augmentations):
            result = _some(augmentation, result, rngs, [i for i, own in enumerate(drawn) if own == number])
        return result


class InOrder(Batched):
    """Applies several augmentations in order, so that `OneOf` and `Sometimes` can take them as one.

    Args:
        augmentations: One or more, in the order in which they apply.
    """

    def __init__(self, *, augmentations: list[Augmentation]) -> None:
        if not augmentations:
            raise UserError("InOrder.augmentations is empty\nfix: give one or more")
        self.augmentations = augmentations

    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        return render(self.augmentations, texts, rngs)


class MaskedLMSubstitution(Batched):
    """Replaces words by predictions of a frozen masked language model (arXiv:1805.06201).

    Each word is drawn with a given probability, and the drawn words are masked together. Each mask is filled with one
    of the `candidates` most likely whole words other than the original, drawn by their probabilities. A text that
    contains the mask token itself stays as it is.

    The model has its own vocabulary, so any model works with any backbone. It is not a part of the encoder and its
    checkpoints. It is loaded at first use, in every worker process that prepares batches, and runs on the CPU.

    Args:
        model: A model with a masked-LM head: `asset:NAME`, a folder in Hugging Face layout, or a Hub id.
        probability: Probability that a word is replaced.
        candidates: Number of most likely words to draw from.

    Raises:
        UserError: At first use: the model cannot be loaded, or has no masked-LM head or no mask token.

    Deviations:
        Contextual augmentation conditions the model on a label, which does not exist here. The rounding of the model
        depends on the other texts of a batch, so a text may be changed differently in another batch if two words are
        equally likely to about six digits.
    """

    def __init__(self, *, model: str = "asset:mini", probability: float = 0.15, candidates: int = 10) -> None:
        self.model = model
        require_within("(0, 1)", "MaskedLMSubstitution", probability=probability)
        require_at_least(1, "MaskedLMSubstitution", candidates=candidates)
        self.probability, self.candidates = probability, candidates

    def batch(self, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
        split = [text.split() for text in texts]
        gaps = [
            [i for i, word in enumerate(words) if rng.random() < self.probability and CORE.match(word)]
            for words, rng in zip(split, rngs, strict=True)
        ]
        gaps = [[] if self._filler.mask in text else own for text, own in zip(texts, gaps, strict=True)]
        chosen = [i for i, found in enumerate(gaps) if found]
        masked = [self._masked(split[i], gaps[i]) for i in chosen]
        result = list(texts)
        for i, logits in zip(chosen, self._filler.logits(masked), strict=True):
            words = split[i]
            for at, row in zip(gaps[i], logits, strict=False):  # there are fewer rows if the text was cut
                words[at] = self._fill(words[at], row, rngs[i])
            result[i] = " ".join(words)
        return result

    def _masked(self, words: Sequence[str], gaps: Sequence[int]) -> str:
        shown = list(words)
        for at in gaps:
            shown[at] = CORE.sub(lambda m: m[1] + self._filler.mask + m[3], words[at])
        return " ".join(shown)

    def _fill(self, word: str, logits: Tensor, rng: random.Random) -> str:
        """Another word for this one; `logits` is (vocabulary,), with -inf for ids that are not whole words."""
        parts = CORE.match(word)
        assert parts is not None  # which was asked when the word was drawn
        top = logits.topk(min(self.candidates + 1, len(logits)))
        likely = zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True)
        found = [(self._filler.words[i], p) for i, p in likely if p > 0]
        found = [(other, p) for other, p in found if other.lower() != parts[2].lower()][: self.candidates]
        if not found:
            return word
        other: str = rng.choices([w for w, _ in found], [p for _, p in found])[0]
        return parts[1] + (other[0].upper() + other[1:] if parts[2][0].isupper() else other) + parts[3]

    @cached_property
    def _filler(self) -> Filler:
        return Filler(self.model)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the model, since a worker process loads its own."""
        return {name: value for name, value in vars(self).items() if name != "_filler"}


class Filler:
    """A frozen masked language model and the words of its vocabulary."""

    def __init__(self, source: str) -> None:
        import torch

        from cse.encoder.checkpoint.source import max_positions
        from cse.encoder.language_models import load_masked_lm

        self.model, self.tokenizer = load_masked_lm(source, option="MaskedLMSubstitution.model")
        self.mask: str = self.tokenizer.mask_token
        self.max_length = min(MAX_TOKENS, max_positions(self.model.config.to_dict()))
        self.words = _whole_words(self.tokenizer)
        self.none = torch.full((self.model.config.vocab_size,), float("-inf"))
        self.none[[i for i, word in enumerate(self.words) if word]] = 0.0

    def logits(self, texts: Sequence[str]) -> list[Tensor]:
        """The logits (gaps, vocabulary) at the masks of each text, with -inf for ids that are not whole words."""
        import numpy as np
        import torch

        from cse.encoder.fast.batching import token_budget_batches

        cut = {"truncation": True, "max_length": self.max_length}
        ids: list[list[int]] = self.tokenizer(list(texts), **cut)["input_ids"] if texts else []
        result: list[Tensor] = [torch.empty(0)] * len(texts)
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        for rows in token_budget_batches(lengths, BATCH_TOKENS):
            padded = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            with torch.no_grad():
                logits = self.model(**padded).logits[..., : len(self.none)] + self.none
            at = padded["input_ids"] == self.tokenizer.mask_token_id
            for row, i in enumerate(rows):
                result[i] = logits[row, at[row]]
        return result


def _whole_words(tokenizer: Any) -> list[str]:
    """The word of each id; empty for special ids, parts of words, and tokens that are not all letters.

    WordPiece marks tokens that continue a word (##); byte-level BPE and SentencePiece mark those that begin one (Ġ, ▁).
    """
    vocabulary, special = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
    marked = any(token.startswith(("Ġ", "▁")) for token in vocabulary)
    words = [""] * (max(vocabulary.values()) + 1)
    for token, i in vocabulary.items():
        begins = token.startswith(("Ġ", "▁")) if marked else not token.startswith("##")
        word = tokenizer.convert_tokens_to_string([token]).strip() if begins else ""
        words[i] = word if word.isalpha() and i not in special else ""
    return words


class Written(Augmentation):
    """Replaces a text by one of its renderings in a file; a text that the file does not have stays as it is.

    The renderings may come from any model, such as the paraphrases and synonyms of phrases that PEARL draws from
    (arXiv:2401.10407, section 3.2). The file has a JSON object on each line, with a text and a list of its renderings:

        {"text": "heart attack", "renderings": ["cardiac arrest", "myocardial infarction"]}

    Texts are compared without the white space around them. The file is read at first use, in every worker process that
    prepares batches, and is then in memory.

    Args:
        path: The .jsonl file.
        text: The name of the text.
        renderings: The name of the list.

    Raises:
        UserError: The file does not exist. At first use: a line is not such an object.
    """

    def __init__(self, *, path: str, text: str = "text", renderings: str = "renderings") -> None:
        if not Path(path).expanduser().is_file():
            raise UserError(f"Written.path is {path}, which is not a file\nfix: give a .jsonl file")
        self.path, self.text, self.renderings = path, text, renderings

    def __call__(self, text: str, rng: random.Random) -> str:
        found = self._known.get(text.strip())
        return rng.choice(found) if found else text

    @cached_property
    def _known(self) -> dict[str, list[str]]:
        """The renderings of each text."""
        known: dict[str, list[str]] = {}
        with Path(self.path).expanduser().open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    text, found = row[self.text], row[self.renderings]
                    if not isinstance(text, str) or not all(isinstance(one, str) for one in found):
                        raise TypeError("a text is not a string")
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"Written.path: {self.path}:{number} has no text {self.text!r} with a list of texts "
                        f"{self.renderings!r} ({error})\n"
                        f"fix: write lines such as {LINE}, or name the columns"
                    ) from error
                known.setdefault(text.strip(), []).extend(one for one in found if one.strip())
        return known

    def __getstate__(self) -> dict[str, Any]:
        """The state without the renderings, since a worker process reads its own."""
        return {name: value for name, value in vars(self).items() if name != "_known"}
