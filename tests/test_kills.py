"""Commands are killed at random moments: afterwards the same command, or --resume, gives what an unbroken run gives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_fault_injection import COMMANDS, TRAIN, content, place, prepared

__all__ = ["place"]  # the fixture
KILLS = 7  # of each command; there are nine commands
KILLED = {**COMMANDS}

pytestmark = pytest.mark.slow


def command(line, folder, cache):
    """Start a command in a process of its own; it may write below `folder` and `cache` only."""
    script = "import sys; from cse import cli; sys.exit(cli.main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CSE_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *line],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(line, folder, cache):
    process = command(line, folder, cache)
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_run_again(name, place, tmp_path):
    line, out = KILLED[name]
    draw = random.Random(f"kills of {name}")
    whole = tmp_path / "here"
    prepared(place, whole)
    began = time.perf_counter()
    finished(line, whole, tmp_path / "cache-whole")
    seconds = time.perf_counter() - began
    want = content(whole / out)
    assert want
    killed = 0
    for kill in range(20):
        prepared(place, whole)  # at the same path, which results name
        others, cache = content(whole), tmp_path / f"cache{kill}"
        process = command(line, whole, cache)
        # Half of the time is imports, in which nothing can be lost.
        try:
            process.wait(timeout=seconds * draw.uniform(0.45, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            continue
        killed += 1
        assert {key: value for key, value in content(whole).items() if key in others} == others
        begun = line == TRAIN and Path(whole, "out", "recipe.yaml").exists()
        finished(["train", "--resume", "out"] if begun else line, whole, cache)
        assert content(whole / out) == want, f"kill {kill}"
        if killed == KILLS:
            break
    assert killed == KILLS
