"""SG-OPT against the authors' program (oracles), pencil, limits, and a copy that stands still."""

import pytest
import torch

from cse import SGOPT, Batch, Dropout, Encoder, StepContext, Views
from cse.training.learner import Learner
from tests.cases import below, cases, load
from tests.models import from_weights, save_beside
from tests.objectives.helpers import Case, agrees, batch_of, close, refuses, set_up


def contract_case(backbone):
    return Case({"head_width": 24})


def contrast_of(anchor, layers, **arguments):
    return SGOPT(**arguments).contrast(anchor, layers, batch_of(len(anchor), 1)).loss


@pytest.mark.parametrize("name", cases("sg_opt", where=lambda about: about.get("objective") == "SG-OPT"))
def test_every_contrast_of_the_authors_program(name):
    about, data = load("sg_opt", name)
    cls, layers = (data[n].requires_grad_() for n in ("cls", "layers"))
    agrees(contrast_of(cls, layers, temperature=about["temperature"]), about, data, {"cls": cls, "layers": layers})


@pytest.mark.parametrize("name", cases("sg_opt", has=("loss", "dropout")))
def test_every_step_of_a_whole_model(name, tiny_bert, tmp_path):
    """Ids to the loss and the gradient of every weight of the encoder and the head; theirs freezes the embeddings."""
    about, data = load("sg_opt", name)
    model = from_weights(below(data, "initial/"), **about["config"])
    folder = save_beside(tiny_bert, model, tmp_path)
    encoder = Encoder(folder, pooler="cls", dropout=Dropout(attention=0.0, hidden=0.0)).train()
    head, layer = below(data, "head/"), {"0": "0.linear", "2": "1.linear"}  # theirs counts the GELU in between
    objective = SGOPT(
        temperature=about["temperature"], distance_weight=about["l2"], head_width=len(head["0.weight"])
    ).train()
    objective.setup(encoder)
    encoder.backbone.load_state_dict(below(data, "current/"))
    objective.head.load_state_dict({layer[key[0]] + key[1:]: value for key, value in head.items()})

    batch = Batch(data["ids"][:, None], data["mask"][:, None], num_positives=0)
    output = Learner(encoder, objective)(batch, StepContext(encoder))[1]
    leaves = {key: encoder.backbone.get_parameter(key) for key in below(data, "grad/")}
    agrees(output, about, data, leaves, contrastive="contrast", distance="squared_distance")
    for key, want in below(data, "grad_head/").items():
        close(objective.head.get_parameter(layer[key[0]] + key[1:]).grad, want)
    assert not any(p.requires_grad for p in objective.guide.encoder.parameters())


def test_two_rows_with_one_text_are_not_each_others_negatives():
    anchor, layers = torch.randn(3, 8), torch.randn(3, 2, 8)
    batch = batch_of(3, 1, text_id=torch.tensor([[0], [7], [0]]))
    rows = SGOPT().contrast(anchor, layers, batch).rows
    some = SGOPT().contrast(anchor[:2], layers[:2], batch_of(2, 1)).rows
    assert rows[0].item() == pytest.approx(some[0].item(), rel=1e-6)


def test_the_dropout_of_the_copy_is_off_unless_asked_for(tiny_bert):
    batch = Batch(torch.tensor([[[2, 5, 6, 3]], [[2, 7, 8, 3]]]), torch.ones(2, 1, 4, dtype=torch.int64))
    for dropout in (False, True):
        encoder, objective = set_up(tiny_bert, SGOPT(head_width=8, guide_dropout=dropout), dropout=None)
        rows = torch.randn(2, 1, 16)
        once, again = (objective(Views.split(rows, rows, 0), batch, StepContext(encoder)).loss for _ in range(2))
        assert (once != again) == dropout


def test_refusals():
    refuses("batch_size is 1", contrast_of, torch.randn(1, 8), torch.randn(1, 2, 8))
