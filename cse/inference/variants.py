"""Cheaper variants of an encoder, each as a folder that is scored and timed as any checkpoint is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from cse.encoder.checkpoint.identity import model_files
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.checkpoint.source import fetch
from cse.encoder.device import Device
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.files import read_json
from cse.inference.export import export
from cse.inference.static import static_checkpoint

MODELS = ("onnx", "onnx-int8", "layers", "static")


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of an encoder that can be made."""

    name: str  # its name in a table
    # writes it into a new folder, and returns what to know about it; raises UserError if there is none
    build: Callable[[Path], str]


def variants(
    folder: Path,
    encoder: Any,
    kinds: Sequence[str],
    *,
    layers: Sequence[int],
    ranks: str | None,
    device: Device,
) -> list[Variant]:
    """The variants of an encoder, none of which is made yet.

    `kinds` are names in `MODELS`: an ONNX graph, one with weights of 8 bits, the first `layers`, static vectors ranked
    by the counts in texts, `ranks`. An encoder that is not of cse, and one of static vectors, have no such variants.
    """
    cuts = [Variant(f"{n} of {encoder.depth} layers", partial(_cut, folder, encoder, n)) for n in layers]
    known = {
        "onnx": [Variant("ONNX", partial(_export, folder, encoder, None))],
        "onnx-int8": [Variant("ONNX int8", partial(_export, folder, encoder, "int8"))],
        "layers": cuts or [Variant("fewer layers", partial(_refuse, "it has one layer"))],
        "static": [Variant("static", partial(_static, folder, ranks, device))],
    }
    found = [one for kind in kinds for one in known[kind]]
    why = "" if isinstance(encoder, Encoder) and encoder.depth else "only a transformer that cse loads has it"
    return [Variant(one.name, partial(_refuse, why)) for one in found] if why else found


def megabytes(folder: Path) -> float:
    """The MB (10^6 bytes) of the files that encoding needs: weights, settings, tokenizer, also of a named backbone."""
    files = model_files(folder)
    twice = {path.parent for path in files if path.suffix == ".safetensors"}  # a .bin beside it has the same weights
    needed = [path for path in files if path.suffix != ".bin" or path.parent not in twice]
    named = Layout.read(folder).reference
    below = 0.0 if named is None else megabytes(fetch(named.backbone, named.revision))
    return sum(path.stat().st_size for path in needed) / 1e6 + below


def _export(folder: Path, encoder: Encoder, quantize: Literal["int8"] | None, out: Path) -> str:
    export(Encoder.load(str(folder)), out, quantize=quantize)
    return "" if encoder.device.type == "cpu" else "it runs on the CPU"


def _static(folder: Path, ranks: str | None, device: Device, out: Path) -> str:
    made = static_checkpoint(str(folder), out, data=ranks, device=device)
    return "its vocabulary is not sorted by frequency: give texts that rank the tokens" if made.doubtful else ""


def _refuse(why: str, _: Path) -> str:
    raise UserError(f"{why}\nfix: give another model")


def _cut(folder: Path, encoder: Encoder, layers: int, out: Path) -> str:
    """Write the encoder with its first layers, and the pooler and all that follows it as they are."""
    if encoder.adapter is not None:
        raise UserError("soft prompts belong to all layers\nfix: train on a backbone with fewer layers")
    layout = Layout.read(folder)
    if layout.reference is not None:  # a LoRA adapter, which is that of all layers
        folder = out.with_name("whole")
        encoder.save(folder, whole=True)
    cut = Encoder(
        str(folder), layers=layers, pooler=encoder.pooler, max_length=encoder.max_length, weights=layout.weights
    )
    cut.backbone.to(getattr(torch, _stored(folder, layout)))  # so that the sizes of both are comparable
    cut.save(out)
    return ""


def _stored(folder: Path, layout: Layout) -> str:
    """The number format in which the weights of a backbone are stored, as its config.json says."""
    config = read_json(folder / (layout.modules[0].path if layout.modules else "") / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")
