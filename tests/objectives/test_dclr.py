"""DCLR against the authors' program (oracles), pencil and limits."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from cse.batch import Batch, Views
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.candidates import in_batch
from cse.objectives.dclr import DCLR
from cse.objectives.functional import all_entries_bce, cosine_matrix
from cse.objectives.simcse import SimCSE
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, batch_of, close, run


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


def test_by_pencil():
    # Three orthogonal anchors, positives alike, t = 1, one orthogonal noise vector; row 0 loses candidate 1.
    rows = torch.eye(4)[:3, None].expand(3, 2, 4)
    judged = torch.tensor([[1.0, 0.95, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    noise = torch.eye(4)[3:]
    e = math.e
    paper = DCLR(complement="-", temperature=1.0, ascent_steps=0)
    want = (math.log((e + 2) / e) + 2 * math.log((e + 3) / e)) / 3
    assert loss_of(paper, rows, judged, noise).loss.item() == pytest.approx(want, rel=1e-6)
    # The program's form leaves e^0 of it, so nothing changes here: its logit was 0 before.
    code = DCLR(complement="-", temperature=1.0, ascent_steps=0, form="weighted_logits")
    p, q = e / (e + 3), 1 / (e + 3)
    assert loss_of(code, rows, judged, noise).loss.item() == pytest.approx(
        -(math.log(p) + 3 * math.log(1 - q)) / 4, rel=1e-6
    )


def test_ascent_raises_the_loss_by_steps_of_the_given_length():
    rows, noise = torch.randn(5, 2, 6), torch.randn(3, 6)
    judged = torch.eye(5)
    made = {"complement": "-", "ascent_rate": 0.05, "temperature": 0.5}
    losses = [loss_of(DCLR(**made, ascent_steps=s), rows, judged, noise).loss.item() for s in (0, 1, 4)]
    assert losses[0] < losses[1] < losses[2]
    objective = DCLR(complement="-", ascent_steps=1, ascent_rate=0.05)
    moved = objective._ascend(noise, rows[:, 0], in_batch(Views.split(rows, rows, 1), batch_of(5, 2)))
    close((moved - noise).norm(dim=1), np.full(3, 0.05), 1e-5)


def test_threshold_1_removes_nothing():
    """Then, without noise, it is SimCSE; with noise, SimCSE whose denominator has the noise as well."""
    rows = torch.randn(6, 2, 8)
    judged = torch.full((6, 6), 1.0000001)
    got = loss_of(DCLR(complement="-", threshold=1.0), rows, judged, torch.zeros(0, 8))
    assert got.loss.item() == pytest.approx(run(SimCSE(), rows).loss.item(), rel=1e-6)
    assert got.metrics["removed"] == 0
    noise = torch.randn(4, 8)
    got = loss_of(DCLR(complement="-", threshold=1.0, ascent_steps=0), rows, judged, noise).loss
    logits = cosine_matrix(rows[:, 0], torch.cat([rows[:, 1], noise])) / 0.05
    assert got.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.arange(6)).item(), rel=1e-5)


def test_the_noise_takes_no_gradient_and_anchors_take_the_first_order():
    rows, noise = torch.randn(4, 2, 6, requires_grad=True), torch.randn(4, 6)
    loss_of(DCLR(complement="-"), rows, torch.eye(4), noise).loss.backward()
    assert torch.isfinite(rows.grad).all()
    assert not noise.requires_grad


def test_bce_is_finite_where_p_rounds_to_1():
    logits = torch.tensor([[400.0, 0.0, 1.0], [400.0, 0.0, -torch.inf]], requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    mask = torch.isfinite(logits)
    loss = all_entries_bce(logits, target, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def set_up(tiny_bert, **arguments):
    torch.manual_seed(0)
    encoder = Encoder(tiny_bert, head="mlp")
    objective = DCLR(complement=tiny_bert, **arguments)
    objective.setup(encoder)
    return encoder, objective


def tokens_of(encoder, texts):
    store = TokenStore.build(texts, encoder.tokenizer, 12)
    return store.pad([store.ids(store.text_id(t)) for t in texts])


def test_the_complement_is_frozen_and_not_saved(tiny_bert):
    _, objective = set_up(tiny_bert)
    assert not list(objective.parameters())
    assert not objective.state_dict()
    objective.train()
    assert not objective.teacher.encoder.training
    assert not any(p.requires_grad for p in objective.teacher.encoder.parameters())


def test_the_complement_decides_which_negatives_are_removed(tiny_bert):
    """The removed share of a step equals the share of pairs that the complement's own vectors put above phi."""
    encoder, objective = set_up(tiny_bert)
    texts = ["the cat sat on a mat", "the dog", "red house", "blue tree sun moon"]
    ids, mask = tokens_of(encoder, texts)
    vectors = torch.tensor(Encoder.load(tiny_bert).encode(texts))
    cosine = cosine_matrix(vectors, vectors)
    others = cosine[~torch.eye(4, dtype=torch.bool)].sort().values
    objective.threshold = float(others[5:7].mean())  # between two of the six different cosines, each of which is double
    batch = Batch(ids[:, None].repeat(1, 2, 1), mask[:, None].repeat(1, 2, 1))
    rows = torch.randn(4, 2, 16)
    context = StepContext(encoder, generator=torch.Generator().manual_seed(0))
    output = objective(Views.split(rows, rows, 1), batch, context)
    assert output.metrics["removed"] * 4 == (others > objective.threshold).sum() == 6


def test_a_step_from_tokens(tiny_bert):
    encoder, objective = set_up(tiny_bert, temperature=1.0, noise_ratio=2.5)
    ids, mask = tokens_of(encoder, ["the cat sat", "the dog", "red house"])
    batch = Batch(ids[:, None].repeat(1, 2, 1), mask[:, None].repeat(1, 2, 1))
    rows = encoder(batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)).projected.view(3, 2, -1)
    outputs = [
        objective(Views.split(rows, rows, 1), batch, StepContext(encoder, generator=torch.Generator().manual_seed(s)))
        for s in (1, 1, 2)
    ]
    assert outputs[0].loss == outputs[1].loss != outputs[2].loss
    outputs[0].loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_another_vocabulary_is_refused(tiny_bert):
    encoder = Encoder(tiny_bert)
    encoder.tokenizer.add_tokens(["zebra"])
    with pytest.raises(UserError, match=r"teacher .* vocabulary"):
        DCLR(complement=tiny_bert).setup(encoder)


def test_errors():
    for name, value in {"temperature": 0.0, "threshold": 1.1, "noise_ratio": -1.0}.items():
        with pytest.raises(UserError, match=name):
            DCLR(complement="-", **{name: value})


# -- MultiCSR, whose third stage is DCLR without noise and with hard negatives ----------------------------------------


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


def test_a_threshold_of_1_and_no_noise_are_supervised_simcse():
    rows = torch.randn(4, 3, 8)
    got = loss_of(DCLR(threshold=1.0, noise_ratio=0.0), rows, torch.ones(4, 8), torch.zeros(0, 8)).loss
    assert got.item() == pytest.approx(run(SimCSE(), rows).loss.item(), rel=1e-6)
