"""Commands are killed at random moments: afterwards the same command, or --resume, gives what an unbroken run gives."""

import contextlib
import copy
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cse.encoder.model import Encoder
from tests.forks import Forks
from tests.publish.hub_server import HubServer, User
from tests.test_fault_injection import COMMANDS, PUSH, TRAIN, content, place, prepared
from tests.training.test_launch import children

__all__ = ["place"]  # the fixture
KILLS = 6  # of each command; of push, as many again at moments when it asks the Hub
BEGUN = {"train": "out/recipe.yaml", "search": "out/search.json"}  # what --resume needs
TOKEN = "hf_of_nobody"

SHARDS = "encode ck texts.txt --out out --shards 4 --save-every 4"
OFTEN = f"{TRAIN} --trainer.max_steps=12 --trainer.save_every=1"  # while a step is taken, a state is written
KILLED = {**COMMANDS, "encode in shards": (SHARDS, "out"), "train with a state a step": (OFTEN, "out")}
KILLS_OF_TWO = 4  # of each command of two processes: of the one that started them, and of one of them, in turn
OF_TWO = {
    "train": (f"{TRAIN} --trainer.max_steps=60 --resume auto --processes 2", "out"),
    "encode": ("encode ck texts.txt --out out --shards 4 --save-every 4 --processes 2", "out"),
    "mine": ("mine ck --data texts.txt --out out.parquet --processes 2", "out.parquet"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def forks():
    with Forks() as made:
        yield made


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_run_again(name, place, forks, tmp_path):
    line, out = KILLED[name][0].split(), KILLED[name][1]
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
        begun = line[0] in BEGUN and (whole / BEGUN[line[0]]).exists()
        code, seconds_again = forks.run([line[0], "--resume", "out"] if begun else line, whole, cache)
        assert code == 0
        assert content(whole / out) == want, f"kill {attempt} of {name}"
        seconds = max(seconds_again, 0.01) if not begun else seconds
        if killed == KILLS:
            break
    assert killed == KILLS


@pytest.mark.parametrize("name", OF_TWO)
def test_two_processes_of_which_one_is_killed_and_the_command_run_again(name, place, tmp_path):
    """Whoever is killed, the others end too, and the same command gives the bytes that it gives unbroken."""
    line, out = OF_TWO[name][0].split(), OF_TWO[name][1]
    draw, folder = random.Random(f"kills of two: {name}"), tmp_path / "here"
    prepared(place, folder)
    begun = time.monotonic()
    assert start_in(folder, *line).wait() == 0
    seconds, want = time.monotonic() - begun, content(folder / out)
    assert want
    killed = 0
    for kill in range(8 * KILLS_OF_TWO):
        prepared(place, folder)
        others = content(folder)
        job = start_in(folder, *line)
        workers = wait_for_children(job)
        time.sleep(seconds * draw.uniform(0.2, 0.9))  # imports take the first part
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            os.kill(workers[-1] if kill % 2 else job.pid, signal.SIGKILL)
        if job.wait() == 0:
            continue
        killed += 1
        deadline = time.monotonic() + 120
        while any(Path(f"/proc/{worker}/cmdline").exists() and alive(worker) for worker in workers):
            assert time.monotonic() < deadline, "a worker outlives the others"
            time.sleep(0.1)
        assert {key: value for key, value in content(folder).items() if key in others} == others
        assert start_in(folder, *line).wait() == 0
        assert content(folder / out) == want, f"kill {kill} of {name}"
        if killed == KILLS_OF_TWO:
            break
    assert killed == KILLS_OF_TWO


def start_in(folder, *line):
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "CSE_TRUSTED_MODULES": "tests", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "cse", *line],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_children(job):
    """The two processes that a command starts."""
    while len(found := children(job)) < 2:
        assert job.poll() is None
        time.sleep(0.01)
    return found


def alive(process):
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


class Struck(list):
    """The requests that a Hub had; the one with a number leaves a file, and waits for what the file brings."""

    def __init__(self, number, file):
        self.number, self.file = number, file

    def append(self, request):
        super().append(request)
        if len(self) == self.number:
            self.file.touch()
            time.sleep(0.1)


def test_a_push_that_is_killed_and_run_again(place, tiny_bert, tmp_path):
    """The Hub holds the earlier model or the new one; nothing of it is lost, and nothing half of it is there."""
    draw = random.Random("kills of push")
    folder = tmp_path / "here"
    prepared(place, folder)
    Encoder(tiny_bert, head="mlp", export_head=True).save(folder / "other")
    others = content(folder)
    with HubServer() as hub:
        hub.users[TOKEN] = User("me")
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        with Forks(HF_HOME=str(tmp_path / "hf"), TMPDIR=str(tmp_path), **environment) as forks:
            assert forks.run(["push", "other", *PUSH[2:]], folder, tmp_path)[0] == 0
            before = copy.deepcopy(hub.repositories)
            hub.requests.clear()
            code, seconds = forks.run(PUSH, folder, tmp_path)
            assert code == 0
            old, new = (repositories["me/name"].files() for repositories in (before, hub.repositories))
            assert old != new
            asked = draw.sample(range(1, len(hub.requests) + 1), KILLS)
            killed = 0
            for number, moment in [(n, None) for n in asked] + [(0, draw.random()) for _ in range(3 * KILLS)]:
                hub.repositories, struck = copy.deepcopy(before), tmp_path / f"struck{number}"
                hub.requests = Struck(number, struck)
                code, _ = forks.run(PUSH, folder, tmp_path, moment and seconds * moment, struck)
                assert code in {0, -signal.SIGKILL}
                assert hub.repositories["me/name"].files() in (old, new)
                assert content(folder) == others
                hub.requests = []
                assert code == 0 or forks.run(PUSH, folder, tmp_path)[0] == 0
                assert hub.repositories["me/name"].files() == new
                killed += code != 0
                if killed == 2 * KILLS:
                    break
    assert killed == 2 * KILLS
