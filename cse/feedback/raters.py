"""Raters: a sentence-transformers encoder or cross-encoder that scores the similarity of two texts without a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cse.assets import resolve
from cse.assets.hub import snapshot
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.model import Encoder
from cse.encoder.vectors import require_directions
from cse.errors import UserError
from cse.feedback.job import Chat
from cse.feedback.meter import Meter
from cse.feedback.prompts import Prompt
from cse.feedback.store import Reply, now
from cse.teachers.cross_encoder import load_cross_encoder

RATED = frozenset({"score", "rate"})  # prompts whose questions a rater can answer
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")
DIGITS = 4  # decimals of a score; further ones vary with the batch

Rate = Callable[[list[tuple[str, str]]], Sequence[float]]  # the similarities of pairs of texts


class Rater:
    """Scores two texts by the cosine of their embeddings, or by the sigmoid of a cross-encoder's single output.

    A cross-encoder of several outputs is refused: a classifier gives no similarity.
    """

    prompted, prompts, workers, chunk = False, RATED, 1, 64

    def __init__(self, kind: str, folder: Path, name: str, weights: str) -> None:
        self.model, self.identity = f"{name}@{weights}", weights
        self.score, load = ("cosine", _encoder) if kind == "encoder" else ("sigmoid", _cross_encoder)
        try:
            self._rate = load(str(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise UserError(
                f"--model {folder} cannot be loaded: {str(error).splitlines()[0][:300]}\n"
                "fix: give the folder of a complete model"
            ) from error

    def parameters(self, _: Prompt) -> dict[str, object]:
        """The kind of score."""
        return {"rater": self.score}

    def ask(self, chats: Sequence[Chat], meter: Meter, fault: Callable[[str], None]) -> list[Reply]:
        """Score the pairs as one batch; a negative cosine is the score 0."""
        scores = self._rate([(chat.fields["text_a"], chat.fields["text_b"]) for chat in chats])
        rounded = [min(1.0, round(float(score), DIGITS)) for score in scores]
        return [Reply(json.dumps({"score": max(0.0, raw), "raw": raw}), time=now()) for raw in rounded]


def _encoder(folder: str) -> Rate:
    from sentence_transformers import SentenceTransformer

    refusal = None
    try:
        Encoder.load(folder)  # which checks what sentence-transformers would make up: missing, damaged and nan weights
    except UserError as error:
        if not Layout.read(Path(folder)).unsupported:
            raise
        refusal = error
    try:
        model: Any = SentenceTransformer(folder, local_files_only=True)
    except Exception as error:  # its loaders can raise anything; the message of our own loader is better
        raise refusal or error from None
    static = Layout.read(Path(folder)).static  # where a text without a known word has the vector 0
    options = {"normalize_embeddings": True, "convert_to_numpy": True, "show_progress_bar": False}

    def rate(pairs: list[tuple[str, str]]) -> Sequence[float]:
        texts = [pair[side] for side in (0, 1) for pair in pairs]
        vectors = model.encode(texts, batch_size=len(texts), **options)  # (2 n, D)
        require_directions(vectors, lambda row: f"--model {folder}: {texts[row][:60]!r}", null=lambda _: static)
        return list((vectors[: len(pairs)] * vectors[len(pairs) :]).sum(axis=1))

    return rate


def _cross_encoder(folder: str) -> Rate:
    from torch.nn import Sigmoid

    name, fix = f"cross-encoder:{folder}", f"give a reranker, or rate by cosine: encoder:{folder}"
    model = load_cross_encoder(name, Path(folder), option="--model", fix=fix)
    if model.num_labels != 1:
        what = f"--model {name} has {model.num_labels} outputs, but a rater must have one"
        raise UserError(f"{what}\nfix: give a model for STS")
    options = {"activation_fn": Sigmoid(), "convert_to_numpy": True, "show_progress_bar": False}
    return lambda pairs: list(model.predict(pairs, batch_size=len(pairs), **options))


def weights(option: str, name: str) -> tuple[Path, str, str]:
    """Find a model's folder by its path, `asset:NAME` or Hub id; returns it, the name, and a hash of the weights."""
    folder = resolve(name) if name.startswith("asset:") else Path(name).expanduser()
    if not (folder.is_dir() and any(folder.glob("*.json"))):
        if folder.exists() or name.startswith(("asset:", ".", "/", "~")) or name.count("/") > 1:
            raise UserError(
                f"{option} {name} is not the folder of a model\nfix: give a folder with config.json, or a Hub id"
            )
        folder = snapshot(name, allow=_WEIGHTS, what=f"{option} {name}")
    return folder, folder.resolve().name if Path(name).exists() else name, model_hash(folder)[:12]
