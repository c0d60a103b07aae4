"""SupCL-Seq: SupCon on the passes that it makes, and the dropout that it leaves behind."""

import pytest
import torch

from cse import Dropout, Encoder, StepContext, SupCLSeq, SupCon, TextViews, Views
from cse.encoder.dropout import dropout_rate, dropouts
from cse.seeding import seed_dropout
from cse.training.learner import Learner
from tests.objectives.helpers import Case, batch_of, collated, refuses

TEXTS = ["the cat sat", "a dog ran", "red house", "blue tree", "the sun", "moon on a mat"]


def contract_case(backbone):
    return Case({"rates": [0.0, 0.0]}, texts=2)


def rates(encoder):
    return [rate for _, _, rate in dropouts(encoder)]


def test_it_is_supcon_on_one_pass_for_each_rate(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.1, hidden=0.1)).train()
    batch, before = collated(encoder, TEXTS, TextViews(max_length=12, views=1)), rates(encoder)
    batch = batch.with_tensors(batch.tensors() | {"label": torch.arange(6) % 3})
    objective = SupCLSeq(rates=[0.0, 0.05, 0.2])
    objective.setup(encoder)
    ctx = StepContext(encoder)
    seed_dropout("passes")
    got = Learner(encoder, objective)(batch, ctx)[1]
    assert rates(encoder) == before
    seed_dropout("passes")
    ids, mask = batch.input_ids[:, 0], batch.attention_mask[:, 0]
    passes = [encoder(ids, mask).projected]
    for rate in (0.0, 0.05, 0.2):
        with dropout_rate(encoder.backbone, rate):
            passes.append(encoder(ids, mask).projected)
    x = torch.stack(passes, 1)  # (B, 4, D)
    want = SupCon(temperature=0.05)(Views.split(x, x, 3), batch_of(6, 4, 3, label=batch.label), ctx)
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-6)
    assert len({round(float((x[0, 0] - x[0, v]).detach().norm()), 6) for v in range(1, 4)}) == 3  # all passes differ


def test_refusals(tiny_bert):
    encoder = Encoder(tiny_bert)
    encoder.recompute()
    refuses(r"trainer\.gradient_checkpointing.*\nfix: remove", SupCLSeq().setup, encoder)
    bare = Encoder(tiny_bert)
    bare.backbone = torch.nn.Linear(1, 1)
    refuses(r"sets the dropout of the backbone.*\nfix: ", SupCLSeq().setup, bare)
