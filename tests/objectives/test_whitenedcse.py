"""WhitenedCSE and its whitening against the authors' program (oracles), a slow loop, pencil and limits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from cse.objectives import whitenedcse
from cse.objectives.whitenedcse import WhitenedCSE, group_whiten
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, close, run


def contract_case(backbone):
    few = "a group needs more rows than channels"
    refuses = {"batch of 2": few, "dimension 1": "group_size is 4, which does not divide the 1"}
    return Case({"group_size": 4}, refuses=refuses)


def set_up(dim, **arguments):
    torch.manual_seed(0)
    objective = WhitenedCSE(**arguments)
    objective.setup(SimpleNamespace(dim=dim))
    return objective


def feed(monkeypatch, permutations):
    """Make the objective draw these permutations."""
    left = iter([torch.as_tensor(p) for p in permutations])
    monkeypatch.setattr(whitenedcse.torch, "randperm", lambda *_, **__: next(left))


def numpy_whiten(x, size):
    """One group after the other, by the definition, in float64."""
    x = np.asarray(x, dtype=np.float64)
    out = np.empty_like(x)
    for g in range(0, x.shape[1], size):
        y = x[:, g : g + size] - x[:, g : g + size].mean(0)
        values, vectors = np.linalg.eigh(y.T @ y / len(y))
        out[:, g : g + size] = y @ (vectors / np.sqrt(values)) @ vectors.T
    return out


@pytest.mark.parametrize("name", cases("whitenedcse", has=("D", "G")))
def test_every_whitening_case(name):
    """In training, blocks of rows have an order of the channels each; else all rows have the last one drawn."""
    about, data = load("whitenedcse", name)
    x = data["x"].requires_grad_()
    orders = list(data["perms"]) or [None] * about.get("chunks", 3)
    orders = orders if about.get("train", True) else orders[-1:]
    blocks = zip(x.chunk(len(orders)), orders, strict=True)
    y = torch.cat([group_whiten(b, about["D"] // about["G"], permutation=order) for b, order in blocks])
    close(y, data["y"])
    (y * data["cotangent"]).sum().backward()
    close(x.grad, data["grad_x"])


@pytest.mark.parametrize("name", cases("whitenedcse"))
def test_every_loss_case(name, monkeypatch):
    about, data = load("whitenedcse", name)
    states = data["hs"].requires_grad_()  # (B V, L, D)
    groups = about.get("G", 8)
    objective = set_up(states.shape[-1], group_size=states.shape[-1] // groups, shuffle="contiguous")
    objective.head.linear.load_state_dict({"weight": data["dense_w"], "bias": data["dense_b"]})
    feed(monkeypatch, data["perms"])
    rows = states[:, 0].unflatten(0, (about["B"], -1))
    agrees(run(objective, rows, positives=rows.shape[1] - 1), about, data, {"hs": states})


@pytest.mark.parametrize("twins", [False, True])
def test_per_view_is_the_paper_step_by_step(monkeypatch, twins):
    """Rows 0 and 1 may have one text, so that neither is the other's negative."""
    rows = torch.randn(9, 3, 8, generator=torch.Generator().manual_seed(3))
    orders = [torch.randperm(8, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    objective = set_up(8, group_size=4)
    feed(monkeypatch, orders)
    ids = torch.arange(9)[:, None].expand(9, 3).clamp_min(int(twins))
    got = run(objective, rows, positives=2, text_id=ids).loss
    heads, gone = [], torch.zeros(9, 9)
    gone[[0, 1], [1, 0]] = -torch.inf if twins else 0.0
    for v, order in enumerate(orders):
        white = numpy_whiten(rows[:, v, order], 4)[:, order.argsort().numpy()]
        heads.append(objective.head(torch.tensor(white, dtype=torch.float32)))
    logits = [cosine_similarity(heads[0][:, None], z[None], dim=-1) / 0.05 + gone for z in heads[1:]]
    assert got.item() == pytest.approx(sum(cross_entropy(x, torch.arange(9)) for x in logits).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rank_deficient_group_stays_finite(dtype):
    rows = torch.randn(12, 2, 8)
    rows[..., 1] = 7.3  # constant
    rows[..., 3] = rows[..., 2]  # repeated
    rows = rows.to(dtype).requires_grad_()
    objective = set_up(8, group_size=4)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = run(objective, rows).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(rows.grad).all()
    assert rows.grad.abs().max() < 1e3
    plain = group_whiten(rows[:, 0].float(), 4)
    assert plain[:, 1].abs().max() < 1e-3
