"""CompCSE against its authors' program (oracles), limits, and a slow loop."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cse.batch import Example, Views
from cse.data.collators import TextViews
from cse.data.halves import Halves
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.compcse import CompCSE
from cse.objectives.simcse import SimCSE
from cse.training.gradcache import backward
from cse.training.learner import Learner
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, batch_of
from tests.runs import assert_resumes, make_run


def contract_case(backbone):
    return Case(even=True)


def linear(weight, bias):
    layer = nn.Linear(*weight.shape)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def loss_of(objective, rows, head=None, **fields):
    """The output for embeddings (B, 3, D) under a head."""
    context = StepContext(encoder=SimpleNamespace(head=head or nn.Identity()))
    return objective(Views.split(rows, rows, 2), batch_of(*rows.shape[:2], 2, **fields), context)


@pytest.mark.parametrize("name", cases("compcse"))
def test_every_case_of_the_authors(name):
    about, data = load("compcse", name)
    objective = CompCSE(
        temperature=about["temperature"],
        dimensions=about["subvector"],
        composition={"avg": "mean", "cat_first_last": "halves"}[about["compose"]],
    )
    rows = data["cls_hidden"].requires_grad_()
    head = nn.Sequential(linear(data["mlp_w"], data["mlp_b"]), nn.Tanh())
    agrees(loss_of(objective, rows, head), about, data, {"cls_hidden": rows})


def test_parts_that_are_the_whole_make_it_simcse():
    whole = torch.randn(5, 8)
    other = torch.randn(5, 8)
    parts = torch.stack([whole, other, other], 1)
    pairs = torch.stack([whole, other], 1)
    want = SimCSE()(Views.split(pairs, pairs, 1), batch_of(5, 2), StepContext(encoder=None)).loss
    for composition in ("mean", "halves"):
        assert loss_of(CompCSE(composition=composition), parts).loss.item() == pytest.approx(want.item(), rel=1e-6)


def test_by_a_slow_loop():
    rows, head = torch.randn(4, 3, 6), nn.Linear(6, 6)
    got = loss_of(CompCSE(temperature=0.5, dimensions=4), rows, head).loss.item()
    with torch.no_grad():
        z = [head(row[0])[:4] for row in rows]
        c = [head((row[1] + row[2]) / 2)[:4] for row in rows]
        cosines = torch.tensor([[torch.cosine_similarity(a, b, 0).item() for b in c] for a in z])
    want = torch.nn.functional.cross_entropy(cosines / 0.5, torch.arange(4)).item()
    assert got == pytest.approx(want, rel=1e-5)


def test_what_is_cut_off_does_not_count():
    rows = torch.randn(4, 3, 8)
    other = torch.cat([rows[..., :5], torch.randn(4, 3, 3)], -1)
    losses = [loss_of(CompCSE(dimensions=5), r).loss.item() for r in (rows, other)]
    assert losses[0] == losses[1]
    assert loss_of(CompCSE(), rows).loss.item() == loss_of(CompCSE(dimensions=8), rows).loss.item()


def test_a_text_is_no_negative_of_its_own_copy_but_parts_may_be_equal():
    """Rows 0 and 1 are one text; rows 2 and 3 have a part in common, which is no reason to mask."""
    rows = torch.randn(4, 3, 8)
    text_id = torch.tensor([[0, 1, 2], [0, 1, 2], [5, 6, 7], [8, 6, 9]])
    got = loss_of(CompCSE(temperature=1.0), rows, text_id=text_id).loss.item()
    z, c = rows[:, 0], rows[:, 1:].mean(1)
    logits = torch.cosine_similarity(z[:, None], c[None], -1)
    logits[0, 1] = logits[1, 0] = -torch.inf
    assert got == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.arange(4)).item(), rel=1e-5)


def test_gradient_caching_reaches_the_head(tiny_bert):
    """The objective calls the encoder's head, on vectors that the encoder gave without it."""
    from accelerate import Accelerator

    gradients = []
    for cached in (False, True):
        torch.manual_seed(0)
        encoder = Encoder(tiny_bert, head="mlp", pooler="mean").double().eval()
        learner, ctx = Learner(encoder, CompCSE(dimensions=8)), StepContext(encoder=encoder)
        texts = ["the cat sat on", "a dog ran fast", "red sun blue moon", "tree house mat"]
        collator = Halves(max_length=8)
        collator.setup(TokenStore.build(texts, encoder.tokenizer, 8), 1)
        batch = collator([Example((text,), row_id=i) for i, text in enumerate(texts)])
        if cached:
            backward(Accelerator(cpu=True), learner, batch, ctx, chunk_size=3, seed=lambda i: None)
        else:
            learner(batch, ctx)[1].loss.backward()
        gradients.append({n: p.grad for n, p in learner.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]["encoder.head.linear.weight"].abs().max() > 1e-4
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-9) for n in gradients[0])


def test_a_run_resumes(tiny_bert, tmp_path):
    def run(folder):
        parts = {"objective": CompCSE(dimensions=8), "collator": Halves(max_length=12)}
        return make_run(folder, tiny_bert, max_steps=4, **parts)

    assert_resumes(run, tmp_path)


def test_refusals(tiny_bert, tmp_path):
    for arguments, name in (({"temperature": 0.0}, "temperature"), ({"dimensions": 0}, "dimensions")):
        with pytest.raises(UserError, match=name):
            CompCSE(**arguments)
    from cse.training.trainer import Trainer

    run = make_run(tmp_path, tiny_bert, objective=CompCSE(), collator=TextViews(max_length=12))
    with pytest.raises(UserError, match="CompCSE needs a text and its two parts"):
        Trainer(run).fit()
    run = make_run(tmp_path, tiny_bert, triplets=True, objective=CompCSE(), collator=Halves(max_length=12))
    with pytest.raises(UserError, match=r"Halves cuts rows of one text, and a row has 3\nfix: "):
        Trainer(run).fit()
