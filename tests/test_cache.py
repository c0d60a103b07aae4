import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from cse import UserError
from cse import files as cache
from cse.files import atomic_dir, atomic_file, cache_dir, writing_cache


def contents(folder):
    return {p.name: p.read_text() for p in folder.iterdir()}


def fill(target, text, then=lambda: None):
    with atomic_dir(target) as fresh:
        (fresh / "a").write_text(text)
        then()


def write(target, text, then=lambda: None):
    with atomic_file(target) as path:
        path.write_text(text)
        then()


def fail():
    raise RuntimeError


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("CSE_CACHE", "")
    assert cache_dir().parts[-2:] == (".cache", "cse")


def test_a_folder_is_made_and_replaced_and_nothing_is_left_over(tmp_path):
    target = tmp_path / "deep" / "best"
    fill(target, "old")
    assert contents(target) == {"a": "old"}
    with atomic_dir(target) as fresh:
        (fresh / "b").write_text("new")
        assert contents(target) == {"a": "old"}
    assert contents(target) == {"b": "new"}
    assert os.listdir(target.parent) == ["best"]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
@pytest.mark.unix
def test_files_have_the_mode_that_the_umask_asks_for(tmp_path, umask, mode):
    """safetensors writes files that only their owner can read, also for a team that shares a folder."""
    program = """
        import os, sys, pathlib, numpy
        from safetensors.numpy import save_file
        from cse.files import atomic_dir
        os.umask(int(sys.argv[2]))
        with atomic_dir(pathlib.Path(sys.argv[1])) as fresh:
            (fresh / "1_Dense").mkdir()
            for folder in (fresh, fresh / "1_Dense"):
                save_file({"x": numpy.zeros(1)}, folder / "model.safetensors")
                (folder / "config.json").write_text("{}")
            (fresh / "run.sh").touch(mode=0o700)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "best"), str(umask)]
    subprocess.run(command, check=True)
    found = {p.relative_to(tmp_path).as_posix(): p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    names = [f"best/{folder}{name}" for folder in ("", "1_Dense/") for name in ("model.safetensors", "config.json")]
    assert found == {**dict.fromkeys(names, mode), "best/run.sh": mode | 0o700 & ~umask}


@pytest.mark.parametrize("where", ["body", "fsync", "put"])
def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch, where):
    target = tmp_path / "best"
    fill(target, "old")
    if where == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    if where == "put":
        monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        fill(target, "new", then=full if where == "body" else lambda: None)
    assert contents(target) == {"a": "old"}
    assert os.listdir(tmp_path) == ["best"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "state.json"
    write(target, "old")
    with pytest.raises(RuntimeError):
        write(target, "half", then=fail)
    assert target.read_text() == "old"
    with atomic_file(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert contents(tmp_path) == {"state.json": "new"}


def killed(program, *args):
    """Run a program that kills itself."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), *map(str, args)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.unix
def test_what_a_killed_process_left_is_cleared(tmp_path):
    target = tmp_path / "best"
    fill(target, "old")
    killed(
        """
        import os, sys, pathlib
        from cse.files import atomic_dir
        with atomic_dir(pathlib.Path(sys.argv[1])) as fresh:
            (fresh / "a").write_text("half")
            os.kill(os.getpid(), 9)
        """,
        target,
    )
    assert contents(target) == {"a": "old"}
    assert len(os.listdir(tmp_path)) == 2
    fill(target, "new")
    assert contents(target) == {"a": "new"}
    assert os.listdir(tmp_path) == ["best"]


@pytest.mark.unix
def test_a_kill_between_two_renames_is_mended(tmp_path):
    target = tmp_path / "best"
    fill(target, "old")
    killed(
        """
        import os, sys, pathlib
        from cse import files as cache
        rename = os.rename
        def once(a, b):
            rename(a, b)
            os.kill(os.getpid(), 9)
        os.rename = once
        with cache.atomic_dir(pathlib.Path(sys.argv[1])) as fresh:
            (fresh / "a").write_text("new")
        """,
        target,
    )
    assert not target.exists()
    cache.recover(target)
    assert contents(target) == {"a": "old"}
    assert os.listdir(tmp_path) == ["best"]


def test_folders_of_living_processes_and_other_machines_are_let_be(tmp_path):
    target = tmp_path / "best"
    others = [f".best.{cache._host()}.{os.getppid()}.0.tmp", ".best.elsewhere.999999.0.tmp", ".best.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    fill(target, "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "best"])


def test_a_cache_that_cannot_be_written_is_said_in_words(monkeypatch, tmp_path):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"asset:x: cannot write to the cache .*: No space") as error,
        writing_cache("asset:x"),
    ):
        full()
    assert "CSE_CACHE" in str(error.value)


def test_json_is_whole_and_comes_back(tmp_path):
    path = tmp_path / "new" / "about.json"
    cache.write_json(path, {"text": "Zürich", "numbers": [1, 0.1]})
    assert path.read_bytes() == '{\n  "text": "Zürich",\n  "numbers": [\n    1,\n    0.1\n  ]\n}\n'.encode()
    assert cache.read_json(path) == {"text": "Zürich", "numbers": [1, 0.1]}
    with pytest.raises(TypeError):
        cache.write_json(path, {"no JSON": object()})
    assert cache.read_json(path)["text"] == "Zürich"
    assert [p.name for p in path.parent.iterdir()] == ["about.json"]
