"""miCSE against its authors' program (oracles), slow computations and limits."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cse import Batch, Dropout, Encoder, EncoderOutput, MiCSE, StepContext, TextViews, Trainer, UserError
from cse.encoder.layers import States
from cse.seeding import seed_dropout
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, collated, padded, refuses, set_up, step, weighted_and_repeated
from tests.runs import make_run

LAYERS = {"first_layer": 0, "last_layer": 1}
TEXTS = ["the cat sat on a mat", "moon", "a dog ran fast", "red sun blue moon tree house"]


def contract_case(backbone):
    return Case({**LAYERS, "samples": 12, "information_weight": 0.5})


class Given(MiCSE):
    """The same with cells that are written down: True in (r, C)."""

    def draw(self, positive, ctx):
        cells = self.selected.nonzero()[:, 1].view(len(self.selected), -1)  # of the rows that have enough
        kept = positive.sum(1) >= cells.shape[1]
        assert (self.selected <= positive[kept]).all()
        return torch.zeros(len(positive), cells.shape[1], dtype=torch.int64).masked_scatter_(kept[:, None], cells)


@pytest.mark.parametrize("name", cases("micse"))
def test_every_case_of_the_authors(name):
    about, data = load("micse", name)
    attention = data["attention"].requires_grad_()  # (layers, 2 B, heads, L, L)
    vectors = data["cls_hidden"].requires_grad_()  # (B, 2, D)
    objective = Given(
        temperature=about["temperature"],
        information_weight=about["task_lambda"],
        first_layer=about["min_layer"],
        last_layer=about["max_layer"] - 1,
        padding="counted",
    )
    objective.selected = data["selected"].bool()
    encoder = SimpleNamespace(
        depth=len(attention),
        source="the oracle",
        tokenizer=SimpleNamespace(pad_token_id=0),
        states=lambda ids, mask, attentions: States((), attention),
        pooled=lambda states, mask: EncoderOutput(
            *[torch.tanh(nn.functional.linear(vectors.flatten(0, 1), data["mlp_w"], data["mlp_b"]))] * 2
        ),
    )
    objective.setup(encoder)
    ids = torch.zeros(about["B"], 2, about["length"], dtype=torch.int64)
    output = objective(None, Batch(ids, torch.ones_like(ids)), StepContext(encoder=encoder))
    leaves = {"attention": attention, "cls_hidden": vectors}
    agrees(output, about, data, leaves, contrastive="contrast", information="mutual_information")
    assert output.metrics["share"].item() ** 2 == pytest.approx(about["scale"], rel=1e-5)


def built(folder, dropout=0.1, **options):
    dropout = Dropout(attention=dropout, hidden=dropout)
    return set_up(folder, MiCSE(**{**LAYERS, "samples": 8, **options}), head="mlp", dropout=dropout)


def batch_of(encoder, texts=TEXTS):
    return collated(encoder, texts, TextViews(max_length=12))


def loss_of(encoder, objective, batch, **ctx):
    seed_dropout("pass")
    return step(encoder, objective, batch, **ctx)


def test_equal_views_are_clamped_and_pull_nothing(tiny_bert):
    encoder, objective = built(tiny_bert, dropout=0.0, information_weight=3.0)
    output = loss_of(encoder, objective, batch_of(encoder))
    assert output.metrics["information"].item() == pytest.approx(-math.log(1e-6) / 2, rel=1e-4)
    assert output.metrics["share"].item() == 1.0  # nothing is dropped
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def attention_of(rows, length, layers=4, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, 2, layers, heads, length, length, generator=generator)
    return scores.softmax(-1)


@pytest.mark.parametrize("length", [3, 5])
def test_information_by_a_slow_loop_over_all_cells(length):
    """Of real tokens: each head, layers 0 and 2, then 1 and 3."""
    attention = attention_of(1, 5)
    mask = torch.tensor([[[1] * length + [0] * (5 - length)] * 2])
    values = []
    for head in range(2):
        for parity in range(2):
            maps = attention[0, :, parity::2, head, :length, :length].flatten(1).log()
            values.append((-0.5 * torch.log(1 - torch.corrcoef(maps)[0, 1] ** 2)).item())
    objective = MiCSE(samples=2 * length * length)
    got, share = objective.information(attention, mask, Batch(mask, mask), StepContext(None))
    assert got.item() == pytest.approx(sum(values) / 4, rel=1e-4)
    assert share.item() == 1.0


def test_rows_with_too_few_cells_are_left_out_and_the_poorest_decides_if_all_have():
    attention = attention_of(2, 4, layers=2)
    attention[1, 0, :, :, :, 1:] = 0.0  # text 1 has 4 positive cells a row, text 0 has 16
    mask, ids = torch.ones(2, 2, 4, dtype=torch.int64), torch.zeros(2, 2, 4, dtype=torch.int64)
    ctx = StepContext(None)
    both, first = Batch(ids, mask), Batch(ids[:1], mask[:1])
    got = MiCSE(samples=16).information(attention, mask, both, ctx)
    want = MiCSE(samples=16).information(attention[:1], mask[:1], first, ctx)
    assert got[0].item() == pytest.approx(want[0].item(), rel=1e-5)
    assert got[1].item() == 1.0
    share = MiCSE(samples=17).information(attention, mask, both, ctx)[1]
    assert share.item() == pytest.approx((16 + 4) / 32)


def test_every_row_draws_its_positive_cells_uniformly():
    positive = torch.tensor([[True, True, False, True, False, True], [False, True, True, True, True, True]])
    counts = torch.zeros(2, 6)
    for seed in range(600):
        ctx = StepContext(None, generator=torch.Generator().manual_seed(seed))
        picked = MiCSE(samples=2).draw(positive, ctx)
        assert positive.gather(1, picked).all()
        counts.scatter_add_(1, picked, torch.ones(2, 2))
    assert (counts[~positive] == 0).all()
    assert ((counts[0, positive[0]] - 300).abs() < 5 * math.sqrt(600 / 4)).all()
    assert ((counts[1, positive[1]] - 240).abs() < 5 * math.sqrt(600 * 0.24)).all()


def test_padding_changes_nothing_unless_it_is_counted(tiny_bert):
    for padding, same in (("excluded", True), ("counted", False)):
        encoder, objective = built(tiny_bert, dropout=0.0, padding=padding, samples=2)
        batch, shares = batch_of(encoder), []
        for extra in (0, 4):
            longer = padded(encoder, batch, extra)
            shares.append(loss_of(encoder, objective, longer).metrics["share"].item())
        assert (shares[0] == shares[1]) == same
        assert (shares[0] == 1.0) == same


def test_a_row_of_weight_2_counts_twice(tiny_bert):
    encoder, objective = built(tiny_bert)
    batch = batch_of(encoder)
    attention = attention_of(4, batch.input_ids.shape[-1])
    found = [
        objective.information(a, b.attention_mask, b, StepContext(None, generator=torch.Generator().manual_seed(0)))
        for a, b in zip((attention, attention[[0, 0, 2]]), weighted_and_repeated(batch), strict=True)
    ]
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-5)


def test_refusals(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert)
    for first, last in ((-5, -2), (0, 2), (1, 0), (0, 0)):
        refuses(
            f"first_layer is {first} and objective.last_layer is {last}",
            MiCSE(first_layer=first, last_layer=last).setup,
            encoder,
        )
    for options in ({"chunk_size": 4}, {"gradient_checkpointing": True}):
        run = make_run(tmp_path / next(iter(options)), tiny_bert, objective=MiCSE(**LAYERS), **options)
        with pytest.raises(UserError, match=next(iter(options))):
            Trainer(run).fit()
