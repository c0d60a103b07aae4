"""ConGraT: the authors' program (oracles), pencil, limits, the teacher."""

import math

import numpy as np
import pytest
import torch

from cse.batch import Example, Views
from cse.data.collators import TextViews
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.congrat import ConGraT
from cse.objectives.gcl import GCL
from cse.teachers.frozen import FrozenEncoder
from tests.cases import cases, load
from tests.objectives.helpers import agrees, batch_of, close, run, vectors


def loss_of(objective, rows, similarity, **fields):
    return objective.loss(Views.split(rows, rows, 1), batch_of(len(rows), rows.shape[1], **fields), similarity).loss


@pytest.mark.parametrize("name", cases("congrat"))
def test_every_case_of_the_authors_program(name):
    about, data = load("congrat", name)
    rows, leaves = vectors(data)
    objective = ConGraT(alpha=about["alpha"], ranks=about["weights"] or "identity", temperature=1 / about["scale"])
    agrees(loss_of(objective, rows, data["similarity"]), about, data, leaves)


def test_by_pencil():
    # Three orthogonal rows with equal views and s = 1: every row of the softmax is e, 1, 1 over e + 2.
    rows = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 2, 3)
    similarity = torch.tensor([[0.0, 0.8, 0.2], [0.8, 0.0, 0.4], [0.2, 0.4, 0.0]], dtype=torch.float64)
    # Of a row's target, 1 - a goes to its own pair and a to the others, since the diagonal is the smallest entry.
    want = math.log(math.e + 2) - 0.7
    got = loss_of(ConGraT(alpha=0.3, temperature=1.0), rows, similarity)
    assert got.item() == pytest.approx(want, rel=1e-6)


def test_ranks_count_the_larger_entries_of_a_row():
    similarity = torch.tensor([[0.0, 0.9, 0.5, 0.5], [0.9, 0.0, 0.1, 0.2], [0.5, 0.1, 0.0, 0.3], [0.5, 0.2, 0.3, 0.0]])
    rank = -ConGraT(ranks="exp")._of_rank(similarity).log()
    assert rank[:2].round().tolist() == [[3, 0, 1, 1], [0, 3, 2, 1]]  # equal entries have one rank
    thick = -ConGraT(ranks="exp_thick_tail")._of_rank(similarity).log()
    close(thick, rank / 2)


def test_without_a_share_for_others_it_is_infonce_in_both_directions():
    rows = torch.randn(5, 3, 8)  # with a hard negative, a candidate of the anchors
    want = run(GCL(temperature=0.1), rows).loss
    got = loss_of(ConGraT(alpha=0.0, temperature=0.1), rows, torch.rand(5, 5))
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


@pytest.mark.parametrize("teacher", ["the backbone", "another model"])
def test_the_teacher_reads_the_anchors(tiny_bert, teacher):
    encoder = Encoder(tiny_bert)
    texts = [("the cat sat", "a cat"), ("the dog", "dog"), ("red house", "blue"), ("sun moon", "tree")]
    examples = [Example(row, row_id=i) for i, row in enumerate(texts)]
    collator = TextViews(max_length=12)
    store = TokenStore.build([text for row in texts for text in row], encoder.tokenizer, 12)
    collator.setup(store, 1)
    given = None if teacher == "the backbone" else FrozenEncoder(source=tiny_bert, pooler="cls", precision="fp32")
    objective = ConGraT(teacher=given, alpha=0.5)
    objective.setup(encoder)
    assert objective.requires == (frozenset() if given is None else {"text_id"})
    rows, batch = torch.randn(4, 2, 6), collator(examples)
    found = objective(Views.split(rows, rows, 1), batch, StepContext(encoder, texts=store.texts)).loss
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


def test_errors():
    for name, value in {"alpha": 1.1, "temperature": 0.0}.items():
        with pytest.raises(UserError, match=name):
            ConGraT(**{name: value})
    rows = torch.randn(3, 3, 4)
    views, batch = Views.split(rows, rows, 2), batch_of(3, 3, 2)
    with pytest.raises(ValueError, match="one positive"):
        ConGraT().loss(views, batch, torch.rand(3, 3))
