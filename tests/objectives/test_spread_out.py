"""The spread-out term against sentence-transformers, a loop over pairs, and in its limits."""

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss

from cse import SpreadOut
from cse.objectives.parts import blocks
from tests.objectives.helpers import run


@pytest.mark.parametrize(("mean", "second"), [(1.0, 1.0), (0.0, 2.0), (3.0, 0.0)])
def test_it_equals_sentence_transformers(mean, second):
    rows = torch.randn(7, 2, 6, dtype=torch.float64) + 0.3
    theirs = GlobalOrthogonalRegularizationLoss(torch.nn.Identity(), mean_weight=mean, second_moment_weight=second)
    want = sum(theirs.compute_loss_from_embeddings([rows[:, 0], rows[:, 1]]).values())
    got = run(SpreadOut(mean_weight=mean, second_weight=second), rows).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-9)


@pytest.mark.parametrize("block", [blocks.BLOCK_BYTES, 64])
def test_weights_and_texts_equal_a_loop_over_pairs(block, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    rows, weight = torch.randn(5, 2, 3, dtype=torch.float64) + 1, [2.0, 1.0, 0.0, 0.5, 1.0]
    texts = [[0, 1], [2, 3], [4, 5], [3, 6], [7, 0]]  # rows 0 and 4, and 1 and 3, have a text in common
    z, want = rows / rows.norm(dim=-1, keepdim=True), 0.0
    pairs = [(i, j) for i in range(5) for j in range(i) if not set(texts[i]) & set(texts[j])]
    total = sum(weight[i] * weight[j] for i, j in pairs)
    for view in (0, 1):
        cosines = [(weight[i] * weight[j], float(z[i, view] @ z[j, view])) for i, j in pairs]
        first, second = (sum(w * c**k for w, c in cosines) / total for k in (1, 2))
        want += (first**2 + max(0.0, second - 1 / 3)) / 2
    got = run(SpreadOut(), rows, weight=torch.tensor(weight), text_id=torch.tensor(texts)).loss
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_orthogonal_texts_have_nothing_to_spread_and_equal_ones_all_of_it():
    assert run(SpreadOut(), torch.eye(4)[:, None].repeat(1, 2, 1)).loss.item() == 0
    assert run(SpreadOut(), torch.ones(4, 2, 4)).loss.item() == pytest.approx(1 + 3 / 4)
