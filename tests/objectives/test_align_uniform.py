"""Alignment and uniformity as a loss: the authors' programs (oracles), pencil, limits, properties."""

import numpy as np
import pytest
import torch

from cse.objectives.align_uniform import AlignUniform
from cse.objectives.simcse import SimCSE
from cse.objectives.weighted_sum import WeightedSum
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


@pytest.mark.parametrize("name", cases("align_uniform_loss"))
def test_every_case_of_the_authors_programs(name):
    about, data = load("align_uniform_loss", name)
    rows, leaves = vectors(data)
    output = run(AlignUniform(alpha=about["alpha"], t=about["t"], uniform_weight=about["weight"]), rows)
    agrees(output, about, data, leaves, alignment="align", uniformity="uniform")


def slow(rows, weight, texts):
    """The loss with weights and texts, pair by pair, over two views."""
    z = rows / rows.norm(dim=-1, keepdim=True)
    align = sum(w * float((a - b).square().sum()) for w, (a, b) in zip(weight, z, strict=True)) / sum(weight)
    total = 0.0
    for view in (0, 1):
        pairs = [(i, j) for i in range(len(z)) for j in range(i) if not set(texts[i]) & set(texts[j])]
        kernel = [
            weight[i] * weight[j] * np.exp(-2 * float((z[i, view] - z[j, view]).square().sum())) for i, j in pairs
        ]
        total += np.log(sum(kernel) / sum(weight[i] * weight[j] for i, j in pairs)) / 2
    return 0.4 * align + total


def test_weights_and_texts_equal_a_direct_loop():
    rows, weight = torch.randn(5, 2, 6, dtype=torch.float64), [2.0, 1.0, 0.0, 0.5, 1.0]
    texts = [[0, 1], [2, 3], [4, 5], [3, 6], [7, 0]]  # rows 0 and 4, and 1 and 3, have a text in common
    got = run(AlignUniform(align_weight=0.4), rows, weight=torch.tensor(weight), text_id=torch.tensor(texts))
    assert got.loss.item() == pytest.approx(slow(rows, weight, texts), rel=1e-9)
    plain = slow(rows, [1.0] * 5, [[i] for i in range(5)])
    assert run(AlignUniform(align_weight=0.4), rows).loss.item() == pytest.approx(plain, rel=1e-9)


def test_a_batch_of_one_text_has_no_pairs_and_a_finite_gradient():
    rows = torch.ones(3, 2, 4, requires_grad=True)
    for alpha in (1.0, 2.0):
        loss = run(AlignUniform(alpha=alpha), rows, text_id=torch.zeros(3, 2, dtype=torch.int64)).loss
        loss.backward()
        assert loss.item() == 0
        assert torch.isfinite(rows.grad).all()


def test_it_is_a_regularizer_beside_a_contrastive_loss():
    rows = torch.randn(4, 3, 6)  # anchor, positive, hard negative
    both = WeightedSum(terms=[SimCSE(), AlignUniform()], weights=[1.0, 0.2])
    want = run(SimCSE(), rows).loss + 0.2 * run(AlignUniform(), rows[:, :2]).loss
    assert run(both, rows).loss.item() == pytest.approx(want.item(), rel=1e-6)
