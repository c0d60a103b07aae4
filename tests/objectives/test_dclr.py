"""DCLR against the authors' program (oracles), pencil and limits."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, linear

from cse import DCLR, Encoder, StepContext, TextViews, Views
from cse.objectives.parts.candidates import in_batch
from cse.objectives.parts.functional import all_entries_bce, cosine_matrix
from cse.seeding import torch_rng
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, batch_of, collated, set_up


def contract_case(backbone):
    return Case({"complement": backbone})


def loss_of(objective, rows, judged, noise, **fields):
    """The loss of rows (B, V, D), given the complement's opinion and the noise."""
    return objective.loss(Views.split(rows, rows, 1), batch_of(len(rows), rows.shape[1], **fields), judged, noise)


def case_of(name):
    """Settings, arrays, the arguments of the objective, the leaf, rows (B, 2, D), and the complement's opinion."""
    about, data = load("dclr", name)
    rep = data["rep"].requires_grad_()
    rows = (torch.tanh(linear(rep, data["mlp_w"], data["mlp_b"])) if about["is_base"] else rep).unflatten(0, (-1, 2))
    fixed = data["fix"].unflatten(0, (-1, 2))
    arguments = {"complement": "-", "threshold": about["phi"], "ascent_steps": about["pgd"]}
    return about, data, arguments, rep, rows, cosine_matrix(fixed[:, 0], fixed[:, 1])


@pytest.mark.parametrize("name", cases("dclr"))
def test_every_case_of_the_authors_program(name):
    about, data, arguments, rep, rows, judged = case_of(name)
    output = loss_of(DCLR(**arguments, form="weighted_logits"), rows, judged, data["z_negative_init"])
    agrees(output, about, data, {"rep": rep})
    assert output.metrics["removed"].item() * len(rows) == pytest.approx(about["n_false_negatives"])
    assert int(len(rows) * about["noise_times"]) == len(data["z_negative_init"])


@pytest.mark.parametrize("name", cases("dclr"))
def test_every_case_of_the_papers_form(name):
    about, data, arguments, _, rows, judged = case_of(name)
    got = loss_of(DCLR(**arguments), rows, judged, data["z_negative_init"]).loss
    assert got.item() == pytest.approx(about["infonce_with_removed_false_negatives"], rel=1e-5)


def test_bce_is_finite_where_p_rounds_to_1():
    logits = torch.tensor([[400.0, 0.0, 1.0], [400.0, 0.0, -torch.inf]], requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    mask = torch.isfinite(logits)
    loss = all_entries_bce(logits, target, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_complement_decides_which_negatives_are_removed(tiny_bert):
    """The removed share of a step equals the share of pairs that the complement's own vectors put above phi."""
    encoder, objective = set_up(tiny_bert, DCLR(complement=tiny_bert), head="mlp")
    texts = ["the cat sat on a mat", "the dog", "red house", "blue tree sun moon"]
    vectors = torch.tensor(Encoder.load(tiny_bert).encode(texts))
    cosine = cosine_matrix(vectors, vectors)
    others = cosine[~torch.eye(4, dtype=torch.bool)].sort().values
    objective.threshold = float(others[5:7].mean())  # between two of the six different cosines, each of which is double
    rows, context = torch.randn(4, 2, 16), StepContext(encoder, generator=torch.Generator().manual_seed(0))
    output = objective(Views.split(rows, rows, 1), collated(encoder, texts, TextViews(max_length=12)), context)
    assert output.metrics["removed"] * 4 == (others > objective.threshold).sum() == 6


# Weights of rows, against slow loops
ROWS, NOISE = (torch.randn(*size, 8, dtype=torch.float64, generator=torch_rng("dclr")) for size in ((5, 2), (3,)))


def logits_of(i, noise):
    """The cosines of row i's anchor with the positives and with noise."""
    return cosine_similarity(ROWS[i, :1], torch.cat([ROWS[:, 1], noise]))


@pytest.mark.parametrize("form", ["removal", "weighted_logits"])
@pytest.mark.parametrize("weight", [[1.0] * 5, [3.0, 0.0, 0.5, 2.0, 1.0]])
def test_it_weighs_its_rows(form, weight):
    """At t = 1, where row i loses candidate i + 1."""
    want = 0.0
    for i, w in enumerate(weight):
        logits, gone = logits_of(i, NOISE), (i + 1) % 5
        logits[gone] = 0.0 if form == "weighted_logits" else -torch.inf
        p = logits.softmax(0)
        others = torch.cat([p[:i], p[i + 1 :]])
        row = -p[i].log() if form == "removal" else -(p[i].log() + (1 - others).log().sum()) / 8
        want += w * row.item() / sum(weight)
    objective = DCLR(complement="-", temperature=1.0, ascent_steps=0, form=form)
    got = loss_of(objective, ROWS, torch.eye(5).roll(1, 1), NOISE, weight=torch.tensor(weight)).loss
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_the_noise_does_not_see_a_row_of_weight_0():
    """The ascent follows the loss that is minimized: with one weight it is the ascent against that row alone."""
    objective = DCLR(complement="-", ascent_rate=0.1, temperature=1.0)
    got = loss_of(objective, ROWS, torch.zeros(5, 5), NOISE, weight=torch.eye(5)[2]).loss
    moved = NOISE.clone()
    for _ in range(4):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(-logits_of(2, moved).log_softmax(0)[2], moved)
        moved = (moved + 0.1 * gradient / gradient.norm(dim=1, keepdim=True)).detach()
    assert got.item() == pytest.approx(-logits_of(2, moved).log_softmax(0)[2].item(), rel=1e-9)


# MultiCSR, whose third stage is DCLR without noise and with hard negatives
@pytest.mark.parametrize("form", ["weighted_logits", "removal"])
@pytest.mark.parametrize("name", cases("multicsr"))
def test_every_case_of_multicsr(name, form):
    about, data = load("multicsr", name)
    rep = data["rep"].requires_grad_()  # rows item-major: anchor, positive, hard negative
    rows = torch.tanh(linear(rep, data["mlp_w"], data["mlp_b"])) if about["head"] else rep
    rows, fixed = (t.unflatten(0, (about["B"], -1)) for t in (rows, data["fix"]))
    judged = in_batch(Views.split(fixed, fixed, 1), batch_of(*fixed.shape[:2])).similarity
    objective = DCLR(temperature=about["temperature"], threshold=about["phi"], noise_ratio=0.0, form=form)
    output = loss_of(objective, rows, judged, torch.zeros(0, rows.shape[-1]))
    assert output.metrics["removed"].item() * len(rows) == pytest.approx(about["n_false_negatives"])
    if form == "removal":
        assert output.loss.item() == pytest.approx(about["infonce_with_removed_false_negatives"], rel=1e-5)
    else:
        agrees(output, about, data, {"rep": rep})
