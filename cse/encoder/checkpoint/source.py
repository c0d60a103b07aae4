"""Find a model's source: its folder, asset or Hub id, its settings, and why it cannot be loaded."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cse.assets.hub import snapshot
from cse.encoder.checkpoint.layout import UNLIMITED, read_mapping
from cse.encoder.checkpoint.sums import check_weights
from cse.errors import UserError
from cse.files import require_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FIX = """use asset:smollm2 or asset:mini (no Hub needed), a folder in Hugging Face layout,
  or the id of a model on the Hub, once the Hub can be reached or has the model in its cache (HF_HOME)"""
INCOMPLETE = "copy the folder again, or save the model into it again: settings, weights and tokenizer"
NOT_NEEDED = ("*.onnx", "*.h5", "*.msgpack", "*.ot", "openvino/*", "onnx/*", "coreml/*")
_SAID = (OSError, ValueError, ImportError, RuntimeError)  # what loaders raise with a reason
MOST_LAYERS = 10_000  # of a model whose weights are elsewhere
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # the names of a number of layers in config.json


def locate(source: str) -> str:
    """The folder of an asset or a path; best/ of a run's folder; a Hub id as it is."""
    require_name(source, "model")
    if source.startswith("asset:"):
        from cse.assets import resolve

        return str(resolve(source))
    path = Path(source).expanduser()
    if (path / "recipe.yaml").is_file() and (path / "env.json").is_file():  # a run
        if not (path / "best").is_dir():
            raise UserError(f"backbone {source!r} is a run without best/\nfix: train it first, or resume it")
        return str(path / "best")
    if path.is_dir():
        return str(path)
    if source.endswith(".gguf"):
        raise UserError(f"backbone {source!r} is a GGUF file, for inference\nfix: give the original model's weights")
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"backbone {source!r} is not a folder\nfix: give a folder in Hugging Face layout, or a Hub id")
    return source


def read_config(folder: Path) -> PretrainedConfig:
    """The settings of a model, whose weights are such as cse reads.

    Raises:
        OSError, ValueError: The settings are damaged or ask for more layers than there are tensors, or an index names
            files elsewhere, or weights are integers.
    """
    from transformers import AutoConfig

    about = read_mapping(folder / "config.json")
    most = check_weights(folder, quantized="quantization_config" in about) or MOST_LAYERS
    for name in DEPTHS:
        if isinstance(about.get(name), int) and about[name] > most:
            raise ValueError(f"{name} in its config.json is {about[name]}, and its weights are {most} tensors")
    return AutoConfig.from_pretrained(str(folder))


def require_size(config: PretrainedConfig, folder: Path) -> None:
    """Raise a ValueError if the settings describe a model far larger than the weights in a folder, before it is built.

    Weights of 4 bits are two in a byte. What a file lacks would be made up, in as much memory as the settings ask for.
    """
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    stored = sum(path.stat().st_size for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    if described > 2 * stored:
        what = f"its config.json describes {described:,} numbers, and its weights are {stored:,} bytes"
        raise ValueError(f"{what}: they have other sizes than its config.json says" if stored else "it has no weights")


def absolute(source: str) -> str:
    """A source as a checkpoint elsewhere can name it: the whole path of a folder; an asset or a Hub id as it is."""
    found = Path(source if source.startswith("asset:") else locate(source))
    return str(found.resolve()) if found.is_dir() else source


def fetch(source: str, revision: str | None = None, *, option: str = "model", weights: bool = True) -> Path:
    """The folder of a model's files: of an asset, a path, or a Hub id, which is downloaded unless it is cached.

    `option` names the source in messages. Without `weights`, the settings of a Hub id are all that is needed of it.
    """
    where = locate(source)
    if Path(where).is_dir():
        return Path(where)
    ignored, what = [*NOT_NEEDED, "*.bin"], f"{option} {source!r}"
    if not weights:
        return snapshot(where, revision=revision, ignore=[*ignored, "*.safetensors", "*.gguf"], what=what, fix=FIX)
    folder = snapshot(where, revision=revision, ignore=ignored, what=what, fix=FIX)
    if not any(folder.glob("*.safetensors")):  # an old model, which has its weights as pytorch_model.bin
        folder = snapshot(where, revision=revision, ignore=NOT_NEEDED, what=what, fix=FIX)
    return folder


def max_positions(config: Mapping[str, Any]) -> int:
    """The most tokens that a backbone of this config.json can tell apart by position."""
    positions = int(config.get("max_position_embeddings") or config.get("n_positions") or UNLIMITED)
    if positions <= first_position(config):
        raise ValueError(f"max_position_embeddings in its config.json is {positions}")
    return positions - first_position(config)


def first_position(config: Mapping[str, Any]) -> int:
    """The position of a text's first token: 0, or the one after the pad id in RoBERTa and its like."""
    if config["model_type"] not in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        return 0
    padding = 1 if config["model_type"] == "mpnet" else config.get("pad_token_id")  # MPNet's is fixed in its code
    return 1 + (1 if padding is None else int(padding))


@contextmanager
def explained(source: str, option: str = "model") -> Iterator[None]:
    """Turn a loader's failure into an error that names the source, the option that it comes from, and the fix."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # each loader has its own for a file that somebody else wrote; tokenizers panic
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])[:160]
        field = re.search(r"Field '(\w+)' expected (.+), got \w+ \(value: (.*)\)", reason)
        if field:  # of a config.json, by the schemas of transformers
            reason = f"{field[1]} in its config.json is {field[3]}, which is not of type {field[2]}"
        elif isinstance(error, pickle.UnpicklingError):  # whose text tells how to run what the pickle holds
            reason = "its weights are a pickle that holds more than tensors, which could run code"
        elif not isinstance(error, _SAID) and type(error) is not Exception:
            reason = f"its settings or its tokenizer are damaged ({type(error).__name__}: {reason})"
        if "ignore_mismatched_sizes" in reason:  # the sizes are in a table that transformers prints
            reason = "the weights of its file have other sizes than its config.json says"
        fix = INCOMPLETE if Path(source).expanduser().is_dir() else FIX
        raise UserError(f"{option} {source!r} cannot be loaded: {reason}\nfix: {fix}") from error
