"""Refuses what must not be published: training state, weights that can run code, secrets, paths of this machine."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cse.encoder.checkpoint.layout import Layout, is_checkpoint
from cse.encoder.checkpoint.sums import read_header
from cse.environment import secrets
from cse.errors import UserError

BINARY = frozenset({".safetensors", ".onnx", ".onnx_data", ".model", ".png", ".jpg", ".jpeg", ".gif", ".webp"})
PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".msgpack", ".npz", ".npy"})
TRAINING = re.compile(r"(optimizer|scheduler|scaler|rng_state|random_states|trainer_state|training_args|state)\b", re.I)
VOCABULARY = frozenset({"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"})  # whose entries may look like paths
HIDDEN = frozenset({".gitattributes"})
LORA = re.compile(r"base_model\.model\..+\.lora_(embedding_)?[AB](\.weight)?")  # as peft names it in an adapter
HOMES = r"(?<![\w.:/-])/(?:home|Users|root|tmp|var/folders|mnt|scratch)/[\w.-]+|(?<!\w)[A-Za-z]:\\+Users\\"


def scan(folder: Path) -> list[Path]:
    """Check every file of a folder, and return their paths.

    Raises:
        UserError: A file must not be published; the message names it and the reason, and never quotes a secret.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    files.sort(key=lambda path: path.name == "README.md")  # the last, since what it has may be quoted from another
    patterns, paths = secrets(), _paths()
    for path in files:
        name = path.relative_to(folder).as_posix()
        _check_name(path, name)
        text = _text(path, name)
        for number, what in _found(text, patterns):
            raise UserError(f"{name}:{number} contains {what}\nfix: remove it, and revoke it if it was ever shared")
        for number, what in _found(text, paths["own"] if path.name in VOCABULARY else paths["any"]):
            raise UserError(f"{name}:{number} contains {what}\nfix: remove it; it is useless on another machine")
    _check_weights(folder, files)
    return files


def _check_name(path: Path, name: str) -> None:
    parts = Path(name).parts
    if path.is_symlink():
        raise UserError(f"{name} is a symbolic link\nfix: replace it by the file itself, or remove it")
    if any(part.startswith(".") for part in parts) and path.name not in HIDDEN:
        raise UserError(f"{name} is a hidden file, which a model does not need\nfix: remove it")
    if TRAINING.match(path.name) or "state" in parts[:-1]:
        raise UserError(f"{name} is training state, which a published model does not need\nfix: remove it")
    if path.suffix.lower() in PICKLED:
        raise UserError(
            f"{name} is not in safetensors: files of its format can run code when they are read\nfix: remove it"
        )


def _text(path: Path, name: str) -> str:
    """The text of a file; for safetensors, the metadata in its header."""
    if path.suffix.lower() == ".safetensors":
        return _header(path, name)[1]
    if path.suffix.lower() in BINARY:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name} is neither a text file nor weights in safetensors\nfix: remove it") from None


def _header(path: Path, name: str) -> tuple[list[str], str]:
    """The names of the tensors in a safetensors file, and its metadata as JSON."""
    try:
        header = read_header(path)
        return [key for key in header if key != "__metadata__"], json.dumps(header.get("__metadata__") or {})
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is damaged: {str(error)[:120]}\nfix: save the checkpoint again") from None


def _check_weights(folder: Path, files: list[Path]) -> None:
    """Refuse weights that no module of the model reads, and tensors of an optimizer or of an unmerged LoRA."""
    if not is_checkpoint(folder):
        _check_adapter(folder, files)
        return
    known = {Path(module.path) for module in Layout.read(folder).modules} | {Path()}
    for path in files:
        name = path.relative_to(folder)
        if path.suffix != ".safetensors":
            continue
        if name.parent not in known:
            raise UserError(
                f"{name} belongs to no module in modules.json; it may be a training-only head\nfix: remove it"
            )
        for tensor in _header(path, str(name))[0]:
            if re.search(r"lora_[AB]|\.base_layer\.|exp_avg|momentum_buffer", tensor):
                raise UserError(
                    f"{name} contains {tensor}, which is only used in training\nfix: save the checkpoint with cse"
                )


def _check_adapter(folder: Path, files: list[Path]) -> None:
    """Refuse weights that do not belong to a LoRA adapter."""
    for path in (path for path in files if path.suffix == ".safetensors"):
        name = path.relative_to(folder).as_posix()
        strange = [tensor for tensor in _header(path, name)[0] if not LORA.fullmatch(tensor)]
        if name != "adapter_model.safetensors" or strange:
            what = f"{name} contains {strange[0]}, which does" if strange else f"{name} does"
            raise UserError(f"{what} not belong to a LoRA adapter\nfix: save the checkpoint with cse")


def _paths() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Patterns of this machine's folders (`own`), and of these and any machine's home folders (`any`)."""
    own = {Path.cwd(), Path.home(), Path(tempfile.gettempdir())}
    names = "|".join(re.escape(str(path)) for path in sorted(own) if len(path.parts) > 1)
    exact = [("a path of this machine", re.compile(rf"(?<![\w.:/-])(?:{names})/[\w.-]"))] if names else []
    return {"own": exact, "any": [*exact, ("a local path", re.compile(HOMES))]}


def _found(text: str, patterns: list[tuple[str, re.Pattern[str]]]) -> Iterator[tuple[int, str]]:
    for what, pattern in patterns:
        if match := pattern.search(text):
            yield text.count("\n", 0, match.start()) + 1, what
