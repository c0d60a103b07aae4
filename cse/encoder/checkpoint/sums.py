"""Files beside the model in a checkpoint: the sha256 of each, the license and notice of its backbone."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from cse.encoder.checkpoint.layout import ADAPTER
from cse.errors import UserError
from cse.files import read_json, sha256_file

SUMS, OLD_SUMS = "checkpoint.sha256", "weights.sha256"
LONGEST = 100_000_000  # bytes of a header of safetensors, as its own reader has it
NOTICES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


def write_sums(out: Path) -> None:
    """Write the sha256 of every file but the notices, in the format of `sha256sum`."""
    (out / OLD_SUMS).unlink(missing_ok=True)
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    files = [name for name in names if name not in {SUMS, *NOTICES}]
    (out / SUMS).write_text("".join(f"{sha256_file(out / file)}  {file}\n" for file in files), encoding="utf-8")


def check_sums(folder: Path) -> dict[str, str]:
    """Compare each file with the folder's record; returns the sha256 of each, {} if there is no record.

    The adapter may be missing, since only a checkpoint without its backbone is loaded from it. cse 0.1.0 recorded the
    weights alone, under another name.
    """
    record = next((folder / name for name in (SUMS, OLD_SUMS) if (folder / name).is_file()), None)
    if record is None:
        return {}
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines if line]
    sums = {line[2]: line[1] for line in found if line}
    if len(sums) < len(found) or (not sums and any(folder.rglob("*.safetensors"))):
        raise UserError(
            f"checkpoint {folder}: its {record.name} is damaged\n"
            f"fix: copy the checkpoint again; if its files are what you want, remove {record.name}"
        )
    for name, expected in sums.items():
        if name.startswith(f"{ADAPTER}/") and not (folder / name).is_file():
            continue
        if not (folder / name).is_file():
            raise UserError(
                f"checkpoint {folder} lacks {name}, which its {record.name} names\nfix: save or copy it again"
            )
        actual = sha256_file(folder / name)
        if actual != expected:
            raise UserError(
                f"checkpoint {folder}: {name} is damaged or changed: its sha256 is {actual[:16]}..., "
                f"and {record.name} says {expected[:16]}...\n"
                f"fix: copy the checkpoint again; if you changed the file on purpose, remove {record.name}"
            )
    return sums


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype and shape of each tensor by its name, and `__metadata__`."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size < LONGEST:
            raise ValueError(f"its header claims a length of {size} bytes")
        header = json.loads(stream.read(size))
    if not isinstance(header, dict) or not all(isinstance(each, dict) for each in header.values()):
        raise ValueError("its header is not a mapping of tensors")
    return header


def check_weights(folder: Path, *, quantized: bool = False) -> int:
    """Read the headers of the weights in a folder; returns how many tensors they hold, 0 without safetensors.

    Raises:
        OSError, ValueError: A header is damaged, an index names files elsewhere, or weights are integers and not
            `quantized`.
    """
    for index in folder.glob("*.index.json"):
        named = read_json(index)["weight_map"].values()
        if strange := [str(name) for name in named if not isinstance(name, str) or Path(name).name != name]:
            raise ValueError(f"{index.name} names {strange[0]}, which is outside of the folder")
    tensors = [each for file in sorted(folder.glob("*.safetensors")) for each in read_header(file).items()]
    for name, about in tensors:
        if not quantized and name.endswith(("weight", "bias")) and not str(about["dtype"]).startswith(("F", "BF")):
            raise ValueError(f"its weights {name} are of type {about['dtype']}, and weights are fractions")
    return len(tensors)


def weights_sum(folder: Path) -> str:
    """The sha256 of all weights of a model, whose own record is checked, for a checkpoint that names this model."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in {".safetensors", ".bin"})
    sums = check_sums(folder) or {file: sha256_file(folder / file) for file in files}
    sums = {file: digest for file, digest in sums.items() if file.endswith((".safetensors", ".bin"))}
    whole = {file: digest for file, digest in sums.items() if not file.startswith(f"{ADAPTER}/")}
    lines = [f"{digest}  {file}\n" for file, digest in sorted((whole or sums).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def copy_notices(backbone: Path, out: Path) -> None:
    """Copy the license and the notice of a backbone's folder, unless the checkpoint has its own."""
    for name in NOTICES:
        if (backbone / name).is_file() and not (out / name).exists():
            shutil.copyfile(backbone / name, out / name)
