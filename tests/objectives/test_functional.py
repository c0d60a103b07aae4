"""The kernel against direct loops, limits and pencil."""

import math

import numpy as np
import pytest
import torch

from cse.objectives.parts.functional import (
    alignment,
    contrast,
    cosine_matrix,
    log_hardness,
    normalize,
    of_present,
    paired_distance,
    triplet,
    uniformity,
)
from tests.cases import ORACLES, files


def slow(logits, target, mask, denominator, reduce):
    """`contrast` by the definition, one candidate at a time."""
    total, count = 0.0, 0
    for s, t, m in zip(logits.tolist(), target.tolist(), mask.tolist(), strict=True):
        positive = [j for j in range(len(s)) if t[j] > 0 and m[j]]
        negative = [j for j in range(len(s)) if t[j] == 0 and m[j]]
        if not positive:
            continue
        weight = {p: t[p] / sum(t[q] for q in positive) for p in positive}
        ratio = {}
        for p in positive:
            members = {"all": positive + negative, "self": [p, *negative], "none": negative}[denominator]
            ratio[p] = math.exp(s[p]) / sum(math.exp(s[j]) for j in members)
        if reduce == "out":
            total += -sum(weight[p] * math.log(ratio[p]) for p in positive)
        else:
            total += -math.log(sum(weight[p] * ratio[p] for p in positive))
        count += 1
    return total / count


@pytest.mark.parametrize("denominator", ["all", "self", "none"])
@pytest.mark.parametrize("reduce", ["out", "in"])
def test_contrast_equals_a_direct_loop(denominator, reduce):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 9, generator=generator, dtype=torch.float64) * 4
    target = (torch.rand(7, 9, generator=generator) > 0.6).double() * torch.rand(7, 9, generator=generator).double()
    target[3] = 0  # a row without a positive
    mask = torch.rand(7, 9, generator=generator) > 0.2
    got = contrast(logits, target, mask=mask, denominator=denominator, reduce=reduce)
    assert got.loss.item() == pytest.approx(slow(logits, target, mask, denominator, reduce), abs=1e-10)
    assert got.skipped.item() == sum(not bool(((t > 0) & m).any()) for t, m in zip(target, mask, strict=True))


@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 3.0, 0.5]])
def test_weights_of_rows(weight):
    """A row without a positive counts nowhere, whatever it weighs; `row_weight` changes a row, not what it counts."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, -1.0], [5.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    given, factor = None if weight is None else torch.tensor(weight), torch.tensor([2.0, 1.0, 0.5, 7.0])
    got = contrast(logits, target, weight=given, row_weight=factor)
    own = [2 * math.log(1 + math.e), math.log(1 + math.e**2), 0.5 * math.log(1 + math.e**-2), 0.0]
    counts = [1.0, 1.0, 1.0, 0.0] if weight is None else [*weight[:3], 0.0]
    assert got.rows.tolist() == pytest.approx(own)
    assert got.loss.item() == pytest.approx(sum(a * b for a, b in zip(own, counts, strict=True)) / sum(counts))


@pytest.mark.parametrize("denominator", ["all", "self", "none"])
@pytest.mark.parametrize("reduce", ["out", "in"])
def test_a_masked_entry_may_hold_anything(denominator, reduce):
    logits = torch.tensor([[1.0, 2.0, float("nan")], [0.5, -1.0, float("inf")]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    result = contrast(logits, target, mask=mask, denominator=denominator, reduce=reduce)
    result.loss.backward()
    want = contrast(logits.detach()[:, :2], target[:, :2], denominator=denominator, reduce=reduce).loss
    assert result.loss.item() == pytest.approx(want.item())
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 2] == 0).all()


def test_half_precision_is_computed_in_float32():
    logits = (torch.randn(4, 4) * 20).bfloat16()
    assert contrast(logits, torch.eye(4)).loss.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine_matrix(torch.randn(2, 8), torch.randn(3, 8)).dtype == torch.float32


@pytest.mark.parametrize("name", files("align_uniform*.npz", but="align_uniform_loss"))
def test_alignment_and_uniformity_equal_the_oracle(name):
    case = {key: torch.tensor(value) for key, value in np.load(ORACLES / name).items()}
    assert alignment(case["x"], case["y"]).item() == pytest.approx(case["align_alpha2"].item(), rel=1e-5)
    assert uniformity(case["x"]).item() == pytest.approx(case["uniform_t2"].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("distance", "near", "far"),
    [("euclidean", 5.0, 13.0), ("squared", 25.0, 169.0), ("cosine", 0.4, 1.0), ("dot", -9.0, -19.0)],
)
def test_triplet_by_pencil(distance, near, far):
    # From (1, 1), (4, 5) is 3 and 4 away and (6, 13) is 5 and 12; (1, 0) has cosine 0.6 with (3, 4) and 0 with (0, 2).
    plane = ([1.0, 1.0], [4.0, 5.0], [6.0, 13.0]) if distance != "cosine" else ([1.0, 0.0], [3.0, 4.0], [0.0, 2.0])
    a, p, n = (torch.tensor(x, dtype=torch.float64) for x in plane)
    assert paired_distance(a, p, distance).item() == pytest.approx(near)
    assert paired_distance(a, n, distance).item() == pytest.approx(far)
    assert triplet(a, p, n, distance=distance, margin=far - near + 2).item() == pytest.approx(2)
    assert triplet(a, p, n, distance=distance, margin=far - near - 2).item() == 0.0


def test_unit_vectors_and_one_without_direction():
    """The gradient of v / |v| is that of v across it, over |v|; that of a vector of zeros is not divided by a floor."""
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2e-8]], requires_grad=True)
    unit = normalize(rows)
    assert unit.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0], [0.0, 1.0]]
    unit[:, 0].sum().backward()
    assert rows.grad[0].tolist() == pytest.approx([0.8 * 0.8 / 5, -0.6 * 0.8 / 5])
    assert rows.grad[1].tolist() == [1.0, 0.0]
    assert normalize(rows.bfloat16()).dtype == torch.float32


def test_hardness_by_pencil():
    # e^{2 S}: 1 and 9 over two negatives: weights 2/10 and 18/10
    logits = torch.tensor([[5.0, 0.0, math.log(3.0)]], dtype=torch.float64)
    negative = torch.tensor([[False, True, True]])
    assert log_hardness(logits, negative, 2.0).exp().tolist() == [pytest.approx([1.0, 0.2, 1.8])]


def test_a_function_of_a_batch_sees_the_rows_that_exist():
    rows, present = torch.randn(3, 2, 4), torch.tensor([[True, True], [True, False], [True, True]])
    centered = of_present(lambda x: x - x.mean(0), rows, present)
    mean = sum(rows[i, v] for i, v in [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]) / 5
    torch.testing.assert_close(centered[present], rows[present] - mean)
    assert not centered[1, 1].any()
    torch.testing.assert_close(of_present(lambda x: x - x.mean(0), rows, None), rows - rows.mean((0, 1)))
