"""Publishing: what is uploaded, and what is refused."""

from __future__ import annotations

import pytest

from cse.cli import main
from cse.encoder import Encoder
from cse.errors import UserError
from cse.hub import push


@pytest.fixture
def checkpoint(tiny_bert, tmp_path):
    Encoder(tiny_bert).save(tmp_path / "best")
    return tmp_path / "best"


def test_the_whole_folder_is_uploaded_to_the_repository(checkpoint, monkeypatch):
    calls = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repo, **k: calls.append((repo, k["private"])))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder", lambda self, **k: calls.append((k["repo_id"], k["folder_path"]))
    )
    assert push(checkpoint, "me/encoder", private=True).endswith("/me/encoder")
    assert calls == [("me/encoder", True), ("me/encoder", checkpoint)]


def test_offline_is_said(checkpoint, capsys):
    assert main(["push", str(checkpoint), "me/encoder"]) == 2
    assert "me/encoder" in capsys.readouterr().err


@pytest.mark.parametrize("repo", ["a/b/c", "-bad/name", "me/has space"])
def test_a_bad_name_is_refused(checkpoint, repo):
    with pytest.raises(UserError, match="repository"):
        push(checkpoint, repo)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"modules\.json"):
        push(tmp_path, "me/encoder")
