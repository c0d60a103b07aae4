"""Verifies that a staged folder has no secret, and gives the run's vectors on a machine without cse and network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.encoder.checkpoint.layout import Layout
from cse.encoder.checkpoint.sums import check_sums, read_header
from cse.environment import is_secret, secrets
from cse.errors import UserError
from cse.publish.card.usage import adapter_code, drops_pooler, read_published, transformers_code

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cse.publish.stage import Adapter

VOCABULARY = frozenset({"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"})  # whose entries may look like paths
HOMES = r"(?<![\w.:/-])/(?:home|Users|root|tmp|var/folders|mnt|scratch)/[\w.-]+|(?<!\w)[A-Za-z]:\\+Users\\"
TOLERANCE = 1e-6  # per coordinate; times the length of the vector if that is above 1
TEXTS = (  # several lengths, and one text that is longer than max_length
    "Yes.",
    "A cat sat on the mat.",
    "The committee will meet on 14 March 2025 to vote on the new budget, won't it?",
    "Zoë's naïve café review: “not bad”, 4½ stars!",
    "THE SUN SETS LATE IN JUNE",
    " ".join(["Heavy rain closed two of the three roads into the valley, and the school sent everyone home."] * 5),
    " ".join(["the river runs past the old mill and on to the sea"] * 60),
)


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about a folder that passed."""

    files: dict[str, int]  # the sizes of the files to upload in bytes, by path
    # the largest difference of a coordinate from the run's vectors, by loader; divided by the length of the vector if
    # that is above 1
    difference: dict[str, float]
    dimensions: int
    needs: str  # what loading the folder needs, in words

    def lines(self) -> list[str]:
        """The report in words, one line for each finding."""
        size = sum(self.files.values()) / 1e6
        loaders = ", ".join(f"{name} (within {value:.1e})" for name, value in self.difference.items())
        return [
            f"{len(self.files)} files, {size:,.1f} MB: no training state, no secrets, no local paths",
            f"the vectors of the run ({self.dimensions} dimensions) in {loaders}",
            self.needs,
        ]


def verify(folder: Path, *, against: Path, dimensions: int | None = None) -> Report:
    """Check a folder that `cse.publish.stage.stage` wrote of the checkpoint `against`, and that has its card.

    The folder is scanned and its weights are hashed. Then a separate process without network, cse or any cache loads it
    with sentence-transformers, and with the code that the card shows for plain transformers.

    Raises:
        UserError: The folder does not pass; the message names the file and the reason.
    """
    layout = read_published(folder)
    code = transformers_code(layout, str(folder.resolve()), local=True)
    needs = "needs trust_remote_code=True" if layout.needs_code else "needs no code from the folder"
    spec = {"code": code, "by": "transformers", "whole": True}
    return _verify(folder, against, layout, spec, needs, dimensions)


def verify_adapter(folder: Path, adapter: Adapter) -> Report:
    """Check the folder of an adapter likewise, with the card's code for peft and the backbone on this machine."""
    layout = read_published(adapter.checkpoint, whole=False)
    code = adapter_code(layout, str(folder.resolve()), str(adapter.folder.resolve()))
    needs = f"needs peft and the backbone {adapter.base}" + (
        f" at commit {adapter.revision}" if adapter.revision else ""
    )
    if not adapter.known:
        needs += f"; verified with {adapter.folder}, which was not compared with the model of that name on the Hub"
    return _verify(folder, adapter.checkpoint, layout, {"code": code, "by": "peft", "whole": False}, needs)


def _verify(
    folder: Path, against: Path, layout: Layout, spec: dict[str, Any], needs: str, dimensions: int | None = None
) -> Report:
    import numpy as np

    from cse.encoder.model import Encoder

    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in scan(folder)}
    check_sums(against)
    check_sums(folder)
    spec |= {"trust": layout.needs_code, "drops_pooler": drops_pooler(layout)}
    with tempfile.TemporaryDirectory(prefix="cse-verify-") as scratch:
        about = _load_elsewhere(folder, spec, Path(scratch))
        found = {path.stem: np.load(path) for path in sorted(Path(scratch).glob("*.npy"))}
    _check_keys(about)
    want = Encoder.load(str(against)).encode(list(TEXTS), dimensions=dimensions)
    difference = {loader: compare(vectors, want, loader) for loader, vectors in found.items()}
    return Report(files, difference, layout.dim, needs)


def compare(found: NDArray[np.floating], want: NDArray[np.floating], loader: str) -> float:
    """The largest difference of a coordinate, divided by the length of the vector if that is above 1.

    Raises:
        UserError: The difference is above 1e-6 or not finite, or the shapes differ.
    """
    import numpy as np

    if found.shape != want.shape:
        raise UserError(
            f"{loader} gives vectors of {found.shape[1]} dimensions, but those of the run have {want.shape[1]}\n"
            "fix: stage the folder again from this run"
        )
    scale = np.maximum(1.0, np.linalg.norm(want.astype(np.float64), axis=1, keepdims=True))  # (n, 1)
    off = np.abs(found.astype(np.float64) - want) / scale
    worst = float(off.max())
    if not worst <= TOLERANCE:  # true for nan as well
        text = TEXTS[int(off.max(1).argmax())] if len(want) == len(TEXTS) else ""
        raise UserError(
            f"{loader} does not give the vectors of the run: they differ by {worst:.1e} for {text[:40]!r}, and "
            f"{TOLERANCE:.0e} is allowed\n"
            "fix: stage the folder again from this run; modules.json and config.json define how it is loaded"
        )
    return worst


def _load_elsewhere(folder: Path, spec: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run verify_child.py in a separate process; return the JSON that it prints last."""
    spec = spec | {"folder": str(folder.resolve()), "texts": TEXTS, "out": str(scratch)}
    (scratch / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    script = shutil.copyfile(Path(__file__).with_name("verify_child.py"), scratch / "child.py")
    command = [sys.executable, str(script), str(scratch / "spec.json")]
    done = subprocess.run(
        command, cwd=scratch, env=_environment(scratch), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        reason = next((line for line in reversed(said) if _names_error(line)), said[-1])
        raise UserError(
            f"folder {folder} cannot be loaded without cse and network: {reason[:300]}\n"
            "fix: stage it again from the checkpoint of the run"
        )
    about: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return about


def _names_error(line: str) -> bool:
    """Tell whether a line has the form of the last line of a traceback, `Kind: reason`."""
    kind = line.partition(":")[0]
    return kind.replace(".", "").replace("_", "").isalnum() and kind.endswith(("Error", "Exception"))


def _environment(scratch: Path) -> dict[str, str]:
    """The environment of this process, without its secrets, caches and accelerators."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and not is_secret(k)}
    return kept | {
        "HF_HOME": str(scratch / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _check_keys(about: Mapping[str, Any]) -> None:
    """Refuse weights that are missing or that the backbone does not read."""
    said = {
        "missing": "lacks {}, which config.json requires",
        "unexpected": "contains {}, which the model does not read; it may be a training-only head",
    }
    for key, text in said.items():
        names = about[key]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        if names:
            raise UserError(f"model.safetensors {text.format(names[0] + more)}\nfix: save the checkpoint with cse")


def scan(folder: Path) -> list[Path]:
    """Look for secrets and paths of this machine in every file of a folder, and return the paths of the files.

    Raises:
        UserError: A file has one; the message names it and the line, and never quotes a secret.
    """
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    files.sort(key=lambda path: path.name == "README.md")  # the last, since what it has may be quoted from another
    patterns, paths = secrets(), _paths()
    for path in files:
        name = path.relative_to(folder).as_posix()
        text = _text(path, name)
        for number, what in _found(text, patterns):
            raise UserError(f"{name}:{number} contains {what}\nfix: remove it, and revoke it if it was ever shared")
        for number, what in _found(text, paths["own"] if path.name in VOCABULARY else paths["any"]):
            raise UserError(f"{name}:{number} contains {what}\nfix: remove it; it is useless on another machine")
    return files


def _text(path: Path, name: str) -> str:
    """The text of a file; for safetensors, the metadata in its header."""
    try:
        if path.suffix == ".safetensors":
            return json.dumps(read_header(path).get("__metadata__") or {})
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name} is neither a text file nor weights in safetensors\nfix: remove it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is damaged: {str(error)[:120]}\nfix: save the checkpoint again") from None


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
