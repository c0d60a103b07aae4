"""CLHAIF: oracles, pencil, limits."""

import pytest
import torch

from cse import CLHAIF, SimCSE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run


@pytest.mark.parametrize("name", cases("claif", has=("smooth", "loss")))
def test_every_case_of_the_authors_program(name):
    about, data = load("claif", name)
    states = data["hs"].requires_grad_()  # (3 B, L, H)
    objective = CLHAIF(smooth={"no_smooth": "none"}.get(about["smooth"], about["smooth"].removeprefix("smooth_")))
    output = run(objective, states[:, 0].unflatten(0, (-1, 3)), score=data["scores"][:, 0])
    agrees(output, about, data, {"hs": states})


@pytest.mark.parametrize("smooth", ["positive", "all", "none"])
def test_all_scores_1_equal_simcse(smooth):
    rows = torch.randn(5, 3, 8)
    got = run(CLHAIF(smooth=smooth, hard_negative_weight=0.7), rows, score=torch.ones(5)).loss
    assert got.item() == pytest.approx(run(SimCSE(hard_negative_weight=0.7), rows).loss.item(), rel=1e-6)


def test_all_is_a_soft_cross_entropy_also_where_candidates_are_masked():
    rows, score = torch.randn(4, 3, 6), torch.tensor([0.9, 0.0, 0.4, 1.0])
    exists = torch.tensor([[True, True, True]] * 3 + [[True, True, False]])
    got = run(CLHAIF(smooth="all"), rows, score=score, view_mask=exists).loss
    candidates = torch.cat([rows[:, 1], rows[:3, 2]])  # 7 are there
    logits = torch.nn.functional.cosine_similarity(rows[:, None, 0], candidates[None], dim=-1) / 0.05
    target = ((1 - score) / 6)[:, None].repeat(1, 7)
    target[range(4), range(4)] = score
    assert got.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, target).item(), rel=1e-5)
