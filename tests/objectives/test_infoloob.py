"""InfoLOOB and CLOOB's retrieval against their authors' program, by pencil, and in limits."""

import itertools
import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.infoloob import InfoLOOB, _retrieve
from cse.objectives.simcse import SimCSE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, close, run, vectors


@pytest.mark.parametrize("name", cases("infoloob"))
def test_against_the_authors_program(name):
    about, data = load("infoloob", name)
    rows, leaves = vectors(data)
    output = run(InfoLOOB(temperature=1 / about["inv_tau"], hopfield_beta=about["hopfield_beta"]), rows)
    both = {way: f"loss_{way}" for way in ("anchor_to_positive", "positive_to_anchor")}
    agrees(output, about, data, leaves, **both)


@pytest.mark.parametrize("name", cases("infoloob", where=lambda about: about["hopfield_beta"]))
def test_retrieved_vectors(name):
    about, data = load("infoloob", name)
    vector = {v: torch.nn.functional.normalize(data[side], dim=-1) for v, side in (("x", "anchor"), ("y", "positive"))}
    for memory, query in itertools.product("xy", repeat=2):  # p_xy is y retrieved from x
        got = _retrieve(vector[query], vector[memory], about["hopfield_beta"])
        close(torch.nn.functional.normalize(got, dim=-1), data[f"p_{memory}{query}"], 1e-5)


def test_by_pencil():
    # Two rows, orthogonal anchors, positives equal to them, t = 1: each direction is -1 + log e^0 = -1
    x = torch.eye(2)[:, None].expand(-1, 2, -1)
    assert run(InfoLOOB(temperature=1.0, hopfield_beta=None), x).loss.item() == pytest.approx(-2.0)


def test_a_row_of_infonce_is_one_plus_a_row_of_loob():
    """e^{InfoNCE} = 1 + e^{LOOB}, here on the only row that has a weight."""
    x = torch.randn(5, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    loob = run(InfoLOOB(temperature=0.05, hopfield_beta=None), x, weight=weight).metrics["anchor_to_positive"] / 0.05
    assert math.exp(run(SimCSE(), x, weight=weight).loss) == pytest.approx(1 + math.exp(loob), rel=1e-9)


def test_a_cold_memory_returns_what_it_holds():
    """Anchors and positives alike: at large beta each is retrieved as itself, so that the loss is the plain one."""
    x = torch.randn(5, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).expand(-1, 2, -1)
    cold, plain = (run(InfoLOOB(hopfield_beta=beta), x).loss.item() for beta in (1e5, None))
    assert cold == pytest.approx(plain, rel=1e-9)


def test_refusals():
    with pytest.raises(UserError, match="hopfield_beta is 0"):
        InfoLOOB(hopfield_beta=0.0)
    with pytest.raises(ValueError, match="one positive; got 2"):
        run(InfoLOOB(), torch.randn(3, 3, 4), 2)
    with pytest.raises(ValueError, match="batch_size is 1"):
        run(InfoLOOB(), torch.randn(1, 2, 4))
