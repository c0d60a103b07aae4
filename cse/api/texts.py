"""`cse.encode_spans` and `cse.diff`: questions about the parts of texts in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cse.api.trained import TrainedRun, load_encoder
from cse.encoder.model import Encoder
from cse.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cse.encoder.device import Device
    from cse.encoder.offsets import Span
    from cse.encoder.precision import Precision
    from cse.inference.diff import Difference, Method


def encode_spans(
    model: Encoder | TrainedRun | str | Path,
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    prompt: str | None = None,
) -> list[NDArray[np.float32]]:
    """Vectors of parts of texts, each read within its whole text, as `Encoder.encode_spans` gives them.

    Args:
        model: An encoder, a run, or a folder, `asset:NAME` or Hub id.
        texts: The texts.
        spans: The spans of each text: a character range (start, end), end left out, or several of them.
        device: The device to run on: auto, cpu, cuda or mps; an encoder stays where it is.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        prompt: The name of the model's prompt that is put before every text. None: its default prompt, if it has one.

    Returns:
        For each text, the vectors (S, D) of its spans.

    Raises:
        UserError: The model cannot be loaded, or a range lies outside its text or holds no whole token.
    """
    return _encoder(model, device).encode_spans(texts, spans, precision=precision, prompt_name=prompt)


def diff(
    a: str | Sequence[str],
    b: str | Sequence[str],
    *,
    model: Encoder | TrainedRun | str | Path = "asset:mini",
    method: Method = "align",
    max_n: int = 1,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> list[Difference]:
    """The words that make two texts differ, with scores, as `cse diff` shows them.

    Args:
        a: A text, or a list of texts.
        b: The text to compare with, or as many texts.
        model: What reads them: an encoder, a run, or a folder, `asset:NAME` or Hub id.
        method: align, delete or mask; see `cse.inference.diff.differences`.
        max_n: Largest number of tokens that `delete` leaves out at a time.
        device: The device to run on: auto, cpu, cuda or mps; an encoder stays where it is.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.

    Returns:
        For each pair, its words and their scores: `cse.diff("one text", "another")[0].words_a`.

    Raises:
        UserError: The model cannot be loaded, the numbers of texts differ, or an argument is out of range.
    """
    from cse.inference.diff import differences

    first, second = ([text] if isinstance(text, str) else list(text) for text in (a, b))
    if len(first) != len(second):
        raise UserError(f"a has {len(first)} texts and b has {len(second)}\nfix: give one text of b for each of a")
    pairs = list(zip(first, second, strict=True))
    return differences(_encoder(model, device), pairs, method=method, max_n=max_n, precision=precision)


def _encoder(model: Encoder | TrainedRun | str | Path, device: Device) -> Encoder:
    if isinstance(model, Encoder):
        return model
    return load_encoder(str(model.checkpoint if isinstance(model, TrainedRun) else model), device)
