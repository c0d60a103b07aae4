"""CompCSE against its authors' program (oracles), limits, and a slow loop."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from cse import CompCSE, Encoder, Halves, StepContext, TextViews, Trainer, UserError, Views
from cse.training.gradcache import backward
from cse.training.learner import Learner
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, batch_of, collated
from tests.runs import make_run


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
    gradients = []
    for cached in (False, True):
        torch.manual_seed(0)
        encoder = Encoder(tiny_bert, head="mlp", pooler="mean").double().eval()
        learner, ctx = Learner(encoder, CompCSE(dimensions=8)), StepContext(encoder=encoder)
        texts = ["the cat sat on", "a dog ran fast", "red sun blue moon", "tree house mat"]
        batch = collated(encoder, texts, Halves(max_length=8), 8)
        if cached:
            backward(Accelerator(cpu=True), learner, batch, ctx, chunk_size=3, seed=lambda i: None)
        else:
            learner(batch, ctx)[1].loss.backward()
        gradients.append({n: p.grad for n, p in learner.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]["encoder.head.linear.weight"].abs().max() > 1e-4
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-9) for n in gradients[0])


def test_refusals(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, objective=CompCSE(), collator=TextViews(max_length=12))
    with pytest.raises(UserError, match="CompCSE needs a text and its two parts"):
        Trainer(run).fit()
    run = make_run(tmp_path, tiny_bert, triplets=True, objective=CompCSE(), collator=Halves(max_length=12))
    with pytest.raises(UserError, match=r"Halves cuts rows of one text, and a row has 3\nfix: "):
        Trainer(run).fit()
