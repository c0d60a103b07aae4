"""What can go wrong between the processes of a run, and what is said of it."""

import errno
import io
import socket
import threading
import time
from contextlib import redirect_stderr
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from filelock import FileLock
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from cse import Settings, Texts, Trainer, UserError, cli, distributed
from cse.training import hardware, launch, lost, preflight, start
from tests.refusals import refuses
from tests.runs import make_run, metrics, triplets_recipe
from tests.training.helpers import trained_by


def said(*words: str) -> tuple[int, str]:
    """The exit code of a command, and what it said of its failure."""
    with redirect_stderr(io.StringIO()) as stream:
        code = cli.main(list(words))
    return code, stream.getvalue()


def of_rank(rank: int, *words: str) -> tuple[int, str]:
    """`said`, where RANK in a word is the number of the process."""
    return said(*(word.replace("RANK", str(rank)) for word in words))


@pytest.fixture
def first_of_two(monkeypatch):
    """The environment of the first process of two, whose port is given back."""
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process was alone
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        port = used.getsockname()[1]
        environment = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
        for name, value in {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        yield used
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_port_in_use_is_named(first_of_two, tmp_path):
    first_of_two.listen()
    port = first_of_two.getsockname()[1]
    message = f"process 0 of 2 on .* cannot open 127.0.0.1:{port}, .*another program uses the port\nfix: "
    refuses(message, hardware.accelerator, Settings(device="cpu"), tmp_path)
    with pytest.raises(UserError, match=message), distributed.together():
        pass


def test_a_process_that_never_comes_ends_the_others(first_of_two, tmp_path):
    first_of_two.close()
    with pytest.raises(UserError, match=r"process 0 of 2 on .* did not meet the others at 127.0.0.1:\d+: .*\nfix: "):
        hardware.accelerator(Settings(device="cpu", timeout=1), tmp_path)


def test_a_second_run_of_a_process_has_its_own_device(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert hardware.accelerator(Settings(device="cpu"), tmp_path).device.type == "meta"
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
    assert hardware.accelerator(Settings(device="cpu"), tmp_path).device.type == "cpu"


def test_each_process_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    hardware.require_gpus("cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    hardware.require_gpus("cpu")
    refuses(r"2 processes were started on .*, which has 1 GPUs.*\nfix: start 1 or fewer", hardware.require_gpus, "cuda")


def test_workers_need_shared_memory(monkeypatch, tmp_path):
    settings = Settings(device="cpu", workers=2)
    assert not list(hardware.problems(settings))
    monkeypatch.setattr(hardware, "SHARED_MEMORY", tmp_path / "absent")
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    assert [text.splitlines()[0].rpartition(", ")[2] for text in hardware.problems(settings)] == ["has 0 MB of room"]
    assert not list(hardware.problems(Settings(device="cpu")))


def versions_of(rank: int, folder: str, backbone: str) -> list[str]:
    """What is said of another torch, and of other rows, on the second process."""
    run = make_run(Path(folder) / str(rank), backbone)
    found = [preflight.facts(run)]
    found += [{**found[0], "torch": f"2.{rank}"}, {**found[0], "the number of rows": f"{rank}"}]
    texts = run.data.path  # as a copy that was not renewed on one machine
    Path(texts).write_text(Path(texts).read_text().replace("cat", f"cat{rank}"))
    run.data = Texts(texts)
    found.append(preflight.facts(run))
    messages = []
    for facts in found:
        try:
            preflight.compare(facts)
            messages.append("")
        except UserError as error:
            messages.append(str(error))
    return messages


def test_unequal_versions_and_recipes_are_refused_by_all(two_processes, tiny_bert, tmp_path):
    for equal, torch_differs, rows_differ, texts_differ in two_processes(versions_of, str(tmp_path), tiny_bert):
        assert equal == ""
        assert "process 1 on " in torch_differs
        assert "torch is `2.1` there, and `2.0` here\nfix: " in torch_differs
        assert "the number of rows is `1` there, and `0` here" in rows_differ
        assert "the sha256 of the rows is `" in texts_differ
    recipe, run = triplets_recipe(tmp_path, tiny_bert), tmp_path / "run"
    for code, text in two_processes(of_rank, "train", recipe, "--run-dir", str(run), "--trainer.clip=RANK.5"):
        assert code == 2
        assert "is `clip: 1.5` there, and `clip: 0.5` here" in text
    assert not run.exists()


def test_a_batch_that_cannot_be_divided_and_a_folder_in_use_stop_all(two_processes, tiny_bert, tmp_path):
    recipe, run = triplets_recipe(tmp_path, tiny_bert), tmp_path / "run"
    words = ["train", recipe, "--run-dir", str(run)]
    for code, text in two_processes(of_rank, *words, "--trainer.batch_size=7"):
        assert code == 2
        assert "trainer.batch_size is 7, which cannot be divided into 1 accumulated parts on 2 processes" in text
    run.mkdir()
    with FileLock(run / ".lock"):
        for code, text in two_processes(of_rank, *words):
            assert code == 2
            assert f"run {run} is being trained by another process" in text
        assert [path.name for path in run.iterdir()] == [".lock"]


def hangs(rank: int, over: str, *words: str) -> tuple[int, str]:
    """Train; from step 1 on the group waits for 2 s, and the second process sleeps until the first is `over`."""
    step = Trainer._step

    def step_or_sleep(self, parts, *, probe):
        if self.run.progress.step == 1:  # before that, a busy machine may need longer
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
            while rank and not Path(over).exists():
                time.sleep(0.1)
        return step(self, parts, probe=probe)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "_step", step_or_sleep)
            return said(*words)
    finally:
        dist.destroy_process_group()
        if not rank:
            Path(over).touch()


def test_a_process_that_hangs_ends_the_others_which_name_it(two_processes, tiny_bert, tmp_path):
    words = ["train", triplets_recipe(tmp_path, tiny_bert), "--run-dir", str(tmp_path / "run")]
    (code, text), (other_code, _) = two_processes(hangs, str(tmp_path / "over"), *words)
    assert code == other_code == 2
    text = text[text.index("cse: ") :]  # newer versions of torch warn of the function that sets the limit
    lost_at = f"cse: process 0 of 2 on {socket.gethostname()} lost the others at step 1: it waited too long"
    assert text.startswith(lost_at)
    assert "; silent since then: process 1\nfix: " in text


def waits(rank: int) -> str:
    run = SimpleNamespace(progress=SimpleNamespace(step=7), settings=Settings(timeout=9))
    with redirect_stderr(io.StringIO()) as stream, lost.watched(run, 0.1, backend="gloo"):
        for _ in range(6000):  # of 0.1 s
            if stream.getvalue():
                break
            time.sleep(0.1)
    return stream.getvalue()


def test_a_long_wait_is_announced_since_nccl_ends_the_process(two_processes):
    for rank, text in enumerate(two_processes(waits)):
        assert text.startswith(f"cse: process {rank} of 2 on ")
        assert "took no step for 0 s at step 7; after 9 s (trainer.timeout) it ends" in text


def on_a_full_disk(rank: int, *words: str) -> tuple[int, str]:
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSystemWriter, "write_data", full if rank else FileSystemWriter.write_data)
        return said(*words)


def test_a_full_disk_on_one_process_is_named_by_all(two_processes, tiny_bert, tmp_path):
    run = tmp_path / "run"
    words = ["train", triplets_recipe(tmp_path, tiny_bert), "--run-dir", str(run), "--trainer.parallel=fsdp"]
    for code, text in two_processes(on_a_full_disk, *words):
        assert code == 2
        assert "cannot be written by process 1 of 2: [Errno 28] No space left on device\nfix: make room" in text
    assert not (run / "state").exists()


def test_a_failure_of_one_process_names_it(monkeypatch):
    monkeypatch.setattr(launch, "FIRST_SPEAKS_SECONDS", 0.0)
    monkeypatch.setenv("RANK", "0")
    assert launch.let_the_first_speak("no space") == "no space"
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launch.let_the_first_speak("no space") == f"process 3 of 4 on {socket.gethostname()}: no space"


def test_the_others_wait_for_a_file_that_is_seen_late(monkeypatch, tmp_path):
    file = tmp_path / "file"
    assert not distributed.comes(file.exists)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distributed, "LAG_SECONDS", 0.1)
    assert not distributed.comes(file.exists)
    monkeypatch.setattr(distributed, "LAG_SECONDS", 20.0)
    threading.Timer(0.3, file.touch).start()
    assert distributed.comes(file.exists)


def sees_less(rank: int, folder: str, blind: str, *words: str) -> tuple[int, str]:
    """Train; the second process sees no saved state, in the folder or, if `blind`, in another folder for good."""
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.setattr(start, "is_begun", lambda folder: False)
            patch.setattr(distributed, "LAG_SECONDS", 0.1)
        return said(*words, "--run-dir", folder + blind * rank)


def test_a_run_resumes_where_one_process_sees_less_than_the_first(two_processes, tiny_bert, tmp_path):
    whole = trained_by(two_processes, triplets_recipe(tmp_path, tiny_bert), tmp_path / "whole")
    recipe = triplets_recipe(tmp_path, tiny_bert, strikes={"step": 3, "marker": str(tmp_path / "sent")})
    cut = trained_by(two_processes, recipe, tmp_path / "cut", code=130)
    words = ["train", recipe, "--resume", "auto"]
    for code, text in two_processes(sees_less, str(cut), "-elsewhere", *words):
        assert code == 2
        assert "is not the file that process 0 reads, on process 1 of 2 on " in text
    assert [code for code, _ in two_processes(sees_less, str(cut), "", *words)] == [0, 0]
    assert metrics(cut) == metrics(whole)


@pytest.mark.parametrize(
    ("world", "rank", "said"),
    [
        (2, 0, "process 1"),
        (2, 1, "process 0"),
        (3, 2, "process 0"),
        (3, 0, "unknown, for the node that holds the rendezvous is lost"),
    ],
)
def test_who_is_silent_when_the_store_is_lost_too(monkeypatch, world, rank, said):
    def gone():
        raise RuntimeError("the connection to the store has failed")

    monkeypatch.setattr("torch.distributed.distributed_c10d._get_default_store", gone)
    monkeypatch.setattr("cse.distributed.world_size", lambda: world)
    monkeypatch.setattr("cse.distributed.rank", lambda: rank)
    assert lost._silent() == said
