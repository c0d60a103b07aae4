"""Raters: a sentence-transformers encoder or cross-encoder that scores the similarity of two texts without a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cse.errors import UserError
from cse.feedback.labelers import RATED, Chat
from cse.feedback.meter import Meter
from cse.feedback.prompts import Prompt
from cse.feedback.store import Reply, now

CHUNK = 64  # pairs that are rated at once
DIGITS = 4  # decimals of a score; further ones vary with the batch


class EncoderRater:
    """Scores two texts by the cosine of their embeddings, or 0 if it is negative.

    Args:
        folder: Folder of a sentence-transformers model, such as a checkpoint.
        name: The model's name, for provenance.
        weights: Hash of the weights.
    """

    prompted, prompts, workers, chunk = False, RATED, 1, CHUNK

    def __init__(self, folder: Path, name: str, weights: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model, self.identity = f"{name}@{weights}", weights
        self._encoder: Any = _loaded(SentenceTransformer, folder)

    def parameters(self, _: Prompt) -> dict[str, object]:
        """The kind of score."""
        return {"rater": "cosine"}

    def ask(self, chats: Sequence[Chat], meter: Meter, fault: Callable[[str], None]) -> list[Reply]:
        """Score the pairs; both sides are encoded in one batch."""
        texts = [chat.fields[side] for side in ("text_a", "text_b") for chat in chats]
        vectors = self._encoder.encode(
            texts, batch_size=len(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )  # (2 n, D)
        cosines = (vectors[: len(chats)] * vectors[len(chats) :]).sum(axis=1)  # (n,)
        return [_reply(min(1.0, round(float(cosine), DIGITS))) for cosine in cosines]


class CrossEncoderRater:
    """Scores two texts by the sigmoid of a cross-encoder's single output.

    Args:
        folder: Folder of a sentence-transformers cross-encoder.
        name: The model's name, for provenance.
        weights: Hash of the weights.

    Raises:
        UserError: The model has several outputs; it is a classifier, which gives no similarity.
    """

    prompted, prompts, workers, chunk = False, RATED, 1, CHUNK

    def __init__(self, folder: Path, name: str, weights: str) -> None:
        from sentence_transformers import CrossEncoder as Model

        self.model, self.identity = f"{name}@{weights}", weights
        self._encoder: Any = _loaded(Model, folder)
        outputs = self._encoder.config.num_labels
        if outputs != 1:
            raise UserError(
                f"--model cross-encoder:{folder} has {outputs} outputs, but a rater must have one\n"
                "fix: give a model for STS"
            )

    def parameters(self, _: Prompt) -> dict[str, object]:
        """The kind of score."""
        return {"rater": "sigmoid"}

    def ask(self, chats: Sequence[Chat], meter: Meter, fault: Callable[[str], None]) -> list[Reply]:
        """Score the pairs."""
        from torch.nn import Sigmoid

        pairs = [(chat.fields["text_a"], chat.fields["text_b"]) for chat in chats]
        scores = self._encoder.predict(
            pairs, batch_size=len(pairs), activation_fn=Sigmoid(), convert_to_numpy=True, show_progress_bar=False
        )  # (n,)
        return [_reply(round(float(score), DIGITS)) for score in scores]


def _loaded(kind: Any, folder: Path) -> Any:
    try:
        return kind(str(folder), device=None, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--model {folder} cannot be loaded: {str(error).splitlines()[0][:300]}\n"
            "fix: give the folder of a complete model"
        ) from error


def _reply(raw: float) -> Reply:
    return Reply(json.dumps({"score": max(0.0, raw), "raw": raw}), time=now())
