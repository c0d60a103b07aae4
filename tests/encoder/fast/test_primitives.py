"""A process keeps few compiled products, unless its environment says how many."""

import os
from contextlib import nullcontext

import pytest

from cse.encoder import Encoder
from cse.encoder.fast import off
from cse.encoder.fast.layers import KEPT

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize(
    ("given", "block", "want"), [(None, nullcontext, str(KEPT)), ("7", nullcontext, "7"), (None, off, None)]
)
def test_loading_an_encoder_sets_it_unless_it_is_given_or_the_switch_is_off(monkeypatch, given, block, want):
    monkeypatch.setenv(NAME, given or "")  # so that it is restored afterwards
    if given is None:
        monkeypatch.delenv(NAME)
    with block():
        Encoder("asset:mini")
    assert os.environ.get(NAME) == want
