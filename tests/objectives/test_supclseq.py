"""SupCL-Seq: SupCon on the passes that it makes, and the dropout that it leaves behind."""

import pytest
import torch

from cse.batch import Example, Views
from cse.data.collators import TextViews
from cse.data.tokens import TokenStore
from cse.encoder.dropout import Dropout, dropout_rate, dropouts
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.supclseq import SupCLSeq
from cse.objectives.supcon import SupCon
from cse.seeding import seed_dropout
from cse.training.learner import Learner
from tests.objectives.helpers import Case, batch_of

TEXTS = ["the cat sat", "a dog ran", "red house", "blue tree", "the sun", "moon on a mat"]


def contract_case(backbone):
    return Case({"rates": [0.0, 0.0]}, texts=2)


def batch_of_texts(encoder):
    collator = TextViews(max_length=12, views=1)
    collator.setup(TokenStore.build(TEXTS, encoder.tokenizer, 12), 1)
    return collator([Example((text,), label=i % 3, row_id=i) for i, text in enumerate(TEXTS)])


def rates(encoder):
    return [rate for _, _, rate in dropouts(encoder)]


def test_it_is_supcon_on_one_pass_for_each_rate(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.1, hidden=0.1)).train()
    batch, before = batch_of_texts(encoder), rates(encoder)
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
    with pytest.raises(UserError, match="rates is empty"):
        SupCLSeq(rates=[])
    with pytest.raises(UserError, match=r"rates\[1\] is 1"):
        SupCLSeq(rates=[0.0, 1.0])
    encoder = Encoder(tiny_bert)
    encoder.recompute()
    with pytest.raises(UserError, match=r"trainer\.gradient_checkpointing.*\nfix: remove"):
        SupCLSeq().setup(encoder)
    bare = Encoder(tiny_bert)
    bare.backbone = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"sets the dropout of the backbone.*\nfix: "):
        SupCLSeq().setup(bare)
