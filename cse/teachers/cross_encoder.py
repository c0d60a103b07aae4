"""Cross-encoders of sentence-transformers: models that read two texts together and give logits, not vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cse.encoder.checkpoint.layout import Layout
from cse.encoder.checkpoint.sums import check_sums
from cse.encoder.kinds import check_finite
from cse.errors import UserError
from cse.files import read_json


def is_cross_encoder(folder: Path) -> bool:
    """Tell whether a folder holds a cross-encoder rather than an encoder."""
    try:
        trained = any(kind.endswith("ForSequenceClassification") for kind in _architectures(folder))
    except (OSError, ValueError, AttributeError):
        trained = False
    return trained or Layout.read(folder).model_type == "CrossEncoder"


def load_cross_encoder(name: str, folder: Path, *, option: str, fix: str) -> Any:
    """The cross-encoder in a folder, of which `option` gave the name."""
    try:
        kinds = _architectures(folder)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{option} {name} cannot be read: {error}\nfix: {fix}") from error
    if not is_cross_encoder(folder):  # its head would be random
        raise UserError(f"{option} {name} gives no score: it is of the type {', '.join(kinds)}\nfix: {fix}")
    check_sums(folder)
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(str(folder), local_files_only=True)
        int(model.num_labels)
    except Exception as error:  # the loaders of these libraries raise anything
        reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
        raise UserError(f"{option} {name} cannot be loaded: {reason}\nfix: {fix}") from error
    check_finite(model, str(folder))
    return model


def _architectures(folder: Path) -> list[str]:
    return [str(kind) for kind in read_json(folder / "config.json").get("architectures") or []]
