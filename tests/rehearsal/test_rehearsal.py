"""Every recipe and command on a CUDA device that computes on the CPU, and how often the host waits for it in a step.

The rehearsal is a process of its own, in halves, so that two workers share it. It takes a CPU build of torch and g++.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rehearsal import guard

ROOT = Path(__file__).parents[2]
PARTS = 2
pytestmark = [
    pytest.mark.skipif(bool(guard.missing()), reason=guard.missing()),
    pytest.mark.xdist_group("rehearsal"),
]

# A step waits once, for loss, norm and metrics. These wait more often:
MORE = {
    **dict.fromkeys(("simcse-held", "ensemble", "lwf"), 1.5),  # the first of two steps asks whether the bias has begun
    "sub-sentence": 2,  # the number of propositions of all processes
    "whitenedcse": 3,  # two decompositions, which torch checks
}


def rehearsed(folder: Path, part: int) -> dict:
    out = folder / f"{part}.json"
    run = subprocess.run(
        [sys.executable, "-m", "tests.rehearsal", str(out), f"{part}/{PARTS}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.exists(), run.stderr[-2000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_recipes_and_commands_run_on_cuda_and_a_step_waits_once(part, tmp_path):
    found = rehearsed(tmp_path, part)
    assert len(found) > 50
    assert {name: one["error"] for name, one in found.items() if one["error"]} == {}
    assert {name: one["copies"] for name, one in found.items() if one["copies"]} == {}
    waits = {name: sum(one["waits"].values()) for name, one in found.items()}
    assert {name: found[name]["waits"] for name, count in waits.items() if count > MORE.get(name, 1)} == {}
