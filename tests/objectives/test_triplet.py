"""Triplet: the programs of SciNCL, Phrase-BERT and StyleDistance (oracles), pencil, a slow loop, properties."""

import numpy as np
import pytest
import torch

from cse.errors import UserError
from cse.objectives.triplet import Triplet
from cse.objectives.weighted_sum import WeightedSum
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors

DISTANCES = ("euclidean", "squared", "cosine")
every_distance = pytest.mark.parametrize("distance", DISTANCES)


@pytest.mark.parametrize("name", cases("triplet"))
def test_every_case_of_the_authors_programs(name):
    about, data = load("triplet", name)
    rows, leaves = vectors(data)
    agrees(run(Triplet(distance=about["distance"], margin=about["margin"]), rows), about, data, leaves)


def test_by_pencil():
    # Row 0: 3 from the positive and 4 from the negative; row 1: 5 and 2. With margin 2: 1 and 5.
    rows = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [3.0, 4.0], [2.0, 0.0]]])
    assert run(Triplet(margin=2.0), rows).loss.item() == pytest.approx(3.0)
    squared = run(Triplet(distance="squared", margin=2.0), rows)  # 9 - 16 + 2 < 0, 25 - 4 + 2
    assert squared.loss.item() == pytest.approx(23 / 2)
    assert squared.metrics["active"].item() == 0.5


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


@every_distance
def test_without_a_margin_the_exchange_of_positive_and_negative_changes_the_loss_by_the_mean_gap(distance):
    rows = torch.randn(6, 3, 5, dtype=torch.float64)
    losses = [run(Triplet(distance=distance, margin=0.0), rows[:, order]).loss for order in ([0, 1, 2], [0, 2, 1])]
    # max(0, g) - max(0, -g) = g, and a margin that keeps every hinge active gives the mean of g + m
    shifted = run(Triplet(distance=distance, margin=1e3), rows).loss - 1e3
    assert (losses[0] - losses[1]).item() == pytest.approx(shifted.item(), rel=1e-6)


def test_length_counts_by_distance_and_not_by_cosine():
    rows = torch.randn(5, 3, 6, dtype=torch.float64)
    losses = {d: [run(Triplet(distance=d), rows * scale).loss.item() for scale in (1, 3)] for d in DISTANCES}
    assert losses["cosine"][1] == pytest.approx(losses["cosine"][0], rel=1e-9)
    assert losses["euclidean"][1] != pytest.approx(losses["euclidean"][0], rel=1e-3)
    turned = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    for distance in DISTANCES:
        turned_loss = run(Triplet(distance=distance), rows @ turned).loss.item()
        assert turned_loss == pytest.approx(losses[distance][0], rel=1e-9)


def test_the_checkpoint_is_compared_as_the_loss_compares():
    similarities = [Triplet(distance=distance).similarity for distance in DISTANCES]
    assert similarities == ["euclidean", "euclidean", "cosine"]
    assert Triplet(distance="cosine").note == ""
    assert WeightedSum(terms=[Triplet()], weights=[1.0]).similarity == "euclidean"


def test_refusals():
    with pytest.raises(UserError, match=r"objective\.margin is -1"):
        Triplet(margin=-1.0)
    for views, found in ((1, "0 and 0"), (2, "1 and 0")):
        with pytest.raises(ValueError, match=f"positive and a hard negative in each row; this batch has {found}"):
            run(Triplet(), torch.randn(3, views, 4), positives=views - 1)
