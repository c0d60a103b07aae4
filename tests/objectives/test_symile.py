"""Symile: the authors' program (oracles), a direct loop, properties."""

import itertools
import math

import pytest
import torch

from cse import Symile
from cse.objectives.parts.functional import normalize
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run, vectors


def contract_case(backbone):
    return Case(texts=2)


@pytest.mark.parametrize("name", cases("symile"))
def test_every_case_of_the_authors_program(name):
    about, data = load("symile", name)
    rows, leaves = vectors(data)
    objective = Symile(negatives=about["negatives"], temperature=1 / about["logit_scale"])
    if about["negatives"] == "n":
        output = objective.loss(normalize(rows).unbind(1), data["permutations"])
    else:
        output = run(objective, rows, rows.shape[1] - 1, row_id=torch.arange(len(rows)))
    agrees(output, about, data, leaves)


def slow(rows, scale, weight, texts):
    """All combinations, one by one; those whose texts are the anchor row's own are left out."""
    z, (size, slots, _) = rows / rows.norm(dim=-1, keepdim=True), rows.shape
    total = 0.0
    for k in range(slots):
        others = [j for j in range(slots) if j != k]
        for i in range(size):
            own = math.exp(scale * float(z[i].prod(0).sum()))
            below = own
            for combination in itertools.product(range(size), repeat=slots - 1):
                found = list(zip(combination, others, strict=True))
                if any(texts[row][j] != texts[i][j] for row, j in found):
                    product = z[i, k].clone()
                    for row, j in found:
                        product = product * z[row, j]
                    below += math.exp(scale * float(product.sum()))
            total -= weight[i] * math.log(own / below) / (slots * sum(weight))
    return total


@pytest.mark.parametrize("slots", [2, 3])
def test_all_combinations_equal_a_direct_loop(slots):
    rows, weight = torch.randn(4, slots, 6, dtype=torch.float64), [2.0, 1.0, 0.0, 0.5]
    texts = [[0, 1, 2][:slots], [3, 4, 5][:slots], [6, 7, 8][:slots], [3, 4, 5][:slots]]  # rows 1 and 3 are alike
    fields = {"weight": torch.tensor(weight), "text_id": torch.tensor(texts), "row_id": torch.arange(4)}
    got = run(Symile(negatives="n_squared", temperature=0.2), rows, slots - 1, **fields).loss
    assert got.item() == pytest.approx(slow(rows, 5.0, weight, texts), rel=1e-6)


def test_a_shuffle_that_hits_the_true_combination_is_masked():
    """Where every shuffle is the identity, a candidate of another row is never the row's own; shifted, it is once."""
    rows, texts = torch.randn(3, 2, 4, dtype=torch.float64), torch.arange(6).view(3, 2).T
    slots = normalize(rows).unbind(1)
    shift = torch.tensor([[[1, 2, 0]], [[1, 2, 0]]])
    cosine = slots[0] @ slots[1].T
    total = 0.0
    for logits in (cosine, cosine.T):  # anchor i meets itself in column i, and j + 1 in column j != i
        for i in range(3):
            kept = [logits[i, i]] + [logits[i, (j + 1) % 3] for j in range(3) if j not in (i, (i - 1) % 3)]
            total += float(torch.logsumexp(torch.stack(kept), 0) - logits[i, i]) / 6
    objective = Symile(temperature=1.0)
    assert objective.loss(slots, shift, texts).loss.item() == pytest.approx(total, rel=1e-6)
    assert objective.loss(slots, shift).loss.item() > total


def test_the_scale_starts_where_logits_of_unrelated_rows_are_about_1_and_is_learned():
    for slots in (2, 3, 4):
        rows = torch.randn(64, slots, 256)
        objective = Symile()
        output = run(objective, rows, slots - 1, row_id=torch.arange(64))
        scale = output.metrics["scale"]
        product = normalize(rows).prod(1).sum(-1) * scale
        assert 0.5 < product.std() < 2
        output.loss.backward()
        assert objective.log_scale.grad != 0
