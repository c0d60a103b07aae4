"""Alignment and uniformity as a loss: the authors' programs (oracles), pencil, limits, properties."""

import numpy as np
import pytest
import torch

from cse import AlignUniform
from tests.objectives.helpers import run


def slow(rows, weight, texts):
    """The loss with weights and texts, pair by pair, over two views."""
    z = rows[:, :2] / rows[:, :2].norm(dim=-1, keepdim=True)
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
    """Of an anchor and a positive; the hard negative takes no part."""
    rows, weight = torch.randn(5, 3, 6, dtype=torch.float64), [2.0, 1.0, 0.0, 0.5, 1.0]
    texts = [[0, 1], [2, 3], [4, 5], [3, 6], [7, 0]]  # rows 0 and 4, and 1 and 3, have a text in common
    given = torch.tensor([[*pair, 10 + i] for i, pair in enumerate(texts)])
    got = run(AlignUniform(align_weight=0.4), rows, weight=torch.tensor(weight), text_id=given)
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
