"""CosineDistillation: pencil, a plain computation, the start of its layer, a teacher that is asked, errors."""

from functools import partial

import numpy as np
import pytest
import torch

from cse import CosineDistillation, FrozenViewEncoder
from tests.objectives.helpers import Case, run, sized


def contract_case(backbone):
    return Case({"teacher": FrozenViewEncoder(source=backbone)})


built = partial(sized, CosineDistillation)


def test_by_pencil():
    objective = built(2)
    with torch.no_grad():  # as if it was only scored: the layer is still the identity
        same = run(objective, torch.tensor([[[3.0, 4.0]]]), positives=0, teacher=torch.tensor([[6.0, 8.0]]))
        right = run(objective, torch.tensor([[[3.0, 4.0]]]), positives=0, teacher=torch.tensor([[-4.0, 3.0]]))
    assert same.loss.item() == pytest.approx(0, abs=1e-6)
    assert right.loss.item() == pytest.approx(1)
    assert right.metrics["teacher_cosine"].item() == pytest.approx(0, abs=1e-6)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("size", [4, 6])
def test_the_first_batch_sets_the_mean_and_a_plain_computation_agrees(size):
    objective, rows, vectors = built(4, dim=size), torch.randn(5, 2, 4), torch.randn(5, 2, size)
    layer = objective.project.weight.detach().numpy().copy()
    u, t = unit(rows.numpy().reshape(10, 4)), unit(vectors.numpy().reshape(10, size))
    bias = t.mean(0) - (u @ layer.T).mean(0)
    want = 1 - (unit(u @ layer.T + bias) * t).sum(1).mean()
    got = run(objective, rows, teacher=vectors.flatten(1)).loss
    assert got.item() == pytest.approx(want, rel=1e-5)
    assert np.allclose(objective.project.bias.detach().numpy(), bias, atol=1e-6)
    again = run(objective, rows * 2 + 1, teacher=vectors.flatten(1))  # a later batch does not set it again
    assert np.allclose(objective.project.bias.detach().numpy(), bias, atol=1e-6)
    again.loss.backward()
    assert objective.project.weight.grad.abs().max() > 0


def test_a_resumed_run_keeps_the_layer():
    rows, vectors = torch.randn(5, 2, 4), torch.randn(5, 8)
    first, second = built(4), built(4)
    run(first, rows, teacher=vectors)
    second.load_state_dict(first.state_dict())
    want = run(first, rows + 1, teacher=vectors).loss.item()
    assert run(second, rows + 1, teacher=vectors).loss.item() == pytest.approx(want, rel=1e-7)
