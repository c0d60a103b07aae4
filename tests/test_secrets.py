"""Tokens and keys of the environment: what a run, a dry push and feedback write or print holds none of them."""

import pytest

from cse import cli
from cse.training import tracking
from cse.training.start import assemble
from tests.feedback.server import Server
from tests.publish.conftest import elsewhere
from tests.runs import write_recipe, write_texts

__all__ = ["elsewhere"]  # the fixture
SECRETS = {  # of the length and the alphabet of real ones
    "HF_TOKEN": "hf_" + "wRiTeNoWhErE" * 3,
    "OPENAI_API_KEY": "sk-proj-" + "tElLnObOdY" * 4,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "fedcba98",
    "SECRET_OF_MINE": "zq-" + "kEePiT" * 5,
}


@pytest.fixture
def place(tmp_path, tiny_bert, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path, "Texts", {"path": str(write_texts(tmp_path))}, {"backbone": tiny_bert})
    return tmp_path


def require_none(folder, printed):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for name, value in SECRETS.items():
        assert value not in printed, name
        assert [path for path in files if value.encode() in path.read_bytes()] == [], name
        assert [path for path in files if value in path.name] == [], name


@pytest.mark.usefixtures("elsewhere")
def test_a_run_a_dry_push_and_scores(place, capfd):
    from cse.recipe import load

    assert cli.main(["train", "tiny.yaml", "--run-dir", "run"]) == 0
    assert cli.main(["eval", "run/best", "--tasks", "sts-mini-dev"]) == 0
    assert cli.main(["eval", "report", "run"]) == 0
    assert cli.main(["push", "run/best", "me/name", "--dry-run", "--license", "mit"]) == 0
    settings = str(tracking.settings_of(assemble(load("tiny.yaml"), place / "unwritten")))
    printed = capfd.readouterr()
    require_none(place, settings + printed.out + printed.err)


@pytest.mark.parametrize("plan", [[], ["status:500"], ["echo"]], ids=["answered", "failed once", "refused"])
def test_feedback(place, plan, capfd, monkeypatch):
    from cse.feedback import remote

    monkeypatch.setattr(remote, "BACKOFF", 0.01)
    (place / "pairs.tsv").write_text("sentence1\tsentence2\nplain id=q0z\ts=0.5\nother id=q1z\ts=0.25\n")
    with Server({"plain": plan}) as server:
        command = ["feedback", "score", "--model", "openai:m", "--data", "pairs.tsv", "--out", "out.jsonl"]
        cli.main([*command, "--base-url", server.url, "--key-env", "SECRET_OF_MINE"])
        assert any(SECRETS["SECRET_OF_MINE"] in key for key in server.keys)  # it was sent where it belongs
        assert not any(SECRETS["OPENAI_API_KEY"] in key for key in server.keys)
    printed = capfd.readouterr()
    require_none(place, printed.out + printed.err)
