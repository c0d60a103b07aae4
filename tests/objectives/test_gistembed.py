"""GISTEmbed by pencil and in limits."""

import math

import pytest
import torch

from cse import Encoder, GISTEmbed, Views
from tests.objectives.helpers import Case, batch_of, refuses


def contract_case(backbone):
    return Case({"margin": 0.05, "temperature": 0.1})


def loss_of(objective, rows, guide, **fields):
    batch = batch_of(len(rows), rows.shape[1], **fields)
    return objective.loss(Views.split(rows, rows, 1), batch, guide)


def test_a_candidate_that_is_as_near_as_the_pair_is_kept():
    """Both positives are one text to the guide: as near to an anchor as each other, and too near to each other."""
    guide = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.6, 0.8]]])
    got = loss_of(GISTEmbed(temperature=1.0), torch.eye(2)[:, None].expand(2, 2, 2), guide)
    assert got.metrics["removed"].item() == 1.0
    assert got.loss.item() == pytest.approx(math.log((math.e + 2) / math.e), rel=1e-6)


def test_a_text_is_not_its_own_negative_where_the_guide_finds_pairs_equal():
    """In the released programs the loss would be log(1 + 1) and more: a text has cosine 1 with itself."""
    rows = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 2, 3)
    got = loss_of(GISTEmbed(temperature=0.05), rows, rows).loss
    assert got.item() == pytest.approx(math.log(1 + 6 * math.exp(-20)), rel=1e-6)


def test_the_default_guide_is_the_backbone_before_training(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean")
    objective = GISTEmbed()
    objective.setup(encoder)
    assert (objective.guide.source, objective.guide.pooler) == (tiny_bert, "mean")
    assert objective.state_dict() == {}


def test_refusals():
    refuses("one positive", loss_of, GISTEmbed(), torch.randn(3, 1, 4), torch.randn(3, 1, 4))
