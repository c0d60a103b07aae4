"""A checkpoint as something that embeds: ours, a SentenceTransformer, a Hugging Face model, or what we exported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cse.assets.hub import snapshot
from cse.encoder.checkpoint.identity import EXPORTED, model_hash
from cse.encoder.checkpoint.layout import UNLIMITED, Layout
from cse.encoder.device import Device, choose
from cse.encoder.prompts import choose_prompt
from cse.errors import UserError

NOT_NEEDED = ("onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx")


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint: its encoder, the name that the caller gave, the folder of its files, and more."""

    encoder: Any
    name: str
    folder: Path
    sha256: str  # hash of everything that its vectors depend on
    loader: str  # the library that runs it
    prompt_name: str | None = None  # the name of the prompt that is put before every text; None: none is
    prompt: str | None = None  # its text

    @property
    def is_plain(self) -> bool:
        """Tell whether it is a plain Hugging Face model, which says nothing of how its states become a vector."""
        return self.loader == "cse" and not Layout.read(self.folder).modules

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        from cse.evaluation.encoding import comparison, nearness

        length = getattr(self.encoder, "max_length", None) or getattr(self.encoder, "max_seq_length", None)
        return {
            "name": self.name,
            "sha256": self.sha256,
            "loader": self.loader,
            "max_length": None if length is None or length >= UNLIMITED else length,
            "prompt_name": self.prompt_name,
            "prompt": self.prompt,
            **({"similarity": "euclidean"} if comparison(self.encoder) is nearness else {}),
            **({"pooler": self.encoder.pooler} if self.is_plain else {}),
        }


def load_model(name: str, *, prompt: str | None = None, use_prompts: bool = False, device: Device = "auto") -> Model:
    """Load a checkpoint to score.

    Without `prompt`, the default prompt of the model is put before every text. `use_prompts` says that the caller
    chooses a prompt for each call, as mteb does with sentence-transformers. An export runs on the CPU.

    Raises:
        UserError: The checkpoint cannot be loaded, or does not have the prompt.
    """
    model = _load(name, _folder(name), choose(device), use_prompts=use_prompts)
    encoder = model.encoder
    text = choose_prompt(encoder.prompts, encoder.default_prompt_name, prompt, option="--prompt")
    return replace(model, prompt_name=prompt or (encoder.default_prompt_name if text else None), prompt=text or None)


def _load(name: str, folder: Path, device: str, *, use_prompts: bool) -> Model:
    from cse.encoder.model import Encoder

    if (folder / EXPORTED[0]).is_file():
        from cse.inference.export import OnnxEncoder

        exported = OnnxEncoder(folder)
        return Model(exported, name, folder, model_hash(folder), f"onnxruntime {exported.about['weights']}")
    sha256 = model_hash(folder)
    layout = Layout.read(folder)
    if not (use_prompts and any(layout.prompts.values())):
        try:
            return Model(Encoder.load(str(folder)).to(device), name, folder, sha256, "cse")
        except UserError as error:
            if not layout.unsupported:  # sentence-transformers may load a damaged checkpoint, and score what it made up
                raise
            refusal = error
        except Exception as error:  # damaged files can raise anything, by the library that reads them
            reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
            what = f"{name} cannot be loaded: {type(error).__name__}: {reason}"
            refusal = UserError(f"{what}\nfix: give a complete checkpoint")
    else:
        what = f"{name} has prompts for mteb, and sentence-transformers cannot load it"
        refusal = UserError(f"{what}\nfix: give a complete checkpoint")
    try:
        from sentence_transformers import SentenceTransformer

        return Model(SentenceTransformer(str(folder), device=device), name, folder, sha256, "sentence-transformers")
    except Exception:  # its loaders can raise anything; the message of our own loader is better
        raise refusal from None


def prompts(folder: Path) -> dict[str, str]:
    """The prompts that a checkpoint asks for, by name, without the empty ones."""
    return {name: prompt for name, prompt in Layout.read(folder).prompts.items() if prompt}


def _folder(name: str) -> Path:
    """The folder of a checkpoint's files."""
    from cse.encoder.checkpoint.source import locate

    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    try:
        place = locate(name)  # refuses a name that looks like a path if nothing exists there
    except UserError:
        raise UserError(
            f"the checkpoint folder {name!r} does not exist\nfix: give the folder with config.json, or a Hub id"
        ) from None
    if Path(place).is_dir():
        return Path(place)
    return snapshot(name, ignore=NOT_NEEDED, what=f"checkpoint {name!r}")
