"""Commands are killed at random moments: afterwards the same command, or --resume, gives what an unbroken run gives."""

from __future__ import annotations

import random
import signal

import pytest

from tests.forks import Forks
from tests.test_fault_injection import COMMANDS, TRAIN, content, place, prepared

__all__ = ["place"]  # the fixture
KILLS = 6  # of each command; there are ten commands

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def forks():
    with Forks() as made:
        yield made


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_and_run_again(name, place, forks, tmp_path):
    line, out = COMMANDS[name]
    draw = random.Random(f"kills of {name}")
    whole = tmp_path / "here"
    prepared(place, whole)
    code, seconds = forks.run(line, whole, tmp_path / "cache")
    assert code == 0
    want = content(whole / out)
    assert want
    killed = 0
    for attempt in range(5 * KILLS):
        prepared(place, whole)  # at the same path, which results name
        others, cache = content(whole), tmp_path / f"cache{attempt}"
        code, _ = forks.run(line, whole, cache, seconds * draw.random())
        if code != -signal.SIGKILL:
            assert code == 0
            continue
        killed += 1
        assert {key: value for key, value in content(whole).items() if key in others} == others
        begun = line == TRAIN and (whole / "out" / "recipe.yaml").exists()
        code, seconds_again = forks.run(["train", "--resume", "out"] if begun else line, whole, cache)
        assert code == 0
        assert content(whole / out) == want, f"kill {attempt} of {name}"
        seconds = max(seconds_again, 0.01) if not begun else seconds
        if killed == KILLS:
            break
    assert killed == KILLS
