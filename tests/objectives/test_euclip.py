"""EuCLIP: the authors' program (oracles), pencil, properties."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.euclip import EuCLIP
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


@pytest.mark.parametrize("name", cases("euclip"))
def test_every_case_of_the_authors_program(name):
    about, data = load("euclip", name)
    rows, leaves = vectors(data)
    objective = EuCLIP(temperature=1 / about["logit_scale"], squared=about["geometry"] == "euclidean-squared")
    agrees(run(objective, rows), about, data, leaves)


def test_by_pencil():
    # Two items 6 apart in 4 dimensions, with equal views: -36 / 4 for the squared distance, -6 / 2 for the distance.
    rows = torch.zeros(2, 2, 4, dtype=torch.float64)
    rows[1, :, 0] = 6.0
    for squared, logit in ((True, -9.0), (False, -3.0)):
        got = run(EuCLIP(squared=squared), rows).loss
        assert got.item() == pytest.approx(math.log(1 + math.exp(logit)), rel=1e-6)


@pytest.mark.parametrize("squared", [True, False])
def test_a_translation_changes_nothing_and_length_matters(squared):
    rows = torch.randn(5, 2, 6, dtype=torch.float64)
    want = run(EuCLIP(squared=squared), rows).loss.item()
    assert run(EuCLIP(squared=squared), rows + torch.randn(6)).loss.item() == pytest.approx(want, rel=1e-9)
    assert run(EuCLIP(squared=squared), rows * 2).loss.item() != pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("squared", [True, False])
def test_equal_vectors_have_a_finite_gradient(squared):
    rows = torch.randn(4, 1, 6).expand(4, 2, 6).clone().requires_grad_()
    run(EuCLIP(squared=squared), rows).loss.backward()
    assert torch.isfinite(rows.grad).all()


def test_the_scale_is_learned():
    objective = EuCLIP(temperature=0.5)
    output = run(objective, torch.randn(4, 2, 6))
    output.loss.backward()
    assert output.metrics["scale"].item() == pytest.approx(2.0)
    assert objective.log_scale.grad != 0


def test_errors():
    with pytest.raises(UserError, match="temperature"):
        EuCLIP(temperature=0.0)
    with pytest.raises(ValueError, match="one positive"):
        run(EuCLIP(), torch.randn(3, 3, 4), 2)
