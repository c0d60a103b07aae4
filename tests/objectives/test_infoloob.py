"""InfoLOOB and CLOOB's retrieval against their authors' program, by pencil, and in limits."""

import pytest
import torch

from cse.objectives.infoloob import InfoLOOB
from tests.cases import cases, load
from tests.objectives.helpers import agrees, refuses, run, vectors


@pytest.mark.parametrize("name", cases("infoloob"))
def test_against_the_authors_program(name):
    about, data = load("infoloob", name)
    rows, leaves = vectors(data)
    output = run(InfoLOOB(temperature=1 / about["inv_tau"], hopfield_beta=about["hopfield_beta"]), rows)
    both = {way: f"loss_{way}" for way in ("anchor_to_positive", "positive_to_anchor")}
    agrees(output, about, data, leaves, **both)


def test_refusals():
    refuses("hopfield_beta is 0", InfoLOOB, hopfield_beta=0.0)
    refuses("one positive; got 2", run, InfoLOOB(), torch.randn(3, 3, 4), 2)
    refuses("batch_size is 1", run, InfoLOOB(), torch.randn(1, 2, 4))
