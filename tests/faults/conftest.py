"""What the tables of faults share: a small run and files of rows, made once."""

import itertools
import shutil
from pathlib import Path

import pytest

from cse import cli
from tests.conftest import WORDS

TRAIN = ["train", "simcse-unsup", "--encoder", "asset:mini", "--trainer.device=cpu", "--trainer.batch_size=16"]


def texts(rows: int) -> list[str]:
    return [" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 5), 0, rows * 7, 7)]


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with ck/, a run of 4 steps on texts.txt, whose checkpoint is ck/last, and files of rows."""
    folder, lines = tmp_path_factory.mktemp("faults"), texts(400)
    (folder / "texts.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "t12.txt").write_text("".join(f"{line}\n" for line in lines[:12]))
    pairs = list(zip(lines[:100], lines[100:200], strict=True))
    (folder / "pairs.csv").write_text("anchor,positive\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    scored = "".join(f"{a},{b},{i / 100}\n" for i, (a, b) in enumerate(pairs))
    (folder / "scored.csv").write_text("text_a,text_b,score\n" + scored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSE_CACHE", str(tmp_path_factory.getbasetemp() / "cse-cache"))
        patch.chdir(folder)
        options = ["--data", "texts.txt", "--trainer.max_steps=4", "--trainer.eval_every=2", "--evaluator=null"]
        assert cli.main([*TRAIN, *options, "--run-dir", "ck"]) == 0
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A working folder with copies of the files of rows of `made`, and a link to its ck/, which is only read."""
    folder = tmp_path / "place"
    folder.mkdir()
    for file in made.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    (folder / "ck").symlink_to(made / "ck")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def own_run(made, place) -> Path:
    """The working folder `place`, with a copy of ck/ that a test may change."""
    (place / "ck").unlink()
    shutil.copytree(made / "ck", place / "ck")
    return place


@pytest.fixture
def refused(capsys):
    """Call it with a command line: what it said, after a check that it ended with two lines of an error."""

    def call(*line: str) -> str:
        capsys.readouterr()
        try:
            code = cli.main(list(line))
        except SystemExit as ended:  # of argparse
            code = ended.code
        said = capsys.readouterr().err
        assert code not in {0, None}, said
        error = said[said.index("cse: ") :] if "cse: " in said else said
        assert "\nfix: " in error, said
        assert "Traceback" not in said
        return error

    return call
