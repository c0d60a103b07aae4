"""AnglE against its authors' program and sentence-transformers (oracles), complex numbers, pencil and limits."""

import math

import pytest
import torch

from cse import AnglE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors

ALONE = {"in_batch_weight": 0.0, "angle_weight": 1.0}


def objective_of(case):
    if case["kind"] == "angle":
        return AnglE(**ALONE, angle_temperature=1 / case["scale"])
    terms = {"in_batch": "ibn", "angle": "angle", "cosine": "cosine"}
    weights = {f"{name}_weight": case[f"{short}_w"] for name, short in terms.items()}
    return AnglE(**weights, **{f"{name}_temperature": 1 / case[f"{short}_tau"] for name, short in terms.items()})


@pytest.mark.parametrize("name", cases("angle"))
def test_every_case(name):
    about, data = load("angle", name)
    rows, leaves = vectors(data)
    output = run(objective_of(about), rows, score=data.get("score"))
    terms = {"angle", "cosine", "in_batch"} & about.keys() & output.metrics.keys()
    agrees(output, about, data, leaves, **{term: term for term in terms})


def test_pairs_of_score_1_alone_are_positives_in_the_batch():
    rows = torch.randn(4, 2, 6, dtype=torch.float64)
    score = torch.tensor([1.0, 0.9, 0.0, 1.0])
    texts = torch.nn.functional.normalize(rows.flatten(0, 1), dim=-1)
    logits = (texts @ texts.T / 0.05).fill_diagonal_(-math.inf)
    partner = torch.arange(8) ^ 1
    each = torch.nn.functional.cross_entropy(logits, partner, reduction="none")
    want = (each * (score.repeat_interleave(2) == 1)).sum() / 8
    got = run(AnglE(angle_weight=0.0), rows, score=score).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
