"""EuCLIP: the authors' program (oracles), pencil, properties."""

import pytest
import torch

from cse.objectives.euclip import EuCLIP
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


@pytest.mark.parametrize("name", cases("euclip"))
def test_every_case_of_the_authors_program(name):
    about, data = load("euclip", name)
    rows, leaves = vectors(data)
    objective = EuCLIP(temperature=1 / about["logit_scale"], squared=about["geometry"] == "euclidean-squared")
    agrees(run(objective, rows), about, data, leaves)


@pytest.mark.parametrize("squared", [True, False])
def test_equal_vectors_have_a_finite_gradient(squared):
    rows = torch.randn(4, 1, 6).expand(4, 2, 6).clone().requires_grad_()
    run(EuCLIP(squared=squared), rows).loss.backward()
    assert torch.isfinite(rows.grad).all()
