"""InfoLOOB and CLOOB's retrieval against their authors' program, by pencil, and in limits."""

import pytest

from cse.objectives.infoloob import InfoLOOB
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


@pytest.mark.parametrize("name", cases("infoloob"))
def test_against_the_authors_program(name):
    about, data = load("infoloob", name)
    rows, leaves = vectors(data)
    output = run(InfoLOOB(temperature=1 / about["inv_tau"], hopfield_beta=about["hopfield_beta"]), rows)
    both = {way: f"loss_{way}" for way in ("anchor_to_positive", "positive_to_anchor")}
    agrees(output, about, data, leaves, **both)
