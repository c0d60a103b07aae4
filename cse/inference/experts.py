"""One LoRA adapter for each domain, over one frozen backbone: the domain of a text is known, and chooses its adapter.

This is the mixture of experts of Hallee et al. (2024, arXiv:2401.15713) in a smaller form. There, a whole block of
every layer is copied for each domain, and a text goes to the copy of its given domain; nothing learns where. Experts
are then separate models that share their frozen weights, which is what adapters are, at a hundredth of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cse.encoder.adapters.lora import add
from cse.encoder.checkpoint.layout import ADAPTER, ADAPTER_CONFIG, Layout, require_checkpoint
from cse.encoder.device import Device, choose
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.files import read_json

if TYPE_CHECKING:
    from cse.encoder.device import Precision
    from cse.encoder.texts import Windows

PROBE = "A cat sat on the mat."
SAME = 1e-4  # difference of a coordinate from the merged model, relative to the length of the vector


class ReadRows(NamedTuple):
    """The texts of one label: their places among all texts, and their tokens."""

    label: str
    rows: list[int]
    read: Windows


class Experts:
    """Encodes each text by the adapter of its label. The backbone is in memory once, whatever the number of adapters.

    Args:
        checkpoints: The checkpoint of each label: best/ or last/ of a run with `cse.Lora`. All runs had the same
            backbone, template, pooler and prompts.
        device: The device to run on; see `cse.encoder.device`.

    Attributes:
        labels: The labels, in their order.
        encoder: The encoder, with the adapter that was used last.

    Raises:
        UserError: No checkpoint is given; a checkpoint has no adapter, or trained weights outside of it; or two of them
            differ in more than their adapters.
    """

    def __init__(self, checkpoints: Mapping[str, str | Path], *, device: Device = "auto") -> None:
        if not checkpoints:
            raise UserError("experts has no checkpoint\nfix: give a mapping from labels to checkpoints of LoRA runs")
        folders = {label: Path(path) for label, path in checkpoints.items()}
        layouts = {label: _checked(folder) for label, folder in folders.items()}
        first = next(iter(folders))
        for label, layout in layouts.items():
            if _backbone(layout, layouts[first]) != _backbone(layouts[first], layout):
                raise _refusal(folders[label], f"than {folders[first]}")
            if replace(layout, reference=None) != replace(layouts[first], reference=None):
                raise UserError(
                    f"experts: {folders[label]} differs from {folders[first]} in its modules, template, length or "
                    "prompts\nfix: train both by one recipe"
                )
        self.labels, self._first = list(folders), folders[first]
        self.encoder = Encoder.load(str(folders[first])).to(choose(device))
        for label, folder in folders.items():
            add(self.encoder.backbone, folder, self._name(label))
        with torch.no_grad():  # the encoder of a checkpoint has its adapter merged in
            for layer in self._layers():
                if self._name(first) in layer.lora_A:
                    layer.get_base_layer().weight -= layer.get_delta_weight(self._name(first))
        for label, folder in folders.items():
            self._compare(label, folder)

    def encode(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        precision: Precision = "fp32",
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        windows: int | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts, in their order, each by the adapter of its label.

        Vectors of different adapters are not comparable, unless their runs saw texts of each other's domain.

        The other arguments are those of `Encoder.encode`.

        Returns:
            (n, D) float32, or (n, `dimensions`).

        Raises:
            UserError: There is no adapter for a label, or there are more or fewer labels than texts.
        """
        read = self.read(texts, labels, prompt_name=prompt_name, prompt=prompt, windows=windows)
        return self.encode_read(read, precision=precision, dimensions=dimensions)

    def read(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        windows: int | None = None,
    ) -> list[ReadRows]:
        """The first half of `encode`, for which no adapter is needed: the tokens of the texts of each label."""
        if len(labels) != len(texts):
            raise UserError(f"experts has {len(texts)} texts and {len(labels)} labels\nfix: give one label for each")
        found = []
        for label in dict.fromkeys(labels):
            rows = [i for i, other in enumerate(labels) if other == label]
            own = [texts[i] for i in rows]
            read = self.encoder.read(own, prompt_name=prompt_name, prompt=prompt, windows=windows)
            found.append(ReadRows(label, rows, read))
        return found

    def encode_read(
        self, read: Sequence[ReadRows], *, precision: Precision = "fp32", dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """The second half of `encode`: the vectors of texts from their tokens, each by the adapter of its label."""
        width = self.encoder.dim if dimensions is None else dimensions
        out = np.empty((sum(len(part.rows) for part in read), width), dtype=np.float32)
        for part in read:
            self.use(part.label)
            out[part.rows] = self.encoder.encode_read(part.read, precision=precision, dimensions=dimensions)
        return out

    def use(self, label: str) -> None:
        """From here on, let `encoder` have the adapter of this label."""
        if label not in self.labels:
            raise UserError(f"experts has no adapter for {label!r}\nfix: give one of {', '.join(self.labels)}")
        for layer in self._layers():
            layer.set_adapter(self._name(label))

    def _name(self, label: str) -> str:
        """The name of an adapter in the backbone, where a name has no dots."""
        return f"expert{self.labels.index(label)}"

    def _layers(self) -> list[Any]:
        from peft.tuners.lora import LoraLayer

        return [module for module in self.encoder.backbone.modules() if isinstance(module, LoraLayer)]

    def _compare(self, label: str, folder: Path) -> None:
        """Refuse an adapter that does not give the vectors of its checkpoint, as that of another backbone."""
        want = Encoder.load(str(folder)).to(self.encoder.device).encode([PROBE])
        apart = float(np.abs(self.encode([PROBE], [label]) - want).max() / np.linalg.norm(want))
        if not apart <= SAME:
            raise _refusal(folder, f"than {self._first}: its vectors differ by {apart:.1e}")


def _checked(folder: Path) -> Layout:
    """The layout of a checkpoint whose adapter is all that was trained of it."""
    layout = require_checkpoint(folder)
    dense = [module.path for module in layout.post if module.dense is not None]
    wrong = f"the Dense layer {dense[0]} after pooling, which an adapter does not hold" if dense else ""
    wrong = "weights in bfloat16, whose adapter cannot be taken out" if layout.weights == "bf16" else wrong
    settings = folder / ADAPTER / ADAPTER_CONFIG
    dora = layout.adapter and settings.is_file() and read_json(settings).get("use_dora")
    wrong = "a DoRA, which cannot be taken out of the merged weights" if dora else wrong
    wrong = wrong if layout.adapter else f"no {ADAPTER}/, since it was trained without LoRA"
    if wrong:
        raise UserError(f"experts: checkpoint {folder} has {wrong}\nfix: give checkpoints of runs with cse.Lora")
    return replace(layout, vocabulary=())


def _backbone(layout: Layout, other: Layout) -> tuple[object, ...]:
    """Give what tells two backbones apart without loading them; the sum of weights only if both layouts state it."""
    weights = layout.reference.weights if layout.reference is not None and other.reference is not None else None
    return layout.architecture, layout.width, layout.depth, weights


def _refusal(folder: Path, what: str) -> UserError:
    return UserError(
        f"experts: {folder} was trained on another backbone {what}\n"
        "fix: train all adapters on one backbone, or encode with this checkpoint alone"
    )


def parse(text: str) -> dict[str, str] | None:
    """The checkpoint of each label, from a command line: `law=runs/law/last,medicine=runs/medicine/last`.

    None: the text is the name of one checkpoint.
    """
    if "=" not in text or Path(text).expanduser().is_dir():
        return None
    found: dict[str, str] = {}
    for part in text.split(","):
        label, _, folder = (word.strip() for word in part.partition("="))
        if not (label and folder) or label in found:
            what = f"names {label!r} twice" if label in found else f"has {part!r}, which is not LABEL=CHECKPOINT"
            raise UserError(f"checkpoint {text!r} {what}\nfix: give law=runs/law/last,medicine=runs/medicine/last")
        found[label] = folder
    return found
