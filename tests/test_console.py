"""Lines and progress, on a terminal and elsewhere; versions of what is installed."""

import math
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from cse import UserError, console, environment
from cse.errors import require_at_least, require_positive, require_within


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_a_line_now_and_then(capsys, clock):
    with console.progress("encoded", 1000) as advance:
        for seconds, done in [(0, 100), (4, 300), (6, 500), (5, 700), (9, 1000)]:
            clock[0] += seconds
            advance(done, "note")
    assert capsys.readouterr().out.splitlines() == [
        "encoded    100/1,000  note",
        "encoded    500/1,000  40.0 per s  12 s left  note",  # 400 in 10 s
    ]


def test_a_terminal_has_a_bar_and_keeps_the_lines():
    pty = pytest.importorskip("pty")
    code = """
from cse.console import progress, say
with progress("training", 4) as advance:
    advance(1, "loss [0.5]")
    say("step", "1")
    advance(4)
"""
    parent, child = pty.openpty()
    environ = {**os.environ, "TERM": "xterm"}
    process = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=child, check=True, text=True, env=environ
    )
    os.close(child)
    shown = os.read(parent, 100_000).decode()
    assert process.stdout == "step       1\n"  # to the pipe, whatever the bar does
    assert "training" in shown
    assert "4/4" in shown


def test_versions_name_what_is_installed():
    found = environment.versions(("torch", "no-such-distribution"))
    assert found == {
        "python": found["python"],
        "cse": environment.cse_version(),
        "torch": version("torch"),
    }
    assert found["cse"][0].isdigit()


@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan])
def test_not_positive(value):
    with pytest.raises(UserError) as error:
        require_positive("objective", margin=1.0, temperature=value, scale=None)
    assert str(error.value) == f"objective.temperature is {value}\nfix: give a number > 0"


def test_below_the_minimum():
    require_at_least(2, "collator", views=2, max_length=None)
    for value in (1, 1.99, math.nan):
        with pytest.raises(UserError) as error:
            require_at_least(2, "collator", views=value)
        assert str(error.value) == f"collator.views is {value}\nfix: give a number >= 2"


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1)", [0.5, 1e-9], [0, 1, math.nan]),
        ("(0, 1]", [1], [0, 1.1]),
        ("[0, 1)", [0], [-0.1, 1, math.inf]),
        ("[-1, 1]", [-1, 1], [-1.1, 1.1]),
    ],
)
def test_outside_an_interval(interval, inside, outside):
    for value in inside:
        require_within(interval, "encoder", dropout=value, other=None)
    for value in outside:
        with pytest.raises(UserError) as error:
            require_within(interval, "encoder", dropout=value)
        assert str(error.value) == f"encoder.dropout is {value}\nfix: give a number in {interval}"
