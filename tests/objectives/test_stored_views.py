"""Stored rewrites as views (LM-CPPF) against its authors' program: SupCon over several texts of a row.

The draws of stored rewrites are tested with the collator.
"""

import pytest

from cse.objectives.supcon import SupCon
from tests.cases import cases, load
from tests.objectives.helpers import close, run


@pytest.mark.parametrize("name", cases("stored_views"))
def test_against_the_authors_program(name):
    about, data = load("stored_views", name)
    x = data["x"].requires_grad_()
    objective = SupCon(temperature=about["temperature"], base_temperature=about["base_temperature"])
    output = run(objective, x, x.shape[1] - 1, label=data["labels"])
    output.loss.backward()
    assert output.loss.item() == pytest.approx(about["loss"], rel=1e-5)
    given, unit = data["grad_x"], x.detach()  # the program takes them to be unit vectors; ours are scaled to that first
    close(x.grad, given - (given * unit).sum(-1, keepdim=True) * unit)
