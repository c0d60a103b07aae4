"""HN-NCE against an independent program, by pencil, and in the limit in which it is InfoNCE."""

import math

import pytest
import torch

from cse.objectives.hnnce import HNNCE
from cse.objectives.parts.functional import log_hardness
from tests.cases import cases, load
from tests.objectives.helpers import agrees, close, run, vectors

CASES = cases("hnnce", where=lambda about: about["layout"] == "pairs")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("held", [False, True])
def test_against_an_independent_program(name, held):
    about, data = load("hnnce", name)
    rows, leaves = vectors(data)
    objective = HNNCE(temperature=about["temperature"], alpha=about["alpha"], beta=about["beta"], detach_weights=held)
    both = {"anchor_to_positive": "loss_forward", "positive_to_anchor": "loss_backward"}
    agrees(run(objective, rows), about, data, leaves, suffix="_weights_held" if held else "", **both)


def test_weights_by_pencil_and_their_sum():
    # e^{2 S}: 1 and 9 over two negatives: weights 2/10 and 18/10
    logits = torch.tensor([[5.0, 0.0, math.log(3.0)]], dtype=torch.float64)
    negative = torch.tensor([[False, True, True]])
    assert log_hardness(logits, negative, 2.0).exp().tolist() == [pytest.approx([1.0, 0.2, 1.8])]
    x = torch.randn(4, 7, dtype=torch.float64)
    negative = torch.rand(4, 7) > 0.4
    negative[3] = False
    total = (log_hardness(x, negative, 1.5).exp() * negative).sum(1)
    close(total, negative.sum(1).double(), 1e-12)


def test_copies_of_a_text_are_no_negatives():
    """The third row repeats the first, so that each of the two has one negative instead of two."""
    x = torch.randn(2, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    twice = torch.cat([x, x[:1]])
    ids = torch.tensor([[0, 0], [1, 1], [0, 0]])
    weight = torch.tensor([1.0, 0.0, 0.0])
    got = run(HNNCE(), twice, text_id=ids, weight=weight).loss.item()
    assert got == pytest.approx(run(HNNCE(), x, weight=weight[:2]).loss.item(), rel=1e-9)
