"""`python -m eval postprocess`: what the linear maps of `cse whiten --method` do for an encoder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cse.api.models import compare, evaluate
from cse.console import say
from cse.errors import UserError
from cse.files import write_json
from cse.inference.whiten import Method, whiten_checkpoint

WAYS: dict[str, dict[str, Any]] = {
    "whiten": {"method": "whiten"},
    "whiten to 128": {"method": "whiten", "k": 128},
    "clip": {"method": "clip"},
    "all-but-the-top": {"method": "all-but-the-top"},
    "all-but-the-top, 8": {"method": "all-but-the-top", "components": 8},
}


def measure(checkpoint: str, tasks: str, data: str | None, texts: str, out: Path, note: str = "") -> dict[str, Any]:
    """Score an encoder before and after each way, fitted on texts, and write the differences to a file.

    Args:
        checkpoint: The encoder.
        tasks: STS tasks, separated by commas.
        data: The folder with their rows.
        texts: A file of texts to fit on, of which none is scored.
        out: The JSON file.
        note: The conditions, kept in the file.
    """
    scoring: dict[str, Any] = {"data": data, "precision": "fp32", "device": "cpu"}
    before = evaluate(checkpoint, tasks, **scoring)
    found: dict[str, Any] = {"note": note, "before": before.scores, "after": {}}
    with tempfile.TemporaryDirectory(prefix="cse-postprocess-") as scratch:
        for number, (name, options) in enumerate(WAYS.items()):
            folder, more = Path(scratch) / str(number), dict(options)
            method: Method = more.pop("method")
            try:
                whiten_checkpoint(
                    checkpoint, texts, ["text"], more.pop("k", None), folder, method=method, device="cpu", **more
                )
            except UserError as error:
                found["after"][name] = {"refused": str(error).splitlines()[0]}
                continue
            after = evaluate(folder, tasks, **scoring)
            changes = compare(before, after)
            about = {task: [d.b - d.a, *d.interval, d.verdict] for task, d in changes.items()}
            found["after"][name] = {"scores": after.scores, "changes": about}
            say(name, str(about))
    write_json(out, found)
    return found
