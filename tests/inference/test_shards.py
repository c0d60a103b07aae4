"""`cse encode --shard`: the shards are the bytes of one file, whatever kills their jobs and whoever starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cse
from cse import Encoder, cli, open_vectors
from cse.data.reading.files import FileReader
from cse.inference.encode import TextFile, cut_into
from cse.inference.encode import encode_file as encode
from cse.inference.shards import Shard, ShardedVectors, chosen, launched, missing
from tests.inference.helpers import Killed, kill_after, lines
from tests.refusals import refuses

BLOCK = 4  # of 43 rows: 11 blocks


def write(encoder, file, out, shards, **options):
    """Encode these shards into a folder; returns what `encode_file` returns."""
    texts, cut = cut_into(shards, str(file), "text", BLOCK)
    return encode(encoder, texts, out, precision="fp32", save_every=BLOCK, shards=shards, cut=cut, **options)


def whole(encoder, file, out):
    """The vectors of one file."""
    encode(encoder, TextFile.scan(str(file)), out, precision="fp32", save_every=BLOCK)
    return np.load(out)


# Which part
def test_shards_are_counted_from_one_and_share_all_pieces():
    for pieces in range(1, 30):
        for of in range(1, 9):
            shares = [Shard(number, of).share(pieces) for number in range(1, of + 1)]
            assert [piece for share in shares for piece in share] == list(range(pieces))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert chosen("3/64", None) == [Shard(3, 64)]
    assert chosen(None, None) == []
    assert [str(shard) for shard in chosen(None, 3)] == ["1/3", "2/3", "3/3"]


@pytest.mark.parametrize("text", ["4", "3/0", "-1/4", "1/4/2", "a/b", "", "1.5/4"])
def test_a_shard_that_does_not_exist(text):
    refuses(r"counted from 1.*\nfix: give ", chosen, text, None)


def array(task, count):
    return {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": str(count)}


LAUNCHERS = [  # variables -> number from 0, how many
    ({}, (0, 1)),
    ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
    ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4)),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),  # srun -n 2 in a job of 8
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "RANK": "5", "WORLD_SIZE": "8"}, (5, 8)),  # torchrun in each task
    (array(7, 8), (7, 8)),
    ({**array(8, 8), "SLURM_ARRAY_TASK_MIN": "1"}, (7, 8)),
    ({**array(14, 4), "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2"}, (2, 4)),
    ({**array(3, 4), "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (7, 8)),
]


@pytest.mark.parametrize(("variables", "want"), LAUNCHERS)
def test_the_place_among_processes_is_the_launchers(variables, want, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == want
    rank, processes = want
    assert [shard.number - 1 for shard in chosen(None, 17)] == [i for i in range(17) if i % processes == rank]


UNFIT = [  # in which 16 shards cannot be shared
    {**array(9, 3), "SLURM_ARRAY_TASK_MIN": "2"},  # --array=2,5,9
    {**array(9, 3), "SLURM_ARRAY_TASK_STEP": "2"},
    {"RANK": "8", "WORLD_SIZE": "8"},
    {"RANK": "x", "WORLD_SIZE": "8"},
    {"RANK": "0", "WORLD_SIZE": "17"},
]


@pytest.mark.parametrize("variables", UNFIT)
def test_a_launcher_whose_numbers_do_not_fit(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refuses(r"(?s)cannot be shared.*fix: give --shard|--shards is 16, and 17 processes", chosen, None, 16)


# What is written
@pytest.mark.parametrize("of", [1, 4, 11])
def test_all_shards_are_the_one_file(encoder, file, tmp_path, of):
    want = whole(encoder, file, tmp_path / "v.npy")
    for number in reversed(range(1, of + 1)):  # in any order
        assert write(encoder, file, tmp_path / "v", [Shard(number, of)]) == (43, 16)
    found = cse.open_vectors(tmp_path / "v")
    assert found.shape == want.shape
    assert np.asarray(found).tobytes() == want.tobytes()
    files = sorted(path.name for path in (tmp_path / "v").iterdir() if path.suffix != ".sha256")
    assert len(files) == of + 1, files
    assert len(list((tmp_path / "v").iterdir())) == 2 * of + 1  # each shard has its sum beside it
    about = json.loads((tmp_path / "v" / "index.json").read_text())
    assert (about["rows"], about["width"], about["dtype"]) == (43, 16, "float32")
    assert [each["file"] for each in about["shards"]] == files[:-1]
    assert sum(each["rows"] for each in about["shards"]) == 43


def test_shards_of_several_files_read_only_their_own(encoder, file, tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(0, 43, 10):
        (folder / f"{i:02d}.txt").write_text("\n".join(lines(43)[i : i + 10]) + "\n")
    want = whole(encoder, file, tmp_path / "v.npy")
    write(encoder, folder, tmp_path / "v", [Shard(1, 3)])
    read, real = [], FileReader.read
    spy = lambda self, columns: read.append(self.files[0].name) or real(self, columns)  # noqa: E731
    monkeypatch.setattr(FileReader, "read", spy)
    write(encoder, folder, tmp_path / "v", [Shard(3, 3)])
    assert read == ["20.txt", "30.txt", "40.txt"]  # from row 28 on; the cut is known
    write(encoder, folder, tmp_path / "v", [Shard(2, 3)])
    assert np.asarray(open_vectors(tmp_path / "v")).tobytes() == want.tobytes()
    (folder / "00.txt").write_text("\n".join(reversed(lines(10))) + "\n")
    refuses("the texts changed", write, encoder, folder, tmp_path / "v", [Shard(3, 3)])


def test_processes_that_start_at_once_read_the_texts_once(file, monkeypatch):
    read, scan = [], TextFile.scan

    def slowly(*args, **options):
        read.append(args)
        time.sleep(0.2)
        return scan(*args, **options)

    monkeypatch.setattr(TextFile, "scan", slowly)
    with ThreadPoolExecutor(4) as threads:
        shards = [[Shard(number, 4)] for number in range(1, 5)]
        found = list(threads.map(lambda own: cut_into(own, str(file), "text", BLOCK), shards))
    assert len(read) == 1
    texts = scan(str(file), "text")
    assert found == [(texts, texts.cut(BLOCK, 4))] * 4


def test_a_killed_shard_resumes_after_its_last_block(encoder, file, tmp_path, monkeypatch):
    want = whole(encoder, file, tmp_path / "v.npy")
    out, shards = tmp_path / "v", [Shard(1, 2), Shard(2, 2)]
    with pytest.raises(Killed):
        write(encoder, file, out, shards, progress=kill_after(9))  # 5 blocks and 3 of 6; a call when each begins
    assert [str(shard) for shard in missing(out)] == ["2/2"]
    refuses("has 1 of 2 shards; 2/2 is missing", open_vectors, out)
    seen, real = [], encoder.encode_read
    monkeypatch.setattr(encoder, "encode_read", lambda read, **how: seen.append(read.texts) or real(read, **how))
    write(encoder, file, out, shards)
    assert sum(seen) == 43 - 20 - 12
    assert np.asarray(open_vectors(out)).tobytes() == want.tobytes()
    seen.clear()
    write(encoder, file, out, shards)
    assert not seen, "shards that exist were encoded again"


def test_two_jobs_on_one_shard(encoder, file, tmp_path):
    def second(rows: int) -> None:
        refuses(r"another process is writing", write, encoder, file, tmp_path / "v", [Shard(2, 2)])
        write(encoder, file, tmp_path / "v", [Shard(1, 2)])

    write(encoder, file, tmp_path / "v", [Shard(2, 2)], progress=second)
    assert not missing(tmp_path / "v")


def test_a_folder_of_another_job_is_refused(encoder, file, tmp_path):
    out = tmp_path / "v"
    write(encoder, file, out, [Shard(1, 2)])
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    refuses("shards was 2 and is 4", write, encoder, file, out, [Shard(4, 4)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept


def test_shards_that_do_not_belong_together_are_not_read(encoder, tiny_bert, file, tmp_path):
    both = [Shard(1, 2), Shard(2, 2)]
    write(encoder, file, tmp_path / "a", both)
    write(Encoder(tiny_bert, pooler="cls"), file, tmp_path / "b", both)
    stray = next((tmp_path / "b").glob("*-00001-*.npy"))
    (tmp_path / "a" / stray.name).write_bytes(stray.read_bytes())
    refuses(rf"(?s)shards of another model.*{stray.name}.*fix: move", open_vectors, tmp_path / "a")
    (tmp_path / "a" / stray.name).unlink()
    own = next((tmp_path / "a").glob("*-00002-*.npy"))
    own.write_bytes(own.read_bytes()[:-4])
    own.with_name(f"{own.name}.sha256").unlink()  # as cse 0.1.0 left it; tests/faults has shards with their sums
    refuses(rf"{own.name} cannot be read: .*\nfix: run the cse encode .* again", open_vectors, tmp_path / "a")
    np.save(own, np.ones((3, 16), dtype=np.float32))
    refuses(r"has an array \(3, 16\)", open_vectors, tmp_path / "a")
    own.unlink()
    refuses(r"1 of 2 shards; 2/2 is missing\nfix: .* --shard 2/2", open_vectors, tmp_path / "a")


def test_rows_of_shards_are_those_of_one_array():
    rng = np.random.default_rng(1)
    want = rng.normal(size=(20, 3)).astype(np.float32)
    found = ShardedVectors([want[:7], want[7:8], want[8:]])
    assert (len(found), found.shape, found.size) == (20, (20, 3), 60)
    for rows in (slice(None), slice(5, 9), slice(-3, None), slice(0, 0), slice(18, 3, -4), 7, -1):
        np.testing.assert_array_equal(found[rows], want[rows])
    for rows in (np.array([19, 0, 7, 7, -1]), np.arange(12).reshape(3, 4), np.zeros((2, 0), dtype=np.int64)):
        np.testing.assert_array_equal(found[rows], want[rows])
    for rows in (20, -21, np.array([3, 20])):
        with pytest.raises(IndexError):
            found[rows]


def test_the_command_says_what_is_missing(tiny_bert, file, tmp_path, capsys):
    base = ["encode", tiny_bert, str(file), "--save-every", str(BLOCK), "--out", str(tmp_path / "v")]
    assert cli.main([*base, "--shard", "2/3"]) == 0
    said = capsys.readouterr().out
    assert "2/3, with 16 of the rows" in said
    assert "missing    2 of 3 shards: 1/3, 3/3" in said
    assert cli.main([*base, "--shards", "3"]) == 0
    assert "missing" not in capsys.readouterr().out
    assert not missing(tmp_path / "v")


# Processes that are killed
@pytest.mark.slow
def test_two_processes_write_four_shards_although_one_is_killed(tiny_bert, tmp_path):
    """The processes of one command; the second run finishes what the first one left."""
    (tmp_path / "texts.txt").write_text("\n".join(lines(2000)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    base = [sys.executable, "-m", "cse", "encode", tiny_bert, str(tmp_path / "texts.txt"), "--precision", "fp32"]
    base += ["--save-every", "20", "--out"]
    subprocess.run([*base, str(tmp_path / "whole.npy")], env=environment, check=True)
    command = [*base, str(tmp_path / "v"), "--shards", "4", "--processes", "2"]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    until = time.monotonic() + 600
    while not (begun := [path for path in tmp_path.glob("v/*.partial") if path.stat().st_size > 20_000]):
        assert running.poll() is None, "it ended by itself"
        assert time.monotonic() < until
        time.sleep(0.002)
    children = [int(p) for p in os.popen(f"pgrep -P {running.pid}").read().split()]
    os.kill(children[0], signal.SIGKILL)
    assert running.wait(600) == 2
    assert b"was ended by SIGKILL" in running.stderr.read()
    assert begun[0].exists() or missing(tmp_path / "v")
    subprocess.run(command, env=environment, check=True)
    assert np.asarray(open_vectors(tmp_path / "v")).tobytes() == np.load(tmp_path / "whole.npy").tobytes()
