"""Row weights in the objectives that contrast rows: against slow loops over rows, sum_i w_i l_i / sum_i w_i."""

import math

import pytest
import torch

from cse.batch import Views
from cse.objectives.clhaif import CLHAIF
from cse.objectives.dclr import DCLR
from cse.objectives.promcse import PromCSE
from cse.objectives.simcse import SimCSE
from cse.objectives.whitenedcse import WhitenedCSE
from tests.objectives.helpers import batch_of, run

SIZE = 5
SCORE = [0.9, 0.2, 0.5, 1.0, 0.4]
WEIGHTS = [[1.0] * 5, [2.0, 1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.5, 2.0, 1.0]]


def views(seed, count):
    return torch.randn(SIZE, count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(u, v):
    return float(u @ v / (u.norm() * v.norm()))


def log_softmax(logits):
    total = math.log(sum(math.exp(x) for x in logits))
    return [x - total for x in logits]


def infonce(rows, i, positive=1, negative=()):
    """-log softmax of row i's positive among the same view of all rows and all hard negatives."""
    logits = [cosine(rows[i, 0], rows[j, positive]) / 0.05 for j in range(SIZE)]
    logits += [cosine(rows[i, 0], rows[j, n]) / 0.05 for n in negative for j in range(SIZE)]
    return -log_softmax(logits)[i]


def hinge(rows, i):
    others = [cosine(rows[i, 0], rows[j, 1]) for j in range(SIZE) if j != i]
    others += [cosine(rows[i, 0], rows[j, 2]) for j in range(SIZE)]
    return max(0.0, 0.2 + max(others) - cosine(rows[i, 0], rows[i, 1]))


def softened(rows, i):
    logits = [cosine(rows[i, 0], rows[j, v]) / 0.05 for v in (1, 2) for j in range(SIZE)]
    rest = (1 - SCORE[i]) / (2 * SIZE - 1)
    return -sum((SCORE[i] if j == i else rest) * p for j, p in enumerate(log_softmax(logits)))


def without_whitening():
    objective = WhitenedCSE()
    objective.head = torch.nn.Identity()
    objective._whiten = lambda rows, *_: rows
    return objective


CASES = {
    "SimCSE": (SimCSE(), 3, lambda rows, i: infonce(rows, i, negative=[2])),
    "CLHAIF positive": (CLHAIF(), 3, lambda rows, i: SCORE[i] * infonce(rows, i, negative=[2])),
    "CLHAIF all": (CLHAIF(smooth="all"), 3, softened),
    "PromCSE": (PromCSE(), 3, lambda rows, i: infonce(rows, i, negative=[2]) + 10 * hinge(rows, i)),
    "WhitenedCSE": (without_whitening(), 3, lambda rows, i: infonce(rows, i, 1) + infonce(rows, i, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_weighted_mean_of_the_rows(name):
    objective, count, slow = CASES[name]
    assert objective.weighs_rows
    rows, positives = views(0, count), 2 if name == "WhitenedCSE" else 1
    each = [slow(rows, i) for i in range(SIZE)]
    score = torch.tensor(SCORE, dtype=torch.float64)
    plain = run(objective, rows, positives, score=score).loss
    assert plain.item() == pytest.approx(sum(each) / SIZE, rel=1e-9)
    for weight in WEIGHTS:
        got = run(objective, rows, positives, score=score, weight=torch.tensor(weight)).loss
        want = sum(w * x for w, x in zip(weight, each, strict=True)) / sum(weight)
        assert got.item() == pytest.approx(want, rel=1e-9), weight
    ones = run(objective, rows, positives, score=score, weight=torch.ones(SIZE)).loss
    assert ones.item() == pytest.approx(plain.item(), rel=1e-15)
    assert run(objective, rows, positives, score=score, weight=torch.zeros(SIZE)).loss == 0


def dclr(rows, noise, i, form):
    """A row of DCLR at t = 1, which loses candidate i + 1."""
    logits = [cosine(rows[i, 0], rows[j, 1]) for j in range(SIZE)] + [cosine(rows[i, 0], n) for n in noise]
    gone = (i + 1) % SIZE
    if form == "removal":
        kept = [x for j, x in enumerate(logits) if j != gone]
        return math.log(sum(map(math.exp, kept))) - logits[i]
    logits[gone] = 0.0
    shares = [math.exp(x) for x in log_softmax(logits)]
    return -sum(math.log(p if j == i else 1 - p) for j, p in enumerate(shares)) / len(shares)


@pytest.mark.parametrize("form", ["removal", "weighted_logits"])
def test_dclr_weighs_its_rows(form):
    objective = DCLR(complement="-", temperature=1.0, ascent_steps=0, form=form)
    assert objective.weighs_rows
    rows, noise = views(1, 2), views(2, 2)[:3, 0]
    judged = torch.eye(SIZE).roll(1, 1)
    each = [dclr(rows, noise, i, form) for i in range(SIZE)]
    for weight in WEIGHTS:
        batch = batch_of(SIZE, 2, weight=torch.tensor(weight))
        got = objective.loss(Views.split(rows, rows, 1), batch, judged, noise).loss
        want = sum(w * x for w, x in zip(weight, each, strict=True)) / sum(weight)
        assert got.item() == pytest.approx(want, rel=1e-9), weight


def test_dclrs_noise_does_not_see_a_row_of_weight_0():
    """The ascent follows the loss that is minimized: with one weight it is the ascent against that row alone."""
    rows, noise = views(3, 2), views(4, 2)[:3, 0]
    weight = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    objective = DCLR(complement="-", ascent_rate=0.1, temperature=1.0)
    batch = batch_of(SIZE, 2, weight=weight)
    got = objective.loss(Views.split(rows, rows, 1), batch, torch.zeros(SIZE, SIZE), noise).loss
    moved = noise.clone()
    for _ in range(4):
        moved.requires_grad_()
        logits = torch.cat([rows[:, 1], moved]) @ rows[2, 0] / rows[2, 0].norm()
        logits = logits / torch.cat([rows[:, 1], moved]).norm(dim=1)
        (gradient,) = torch.autograd.grad(logits.logsumexp(0) - logits[2], moved)
        moved = (moved + 0.1 * gradient / gradient.norm(dim=1, keepdim=True)).detach()
    logits = [cosine(rows[2, 0], rows[j, 1]) for j in range(SIZE)] + [cosine(rows[2, 0], n) for n in moved]
    assert got.item() == pytest.approx(-log_softmax(logits)[2], rel=1e-9)
