"""Files beside the model in a checkpoint: the sha256 of its weights, the license and notice of its backbone."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from cse.errors import UserError
from cse.files import sha256_file

SUMS = "weights.sha256"
ADAPTER = "adapter"  # of a LoRA run, beside the merged weights; loaders of transformers and peft look in the root only
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
NOTICES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


def write_sums(out: Path) -> None:
    """Write the sha256 of every weights file, in the format of `sha256sum`."""
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.safetensors"))
    (out / SUMS).write_text("".join(f"{sha256_file(out / file)}  {file}\n" for file in files), encoding="utf-8")


def check_sums(folder: Path) -> dict[str, str]:
    """Compare each weights file with the folder's record; returns the sha256 of each, {} if there is no record.

    The adapter may be missing, since only a checkpoint without its backbone is loaded from it.

    Raises:
        UserError: A file is missing or differs from what was saved, or the record is damaged.
    """
    record = folder / SUMS
    if not record.is_file():
        return {}
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines if line]
    sums = {line[2]: line[1] for line in found if line}
    if len(sums) < len(found) or (not sums and any(folder.rglob("*.safetensors"))):
        raise UserError(
            f"checkpoint {folder}: its {SUMS} is damaged\n"
            f"fix: copy the checkpoint again; if its weights are what you want, remove {SUMS}"
        )
    for name, expected in sums.items():
        if name.startswith(f"{ADAPTER}/") and not (folder / name).is_file():
            continue
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} lacks {name}, which its {SUMS} names\nfix: save or copy it again")
        actual = sha256_file(folder / name)
        if actual != expected:
            raise UserError(
                f"checkpoint {folder}: {name} is damaged or changed: its sha256 is {actual[:16]}..., "
                f"and {SUMS} says {expected[:16]}...\n"
                f"fix: copy the checkpoint again; if you changed the weights on purpose, remove {SUMS}"
            )
    return sums


def weights_sum(folder: Path) -> str:
    """The sha256 of all weights of a model, whose own record is checked, for a checkpoint that names this model.

    Raises:
        UserError: The weights differ from the folder's record.
    """
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in {".safetensors", ".bin"})
    sums = check_sums(folder) or {file: sha256_file(folder / file) for file in files}
    whole = {file: digest for file, digest in sums.items() if not file.startswith(f"{ADAPTER}/")}
    lines = [f"{digest}  {file}\n" for file, digest in sorted((whole or sums).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def copy_notices(backbone: Path, out: Path) -> None:
    """Copy the license and the notice of a backbone's folder, unless the checkpoint has its own."""
    for name in NOTICES:
        if (backbone / name).is_file() and not (out / name).exists():
            shutil.copyfile(backbone / name, out / name)
