"""Before a folder is published: does it give the run's vectors, on a machine that has neither cse nor a network?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.encoder.layout import Layout
from cse.encoder.provenance import check_sums
from cse.errors import UserError
from cse.publish.card.usage import adapter_code, drops_pooler, read_published, transformers_code
from cse.publish.scan import SECRET_NAMES, scan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cse.publish.adapter import Adapter

TOLERANCE = 1e-6  # of a vector's length where that is above 1
TEXTS = (  # of several lengths, and one that is cut
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
    """What was found to be in order.

    Attributes:
        files: What would be uploaded, and each one's size in bytes.
        weights: sha256 of each weights file that the folder's record names, as recorded and as found.
        difference: By loader, the largest difference of a coordinate from the run's vectors, in units of the vector's
            length where that is above 1.
        dimensions: D.
        code: Whether loading runs the folder's own code.
        versions: Of the libraries that loaded it.
        needs: What it takes to load it.
    """

    files: dict[str, int]
    weights: dict[str, str]
    difference: dict[str, float]
    dimensions: int
    code: bool
    versions: dict[str, str]
    needs: str

    def lines(self) -> list[str]:
        """The report in words, a line each."""
        size = sum(self.files.values()) / 1e6
        loaders = ", ".join(f"{name} (off by {value:.1e})" for name, value in self.difference.items())
        return [
            f"{len(self.files)} files, {size:,.1f} MB: no training state, no secrets, no local paths",
            f"the run's vectors, {self.dimensions} numbers each, in {loaders}",
            self.needs,
        ]


def verify(folder: Path, *, against: Path) -> Report:
    """Check a folder that is to be published.

    It is scanned (`cse.publish.scan`), its weights are hashed, and a process of its own, without network, cse, or any
    cache, loads it with sentence-transformers and with the code that the card shows for transformers alone. Where the
    folder keeps fewer dimensions than the run, those are compared.

    Args:
        folder: As `cse.publish.stage.stage` makes it.
        against: The run's checkpoint that it was made from.

    Raises:
        UserError: Something is wrong; the message names the file and the reason.
    """
    layout = read_published(folder)
    code = transformers_code(layout, str(folder.resolve()), local=True)
    needs = "needs trust_remote_code=True" if layout.needs_code else "needs no code of its own"
    spec = {"code": code, "by": "transformers", "whole": True}
    return _verify(folder, against, layout, spec, needs)


def verify_adapter(folder: Path, adapter: Adapter) -> Report:
    """Check an adapter's folder in the same way, by the card's code with peft, on this machine's copy of the backbone.

    Raises:
        UserError: Something is wrong; the message names the file and the reason.
    """
    layout = read_published(adapter.checkpoint)
    code = adapter_code(layout, str(folder.resolve()), str(adapter.folder.resolve()))
    needs = f"needs peft and the backbone {adapter.base}" + (f" as of {adapter.revision}" if adapter.revision else "")
    if not adapter.known:
        needs += f"; verified on {adapter.folder}, which was not compared with what the Hub holds under that name"
    return _verify(folder, adapter.checkpoint, layout, {"code": code, "by": "peft", "whole": False}, needs)


def _verify(folder: Path, against: Path, layout: Layout, spec: dict[str, Any], needs: str) -> Report:
    import numpy as np

    from cse.encoder.model import Encoder

    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in scan(folder)}
    check_sums(against)
    weights = check_sums(folder)
    spec |= {"trust": layout.needs_code, "drops_pooler": drops_pooler(layout)}
    with tempfile.TemporaryDirectory(prefix="cse-verify-") as scratch:
        about = _load_elsewhere(folder, spec, Path(scratch))
        found = {path.stem: np.load(path) for path in sorted(Path(scratch).glob("*.npy"))}
    _check_keys(about)
    want = Encoder.load(str(against)).encode(list(TEXTS))
    difference = {loader: compare(*_as_many(vectors, want, layout), loader) for loader, vectors in found.items()}
    return Report(files, weights, difference, layout.dim, layout.needs_code, about["versions"], needs)


def compare(found: NDArray[np.floating], want: NDArray[np.floating], loader: str) -> float:
    """The largest difference of a coordinate, in units of the vector's length where that is above 1.

    Raises:
        UserError: It is above 1e-6, or there are other shapes or numbers that are not finite.
    """
    import numpy as np

    if found.shape != want.shape:
        raise UserError(
            f"{loader} makes vectors of {found.shape[1]} numbers of the folder, and the run has {want.shape[1]}\n"
            "fix: stage the folder again from this run"
        )
    scale = np.maximum(1.0, np.linalg.norm(want.astype(np.float64), axis=1, keepdims=True))  # (n, 1)
    off = np.abs(found.astype(np.float64) - want) / scale
    worst = float(off.max())
    if not worst <= TOLERANCE:  # nan too
        text = TEXTS[int(off.max(1).argmax())] if len(want) == len(TEXTS) else ""
        raise UserError(
            f"{loader} does not give the run's vectors: off by {worst:.1e} for {text[:40]!r}, and {TOLERANCE:.0e} is "
            "allowed\n"
            "fix: stage the folder again from this run; modules.json and config.json say how it is loaded"
        )
    return worst


def _as_many(
    found: NDArray[np.floating], want: NDArray[np.floating], layout: Layout
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Both vectors, the run's in as many dimensions as the folder keeps.

    Where those have unit length again, they are brought back to what the run's have left of theirs: a vector with
    little in its first dimensions would else show rounding, scaled up, as a difference.
    """
    import numpy as np

    if layout.dim >= want.shape[1]:
        return found, want
    want = want[:, : layout.dim]
    unit = bool(layout.post) and layout.post[-1].dense is None
    return (found * np.linalg.norm(want, axis=1, keepdims=True) if unit else found), want


def _load_elsewhere(folder: Path, spec: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run the child; what it prints at last."""
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
            f"folder {folder} does not load without cse and network: {reason[:300]}\n"
            "fix: stage it again from the run's checkpoint"
        )
    about: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return about


def _names_error(line: str) -> bool:
    """Whether a line of a traceback is its last: Kind: reason."""
    kind = line.partition(":")[0]
    return kind.replace(".", "").replace("_", "").isalnum() and kind.endswith(("Error", "Exception"))


def _environment(scratch: Path) -> dict[str, str]:
    """This process's, without its secrets, caches and accelerators."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and not SECRET_NAMES.search(k)}
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
        "missing": "lacks {}, which config.json asks for",
        "unexpected": "holds {}, which the model does not read: a head of training?",
    }
    for key, text in said.items():
        names = about[key]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        if names:
            raise UserError(f"model.safetensors {text.format(names[0] + more)}\nfix: save the checkpoint with cse")
