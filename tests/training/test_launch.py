"""`--processes N`: one command, several processes."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from cse import UserError, cli
from cse.training import launch
from tests.runs import assert_same, command, metrics, triplets_recipe

ROOT = Path(__file__).resolve().parents[2]


LONG = {"max_steps": 5000, "eval_every": 2}  # of a run whose views do not depend on the number of processes


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "CSE_TRUSTED_MODULES": "tests", "OMP_NUM_THREADS": "1", **more}


def start(folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "cse", "train", *words, "--processes", "2"]
    return subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)


def at_step(job: subprocess.Popen, state: Path, step: int) -> None:
    """Wait until the job has saved this step."""
    while job.poll() is None and (not state.exists() or progress(state) < step):
        time.sleep(0.1)
    assert job.poll() is None, job.stderr.read()


def progress(state: Path) -> int:
    return int(json.loads(state.read_text())["progress"]["step"])


def children(job: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]


@pytest.mark.slow
def test_two_processes_train_one_run_which_a_signal_saves_and_the_same_command_continues(tiny_bert, tmp_path):
    """The losses of one process. The death of a process ends the other, and is named."""
    path, run = triplets_recipe(tmp_path, tiny_bert, trainer=LONG), tmp_path / "two"
    state = run / "state" / "state.json"
    assert cli.main(["train", path, "--run-dir", str(tmp_path / "one"), "--trainer.max_steps=2"]) == 0
    job = start(tmp_path, path, "--run-dir", "two", "--resume", "auto", "--trainer.schedule=constant")
    at_step(job, state, 2)
    one, two = (metrics(folder)[1]["loss"] for folder in (tmp_path / "one", run))
    job.send_signal(signal.SIGTERM)
    assert job.wait(600) == 128 + signal.SIGTERM, job.stderr.read()
    stopped = progress(state)

    again = start(tmp_path, path, "--run-dir", "two", "--resume", "auto", "--trainer.schedule=constant")
    at_step(again, state, stopped + 2)
    os.kill(children(again)[-1], signal.SIGKILL)
    assert again.wait(600) == 2  # trainer.timeout is three times as long
    assert "of 2 was ended by SIGKILL, and the others with it" in again.stderr.read()
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("first_survives", [True, False])  # the first is likely to hold the rendezvous
def test_two_nodes_with_one_rendezvous(two_processes, tiny_bert, tmp_path, first_survives):
    """Two agents of torchrun on loopback. When one is killed, the other ends, and the run resumes to the bit."""
    path, run = triplets_recipe(tmp_path, tiny_bert, trainer=LONG), tmp_path / "two"
    state = run / "state" / "state.json"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    signals = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1"}

    def node(run_id: str) -> subprocess.Popen:
        rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id={run_id}"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *rendezvous]
        words = ["-m", "cse", "train", path, "--run-dir", "two", "--resume", "auto", "--trainer.max_steps=60"]
        return subprocess.Popen(
            [*torchrun, *words], cwd=tmp_path, env=environment(**signals), stderr=subprocess.PIPE, text=True
        )

    nodes = [node("first"), node("first")]
    at_step(nodes[0], state, 4)
    survivor, lost = nodes if first_survives else reversed(nodes)
    for each in [lost.pid, *children(lost)]:  # a dead agent's worker has another parent: it is asked for before
        os.kill(each, signal.SIGKILL)
    said = survivor.communicate(timeout=600)[1]  # trainer.timeout is three times as long
    assert survivor.returncode != 0
    assert re.search(
        r"process \d of 2 on .* lost the others at step \d+: a connection broke .*: process \d\nfix: ", said
    )
    stopped = progress(state)
    assert stopped < 60
    nodes = [node("second"), node("second")]
    for each in nodes:
        each.communicate(timeout=600)
    assert [each.returncode for each in nodes] == [0, 0]
    whole = ["train", path, "--run-dir", str(tmp_path / "whole"), "--trainer.max_steps=60"]
    assert two_processes(command, *whole) == [0, 0]
    assert_same(run, tmp_path / "whole")


def test_there_must_be_processes():
    with pytest.raises(UserError, match="--processes is 0"):
        launch.run(0, ["train", "simcse-unsup"])


@pytest.mark.parametrize(("command", "option"), [("train", "--trainer.device"), ("encode", "--device")])
def test_more_processes_than_gpus_are_refused_and_the_fix_is_an_option_of_the_command(monkeypatch, command, option):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    refused = pytest.raises(UserError, match=f"has 2 GPUs.*\nfix: give --processes=2 or less, or {option}=cpu$")
    for words in ([], ["--run-dir", "cpu"], ["--prompt", "", option]):
        with refused:
            launch.run(3, [command, "asset:mini", *words])


@pytest.mark.unix
@pytest.mark.parametrize(
    ("exits", "outcome"),
    [
        ((2, -signal.SIGTERM), 2),  # a user's error, which the first process has printed
        ((-signal.SIGTERM, 1), 1),
        ((1, -9), "process 1 of 2 was ended by SIGKILL"),  # the other one lost it and said so before
        ((-signal.SIGTERM, -9), "process 1 of 2 was ended by SIGKILL"),
        ((-signal.SIGTERM, -signal.SIGTERM), "process 0 of 2 was ended by SIGTERM"),
    ],
)
@pytest.mark.parametrize("device", [["--device=cpu"], ["--device", "cpu"]])
def test_the_cause_of_a_failure_has_the_last_word(monkeypatch, exits, outcome, device):
    """Exit codes in the order in which torchrun sees them."""
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=rank, exitcode=code, error_file="") for rank, code in enumerate(exits)
    }
    for rank, failure in failures.items():
        failure.timestamp = rank

    def fail(_: object) -> None:
        raise ChildFailedError("cse", failures)

    monkeypatch.setattr("torch.distributed.run.run", fail)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with nullcontext() if isinstance(outcome, int) else pytest.raises(UserError, match=outcome):
        assert launch.run(2, ["encode", *device]) == outcome


def test_other_launchers_need_a_folder(tiny_bert, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", triplets_recipe(tmp_path, tiny_bert)]) == 2
    assert "--run-dir is not given" in capsys.readouterr().err


def test_the_processes_of_a_command_do_not_start_others(monkeypatch):
    arguments = argparse.Namespace(processes=2)
    assert launch.is_wanted(arguments)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not launch.is_wanted(arguments)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Also if it is killed: each child writes its number and would wait for an hour."""
    body = (
        "import os, subprocess, sys, time\nfrom cse.training import launch\n"
        "launch.PARENT_SECONDS = launch.SAVE_SECONDS = 0.1\n"
        "if launch.PARENT in os.environ:\n"
        "    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN) if sys.argv[1] == '1' else None\n"
        "    launch.end_with_parent(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(3600)\n"
        "os.environ[launch.PARENT] = str(os.getpid())\n"
        "for i in '01': subprocess.Popen([sys.executable, __file__, i])\n"
        "time.sleep(3600)\n"
    )
    (tmp_path / "job.py").write_text(body)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, tmp_path / "job.py"], env=environment, stdout=subprocess.PIPE) as job:
        started = [int(job.stdout.readline()) for _ in range(2)]
        assert sorted(children(job)) == sorted(started)
        job.kill()
        assert job.stdout.read() == b""  # which ends when both have ended, however they take the signal
    until = time.monotonic() + 60  # a process closes its streams shortly before it is gone
    while any(map(is_alive, started)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(is_alive, started))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_launch_hands_its_number_to_the_processes(monkeypatch):
    monkeypatch.delenv(launch.PARENT, raising=False)
    monkeypatch.setattr("torch.distributed.run.run", lambda _: None)
    monkeypatch.setattr(launch.os, "environ", dict(os.environ))
    assert launch.run(1, ["train", "simcse-unsup"]) == 0
    assert launch.os.environ[launch.PARENT] == str(os.getpid())
