"""Every rename, sync and opening for writing of every command fails once, in turn, as on a full disk.

Afterwards each file, and the repository on the Hub, is the old one or the new one, the command has said what happened,
and running it again gives what an unbroken run gives.
"""

import builtins
import copy
import io
import json
import os
import re
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from cse import Encoder, cli
from tests.publish.conftest import elsewhere, hub
from tests.runs import write_recipe, write_texts

__all__ = ["elsewhere", "hub"]  # the fixtures
FULL = OSError(28, "No space left on device")
TRAIN = "train tiny.yaml --run-dir out"
COMMANDS = {  # a command line, and what it writes
    "encode to npy": ("encode ck texts.txt --out out.npy --save-every 16", "out.npy"),
    "encode to parquet": ("encode ck texts.txt --out out.parquet", "out.parquet"),
    "mine": ("mine ck --data texts.txt --out out.parquet", "out.parquet"),
    "teach": ("teach texts.txt --model ck --out out.parquet", "out.parquet"),
    "whiten": ("whiten ck --data texts.txt --k 4 --out out", "out"),
    "eval": ("eval ck --tasks sts-mini-dev --out out.json", "out.json"),
    "report": ("eval report scored --out out", "out"),
    "recipe copy": ("recipe copy simcse-unsup out.yaml --force", "out.yaml"),
    "feedback": ("feedback score --model encoder:ck --data pairs.jsonl --columns a b --out out.jsonl", "out.jsonl"),
    "export": ("export ck --out out", "out"),
    "data dedup": ("data dedup texts.txt --out out.parquet", "out.parquet"),
    "data mix": ("data mix texts.txt more.txt --out out.jsonl", "out.jsonl"),
    "train": (TRAIN, "out"),
    "search": (
        "search tiny.yaml --data texts.txt --dev sts-mini-dev --budget 8steps --trials 1 --seeds 1 --run-dir out",
        "out",
    ),
}
PUSH = ["push", "ck", "me/name", "--license", "mit"]
BEGUN = {"train": "out/state", "search": "out/search.json"}  # what --resume needs
IGNORED = ("cost", "seconds", "created", "sentences_per_s", "steps_per_s", "peak_mb", "date", "time", "eval_seconds")


class Disk:
    """Counts the operations that write below a folder, and lets one of them fail."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.count, self.failing = str(folder), 0, None
        for module, name in ((os, "replace"), (os, "rename"), (os, "fsync")):
            monkeypatch.setattr(module, name, self.wrapped(getattr(module, name), name))
        opened = self.wrapped(io.open, "open")
        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(io, "open", opened)

    def wrapped(self, real, name):
        def call(first, *rest, **named):
            mode = named.get("mode", rest[0] if rest else "r")
            writes = name != "open" or (isinstance(mode, str) and set(mode) & set("wxa+"))
            if writes and self.is_ours(first):
                self.count += 1
                if self.count == self.failing:
                    raise OSError(*FULL.args, str(first))
            return real(first, *rest, **named)

        return call

    def is_ours(self, path):
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        return os.path.abspath(os.fspath(path)).startswith(self.folder)


def plain(value):
    """A JSON value without what differs between two runs of the same command."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k != "sum" and not any(word in k for word in IGNORED)}
    return [plain(v) for v in value] if isinstance(value, list) else value


def untimed(text):
    """What a search writes, without the seconds of a step: in its verdict, and in the last column of its table."""
    return re.sub(r"(?m)[\d.e-]+ s a step|[\d.e-]+ \|$", "", text)


def digest(path):
    """What a file holds, apart from times."""
    if path.suffix == ".json":
        return untimed(json.dumps(plain(json.loads(path.read_text())), sort_keys=True))
    if path.suffix == ".md":
        return untimed(path.read_text())
    if path.suffix == ".jsonl" and path.name == "metrics.jsonl":
        return json.dumps([plain(json.loads(line)) for line in path.read_text().splitlines()])
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return str({name: arrays[name].tolist() for name in arrays.files})
    return sha256(path.read_bytes()).hexdigest()


def content(target):
    """Everything at a path, by name; hidden files are locks and leftovers."""
    paths = [p for p in target.rglob("*") if p.is_file()] if target.is_dir() else [target] if target.exists() else []
    visible = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(target.parent).parts)]
    skipped = {"env.json", "report.html", "state.pt", "state.json"}
    return {str(p.relative_to(target.parent)): digest(p) for p in visible if p.name not in skipped}


@pytest.fixture(scope="module")
def place(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    Encoder(tiny_bert, pooler="mean").save(folder / "ck")
    texts = write_texts(folder)
    trainer = {"max_steps": 4, "eval_every": 2}
    write_recipe(folder, "Texts", {"path": str(texts)}, {"backbone": tiny_bert}, trainer=trainer)
    (folder / "more.txt").write_text("the sun\nthe moon\nthe house\nthe tree\n")
    (folder / "pairs.jsonl").write_text('{"a": "the cat sat", "b": "a dog ran"}\n{"a": "the sun", "b": "the moon"}\n')
    scored = ["--tasks", "sts-mini-dev", "--out", str(folder / "scored/r/results.json")]
    assert cli.main(["eval", str(folder / "ck"), *scored]) == 0
    return folder


def prepared(place, folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder)


def again(line):
    """The command that continues or repeats what failed."""
    begun = line[0] in BEGUN and Path(BEGUN[line[0]]).exists()
    return [line[0], "--resume", "out"] if begun else line


def points(total, every):
    """Every write; or each ninth, and at most two of a command that writes much."""
    return range(1, total + 1, every if every == 1 else max(every, total // 2 + 1))


SOME = [name for name in COMMANDS if name != "export"]  # which takes long, and writes its folder as `whiten` does


@pytest.mark.parametrize(
    ("name", "every"),
    [
        *(pytest.param(name, 1, marks=pytest.mark.slow, id=f"{name}-all") for name in COMMANDS),
        *(pytest.param(name, 9, id=f"{name}-some") for name in SOME),
    ],
)
def test_a_full_disk_at_any_write(name, every, place, tmp_path, monkeypatch, capsys):
    line, out = COMMANDS[name][0].split(), COMMANDS[name][1]
    folder, cache = tmp_path / "here", tmp_path / "cache"
    monkeypatch.setenv("CSE_CACHE", str(cache))
    prepared(place, folder)
    monkeypatch.chdir(folder)
    disk = Disk(folder, monkeypatch)
    assert cli.main(line) == 0
    total, want = disk.count, content(folder / out)
    assert total
    assert want
    survived = 0
    for point in points(total, every):
        monkeypatch.chdir(tmp_path)
        prepared(place, folder)
        monkeypatch.chdir(folder)
        others = content(folder)
        disk.count, disk.failing = 0, point
        capsys.readouterr()
        code = cli.main(line)
        disk.failing = None
        said = capsys.readouterr().err
        assert code in {0, 2}, said
        assert code == 0 or "space" in said
        assert {k: v for k, v in content(folder).items() if k in others} == others  # what was there is as it was
        if code == 2:
            assert cli.main(again(line)) == 0
        assert content(folder / out) == want, f"at write {point} of {total}"
        survived += 1
    assert survived == len(points(total, every))


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 9], ids=["all", "some"])
def test_a_full_disk_at_any_write_of_a_push(every, place, hub, elsewhere, tiny_bert, tmp_path, monkeypatch, capsys):
    """Onto an earlier model, whose card is read from the Hub and changed."""
    folder, scratch = tmp_path / "here", tmp_path / "scratch"
    prepared(place, folder)
    Encoder(tiny_bert, head="mlp", export_head=True).save(folder / "other")
    scratch.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    others = content(folder)
    assert cli.main(["push", "other", *PUSH[2:]]) == 0
    before = copy.deepcopy(hub.repositories)
    disk = Disk(scratch, monkeypatch)
    assert cli.main(PUSH) == 0
    old, new = (repositories["me/name"].files() for repositories in (before, hub.repositories))
    total = disk.count
    assert total
    assert old != new
    for point in points(total, every):
        hub.repositories = copy.deepcopy(before)
        disk.count, disk.failing = 0, point
        capsys.readouterr()
        code = cli.main(PUSH)
        disk.failing = None
        said = capsys.readouterr().err
        assert code in {0, 2}, said
        assert code == 0 or "space" in said
        assert hub.repositories["me/name"].files() == (new if code == 0 else old)
        assert content(folder) == others
        assert list(scratch.iterdir()) == []
        assert code == 0 or cli.main(PUSH) == 0
        assert hub.repositories["me/name"].files() == new, f"at write {point} of {total}"
