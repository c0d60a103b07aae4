"""What tests of publishing share: a Hub on this machine, and a stand-in for the process that verifies."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import constants

from cse import Encoder
from tests.publish.hub_server import HubServer, User

TOKEN = "hf_wRiTeToKeNtHaTmUsTnOtShOw012345678"


@pytest.fixture
def elsewhere(monkeypatch):
    """Stands for the process that loads what is published: its vectors, by cse in this process."""

    def run(command, **_):
        spec = json.loads(Path(command[2]).read_text())
        np.save(Path(spec["out"], "there.npy"), Encoder.load(spec["folder"]).encode(spec["texts"]))
        return CompletedProcess(command, 0, json.dumps({"missing": [], "unexpected": []}), "")

    monkeypatch.setattr("cse.publish.verify.subprocess", SimpleNamespace(run=run))


@pytest.fixture
def hub(monkeypatch, tmp_path, caplog):
    """A Hub where TOKEN is "me", and nothing says TOKEN but the headers that must."""
    caplog.set_level("DEBUG")
    with HubServer() as hub:
        hub.users[TOKEN] = User("me", organizations=("team",))
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        assert TOKEN not in caplog.text
        for request in hub.requests:
            headers = dict(request.headers)
            authorization = headers.pop("authorization", None)
            assert TOKEN not in f"{request.url} {headers}"
            assert TOKEN.encode() not in request.body
            assert authorization is None or not request.path.startswith("/storage/")
