"""Triplet: the programs of SciNCL, Phrase-BERT and StyleDistance (oracles), pencil, a slow loop, properties."""

import numpy as np
import pytest
import torch

from cse import Triplet, WeightedSum
from tests.objectives.helpers import run

DISTANCES = ("euclidean", "squared", "cosine")
every_distance = pytest.mark.parametrize("distance", DISTANCES)


@every_distance
def test_several_positives_and_missing_negatives_by_a_slow_loop(distance):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)  # 2 positives and 3 hard negatives
    present = torch.ones(4, 6, dtype=torch.bool)
    present[1, 4:] = present[2, 3:] = False  # row 1 has one negative, row 2 none
    weight = torch.tensor([1.0, 2.0, 5.0, 0.5], dtype=torch.float64)

    def far(x, y):
        if distance == "cosine":
            return 1 - float(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y))
        return float(np.linalg.norm(x - y) if distance == "euclidean" else np.sum((x - y) ** 2))

    each = {}
    for i, row in enumerate(rows.numpy()):
        gaps = [
            max(0.0, far(row[0], row[p]) - far(row[0], row[n]) + 0.7)
            for p in (1, 2)
            for n in (3, 4, 5)
            if present[i, n]
        ]
        if gaps:
            each[i] = sum(gaps) / len(gaps)
    output = run(Triplet(distance=distance, margin=0.7), rows, 2, view_mask=present, weight=weight)
    want = sum(weight[i].item() * loss for i, loss in each.items()) / sum(weight[i].item() for i in each)
    assert output.loss.item() == pytest.approx(want, rel=1e-9)
    assert output.metrics["skipped"].item() == 1


def test_the_checkpoint_is_compared_as_the_loss_compares():
    similarities = [Triplet(distance=distance).similarity for distance in DISTANCES]
    assert similarities == ["euclidean", "euclidean", "cosine"]
    assert Triplet(distance="cosine").note == ""
    assert WeightedSum(terms=[Triplet()], weights=[1.0]).similarity == "euclidean"
