"""What travels with a checkpoint beside the model: its weights' sha256, its backbone's licence and notice."""

from __future__ import annotations

import shutil
from pathlib import Path

from cse.errors import UserError
from cse.files import sha256_file

SUMS = "weights.sha256"
NOTICES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


def write_sums(out: Path) -> None:
    """Write what the weights must hash to, in the format of `sha256sum`."""
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.safetensors"))
    (out / SUMS).write_text("".join(f"{sha256_file(out / file)}  {file}\n" for file in files), encoding="utf-8")


def check_sums(folder: Path) -> dict[str, str]:
    """The sha256 of each weights file that the folder's record names, after comparing; {} where there is no record.

    Raises:
        UserError: A file is missing or is not what was saved.
    """
    record = folder / SUMS
    if not record.is_file():
        return {}
    sums = {}
    for line in filter(None, record.read_text(encoding="utf-8").splitlines()):
        sums[line[66:]] = line[:64]
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} lacks {name}, which its {SUMS} names\nfix: save or copy it again")
        found = sha256_file(folder / name)
        if found != expected:
            raise UserError(
                f"checkpoint {folder}: {name} is damaged or changed: its sha256 is {found[:16]}..., "
                f"and {SUMS} says {expected[:16]}...\n"
                f"fix: copy the checkpoint again; if you changed the weights on purpose, remove {SUMS}"
            )
    return sums


def copy_notices(source: str, out: Path) -> None:
    """The backbone's licence and notice, where it lies on this machine with them."""
    from cse.encoder.backbone import locate

    try:
        folder = Path(locate(source))
    except UserError:  # it was moved since it was loaded
        return
    for name in NOTICES:
        if (folder / name).is_file() and not (out / name).exists():
            shutil.copyfile(folder / name, out / name)
