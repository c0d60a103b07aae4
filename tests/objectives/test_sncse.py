"""SNCSE against its authors' program (oracles), pencil and limits."""

import pytest
import torch
from torch import nn

from cse.augment import Negation
from cse.batch import Example
from cse.data.collators import AugmentedViews
from cse.data.templates import InTemplates
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.simcse import SimCSE
from cse.objectives.sncse import SNCSE
from cse.training.learner import Learner
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run
from tests.runs import assert_resumes, make_run


@pytest.mark.parametrize("name", cases("sncse"))
def test_every_case_of_the_authors(name):
    about, data = load("sncse", name)
    objective = SNCSE(
        temperature=about["temperature"],
        margin_weight=about["weight"],
        least_gap=about["alpha"],
        largest_gap=about["beta"],
    )
    data = {name: array.double() if array.is_floating_point() else array for name, array in data.items()}
    hidden = data["hidden"].requires_grad_()  # (B V, L, H), in float64, since a loss may be small beside its logits
    at_mask = hidden[data["ids"].flatten(0, 1) == about["mask_token_id"]]  # (B V, H)
    projected = torch.tanh(nn.functional.linear(at_mask, data["mlp_w"], data["mlp_b"]))
    output = run(objective, projected.view(about["B"], about["views"], -1))
    agrees(output, about, data, {"hidden": hidden})


def row(*degrees):
    """Unit vectors of the plane (V, 2)."""
    angles = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([angles.cos(), angles.sin()], -1)


def test_margins_by_pencil():
    # Positive at 0 degrees. Soft negatives at cosines 1, 0.5 and 0.8: gaps 0, -0.5 and -0.2.
    rows = torch.stack([row(0.0, 0.0, 0.0), row(0.0, 0.0, 60.0), row(90.0, 90.0, 90.0 - 36.869898)])
    got = run(SNCSE(), rows).metrics["margins"].item()
    assert got == pytest.approx((0.1 + 0.2 + 0.0) / 3, abs=1e-6)
    got = run(SNCSE(), rows, weight=torch.tensor([1.0, 0.0, 3.0])).metrics["margins"].item()
    assert got == pytest.approx(0.1 / 4, abs=1e-6)


def test_of_several_soft_negatives_the_mean_counts_and_none_adds_nothing():
    rows = torch.stack([row(0.0, 0.0, 0.0, 60.0), row(0.0, 0.0, 0.0, 60.0), row(0.0, 0.0, 0.0, 60.0)])
    present = torch.tensor([[True] * 4, [True, True, True, False], [True, True, False, False]])
    got = run(SNCSE(), rows, view_mask=present).metrics["margins"].item()
    assert got == pytest.approx((0.15 + 0.1 + 0.0) / 3, abs=1e-6)


def test_between_the_margins_there_is_neither_term_nor_gradient():
    rows = torch.stack([row(0.0, 0.0, 36.87), row(0.0, 10.0, -40.0), row(0.0, 20.0, 41.0)]).requires_grad_()
    output = run(SNCSE(margin_weight=5.0), rows)
    output.loss.backward()
    assert output.metrics["margins"].item() == 0.0
    pairs = rows.detach()[:, :2].clone().requires_grad_()
    run(SimCSE(), pairs).loss.backward()
    assert torch.equal(rows.grad[:, :2], pairs.grad)
    assert rows.grad[:, 2].abs().max() == 0.0


@pytest.mark.parametrize("views", [2, 3])
def test_without_margins_it_is_simcse_of_the_pairs(views):
    rows = torch.randn(5, views, 8)
    got, want = run(SNCSE(margin_weight=0.0), rows), run(SimCSE(), rows[:, :2])
    assert got.loss.item() == want.loss.item()


def test_a_soft_negative_has_the_text_id_of_its_text_and_two_templates(tiny_bert):
    """Its copies in other rows are masked for the same reason as those of the text."""
    encoder = Encoder(tiny_bert, pooler="mask", template="the cat {text} sat {mask} on", head="mlp").train()
    views = AugmentedViews(augmentations=[], negative_augmentations=[Negation()], max_length=16)
    collator = InTemplates(views=views, templates=["a dog {text} ran {mask} fast"] * 2)
    texts = ["the mat is red", "moon", "sun"]
    collator.setup(TokenStore.build(texts, encoder.tokenizer, 16), 1)
    batch = collator([Example((text,), row_id=i) for i, text in enumerate(texts)])
    assert batch.input_ids.shape[:2] == (3, 3)
    assert batch.num_positives == 1
    output = Learner(encoder, SNCSE())(batch, StepContext(encoder=encoder))[1]
    output.loss.backward()
    assert output.loss.isfinite()
    assert encoder.head.linear.weight.grad.abs().max() > 0


def test_a_run_resumes(tiny_bert, tmp_path):
    def build(folder):
        collator = AugmentedViews(augmentations=[], negative_augmentations=[Negation(rule="prefix")], max_length=12)
        return make_run(folder, tiny_bert, objective=SNCSE(margin_weight=0.5), collator=collator, max_steps=4)

    assert_resumes(build, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"margin_weight": -1.0}, "margin_weight"),
        ({"largest_gap": 3.0}, "largest_gap"),
        ({"least_gap": 0.4}, r"least_gap is 0.4 and objective.largest_gap is 0.3"),
    ],
)
def test_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        SNCSE(**options)


def test_rows_of_two_positives_are_refused():
    with pytest.raises(ValueError, match="SNCSE needs rows of one positive; this batch has 2"):
        run(SNCSE(), torch.randn(4, 3, 8), positives=2)
