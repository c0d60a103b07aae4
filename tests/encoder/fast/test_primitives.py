"""A process keeps few compiled products, unless its environment says how many."""

import os

import pytest

from cse.encoder import Encoder
from cse.encoder.fast import off
from cse.encoder.fast.primitives import KEPT

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "")  # so that it is restored afterwards
    monkeypatch.delenv(NAME)


def test_loading_an_encoder_sets_it() -> None:
    Encoder("asset:mini")
    assert os.environ[NAME] == str(KEPT)


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "7")
    Encoder("asset:mini")
    assert os.environ[NAME] == "7"


def test_the_switch_leaves_it() -> None:
    with off():
        Encoder("asset:mini")
    assert NAME not in os.environ
