"""ConGraT: the authors' program (oracles), pencil, limits, the teacher."""

import itertools

import numpy as np
import pytest
import torch

from cse import ConGraT, Encoder, FrozenEncoder, StepContext, TextViews, Views
from tests.cases import cases, load
from tests.objectives.helpers import agrees, batch_of, collated, vectors


def loss_of(objective, rows, similarity, **fields):
    return objective.loss(Views.split(rows, rows, 1), batch_of(len(rows), rows.shape[1], **fields), similarity).loss


@pytest.mark.parametrize("name", cases("congrat"))
def test_every_case_of_the_authors_program(name):
    about, data = load("congrat", name)
    rows, leaves = vectors(data)
    objective = ConGraT(alpha=about["alpha"], ranks=about["weights"] or "identity", temperature=1 / about["scale"])
    agrees(loss_of(objective, rows, data["similarity"]), about, data, leaves)


@pytest.mark.parametrize("teacher", ["the backbone", "another model"])
def test_the_teacher_reads_the_anchors(tiny_bert, teacher):
    encoder = Encoder(tiny_bert)
    texts = [("the cat sat", "a cat"), ("the dog", "dog"), ("red house", "blue"), ("sun moon", "tree")]
    given = None if teacher == "the backbone" else FrozenEncoder(source=tiny_bert, pooler="cls", precision="fp32")
    objective = ConGraT(teacher=given, alpha=0.5)
    objective.setup(encoder)
    assert objective.requires == (frozenset() if given is None else {"text_id"})
    rows, batch = torch.randn(4, 2, 6), collated(encoder, texts, TextViews(max_length=12))
    found = objective(
        Views.split(rows, rows, 1), batch, StepContext(encoder, texts=list(itertools.chain.from_iterable(texts)))
    ).loss
    vectors = Encoder.load(tiny_bert, pooler=encoder.pooler).encode([row[0] for row in texts])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    want = objective.loss(Views.split(rows, rows, 1), batch, torch.tensor(unit @ unit.T).fill_diagonal_(0)).loss
    assert found.item() == pytest.approx(want.item(), rel=1e-4)
    assert [name for name, _ in objective.named_parameters()] == ["log_scale"]
    assert list(objective.state_dict()) == ["log_scale"]


def test_the_scale_has_a_limit(tiny_bert):
    objective = ConGraT(temperature=0.001)
    encoder = Encoder(tiny_bert)
    objective.setup(encoder)
    objective.after_step(StepContext(encoder))
    assert objective.log_scale.exp().item() == pytest.approx(100, rel=1e-5)
    assert ConGraT().log_scale.item() == pytest.approx(3.5, abs=1e-3)
