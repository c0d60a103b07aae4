"""GISTEmbed against sentence-transformers (oracles), a slow loop, pencil and limits."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cse.batch import Views
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import Teacher
from cse.objectives.gistembed import GISTEmbed
from cse.objectives.gte import GTE
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, batch_of, run, vectors


class Given(Teacher):
    """A guide whose vectors are given."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def embed(self, batch, ctx):
        return self.vectors


def contract_case(backbone):
    return Case({"margin": 0.05, "temperature": 0.1})


def loss_of(objective, rows, guide, **fields):
    batch = batch_of(len(rows), rows.shape[1], **fields)
    return objective.loss(Views.split(rows, rows, 1), batch, guide)


@pytest.mark.parametrize("name", cases("gistembed"))
def test_every_case_of_sentence_transformers(name):
    about, data = load("gistembed", name)
    names = ("temperature", "margin", "margin_strategy", "contrast_anchors", "contrast_positives")
    rows, leaves = vectors(data)
    agrees(run(GISTEmbed(guide=Given(data["guide"]), **{n: about[n] for n in names}), rows), about, data, leaves)


def test_by_pencil():
    # Two orthogonal rows whose texts are alike, t = 1. The guide gives both pairs .6, anchors 0, positives 0, the first
    # anchor with the second positive -.8, and the second anchor with the first positive .8, which is therefore removed.
    rows = torch.eye(2)[:, None].expand(2, 2, 2)
    guide = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [-0.8, 0.6]]])
    e = math.e
    got = loss_of(GISTEmbed(temperature=1.0), rows, guide)
    assert got.loss.item() == pytest.approx((math.log((e + 3) / e) + math.log((e + 2) / e)) / 2, rel=1e-6)
    assert got.metrics["removed"].item() == 0.5
    assert loss_of(GISTEmbed(temperature=1.0, margin=-0.3), rows, guide).metrics["removed"].item() == 0.0
    assert loss_of(GISTEmbed(temperature=1.0, margin=0.7), rows, guide).metrics["removed"].item() == 2.5


def test_a_candidate_that_is_as_near_as_the_pair_is_kept():
    """Both positives are one text to the guide: as near to an anchor as each other, and too near to each other."""
    guide = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.6, 0.8]]])
    got = loss_of(GISTEmbed(temperature=1.0), torch.eye(2)[:, None].expand(2, 2, 2), guide)
    assert got.metrics["removed"].item() == 1.0
    assert got.loss.item() == pytest.approx(math.log((math.e + 2) / math.e), rel=1e-6)


@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("anchors", [True, False])
@pytest.mark.parametrize("positives", [True, False])
def test_by_a_slow_loop(strategy, anchors, positives):
    rows, guide = torch.randn(5, 4, 6, dtype=torch.float64), torch.randn(5, 4, 3, dtype=torch.float64)
    margin, t, total = 0.1, 0.3, 0.0

    def cosine(x, a, b):
        return cosine_similarity(x[a], x[b], dim=0).item()

    for i in range(5):
        anchor, positive = (i, 0), (i, 1)
        pair = cosine(guide, anchor, positive)
        compared = [(anchor, (j, 1)) for j in range(5) if j != i]
        compared += [(anchor, (j, 0)) for j in range(5) if j != i and anchors]
        compared += [(positive, (j, 1)) for j in range(5) if j != i and positives]
        compared += [(anchor, (j, side)) for j in range(5) for side in (2, 3)]
        limit = pair - (margin if strategy == "absolute" else margin * abs(pair))
        kept = [cosine(rows, a, b) / t for a, b in compared if cosine(guide, a, b) <= limit]
        own = cosine(rows, anchor, positive) / t
        total += math.log(sum(map(math.exp, [own, *kept]))) - own
    objective = GISTEmbed(
        temperature=t, margin=margin, margin_strategy=strategy, contrast_anchors=anchors, contrast_positives=positives
    )
    assert loss_of(objective, rows, guide).loss.item() == pytest.approx(total / 5, rel=1e-12)


def test_without_removal_it_is_gtes_contrast_without_documents_to_queries():
    rows = torch.randn(4, 2, 8, dtype=torch.float64)
    got = loss_of(GISTEmbed(temperature=0.1, margin=-2.0), rows, torch.randn(4, 2, 3)).loss
    a, p = rows.unbind(1)
    scores = {n: cosine_similarity(x[:, None], y[None], dim=-1) / 0.1 for n, x, y in (("ap", a, p), ("pa", p, a))}
    joint = run(GTE(temperature=0.1), rows).loss
    assert got < joint
    every = torch.cat([scores["ap"], *(cosine_similarity(x[:, None], x[None], dim=-1) / 0.1 for x in (a, p))], 1)
    for block in (4, 8):
        every[torch.arange(4), torch.arange(4) + block] = -math.inf
    want = torch.nn.functional.cross_entropy(every, torch.arange(4))
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    log_z = torch.logsumexp(torch.cat([every, scores["pa"]], 1), 1)
    assert joint.item() == pytest.approx((log_z - scores["ap"].diagonal()).mean().item(), rel=1e-12)


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
    with pytest.raises(UserError, match="temperature"):
        GISTEmbed(temperature=0.0)
    with pytest.raises(UserError, match="margin"):
        GISTEmbed(margin=3.0)
    with pytest.raises(ValueError, match="one positive"):
        loss_of(GISTEmbed(), torch.randn(3, 1, 4), torch.randn(3, 1, 4))
