"""OfViews: the term alone on the chosen views, in a sum with a teacher of another view, and what is refused."""

import pytest
import torch

from cse import GradedGCL, LossOutput, Objective, OfViews, SimCSE, StepContext, Views
from cse.seeding import torch_rng
from tests.objectives.helpers import Case, batch_of, refuses, run


def contract_case(backbone):
    """Rows have an anchor, a positive and a hard negative: the two texts in the other order, and the negative."""
    return Case({"term": SimCSE(), "views": [1, 0, 2]})


class Heard(Objective):
    """Keeps what it is given."""

    def setup(self, encoder):
        self.encoder = (encoder,)

    def forward(self, views, batch, ctx):
        self.views, self.batch = views, batch
        return LossOutput(views.anchor.sum(), {"of": views.anchor.sum().detach()})

    def after_step(self, ctx):
        self.step = ctx.step


def rows_of(views, size=5, seed="rows"):
    return torch.randn(size, views, 8, generator=torch_rng(seed), dtype=torch.float64)


def asked(objective, projected, exported, batch):
    views = Views.split(projected, exported, batch.num_positives)
    return objective(views, batch, StepContext(encoder=None))


@pytest.mark.parametrize(
    ("chosen", "positives", "kept"),
    [
        ([0, 1], 3, 1),  # four renderings of a text, two of which are contrasted
        ([0, 3, 1], 3, 2),
        ([2, 0], 3, 1),
        ([0, 1, 2, 3], 1, 1),  # all, with two hard negatives
        ([0, 1, 3], 1, 1),  # one of two hard negatives
        ([1, 0, 2], 1, 1),
    ],
)
def test_it_is_the_term_alone_on_the_chosen_views(chosen, positives, kept):
    rows, weight = rows_of(4).requires_grad_(), torch.arange(1.0, 6.0)
    text_id = torch.arange(20).view(5, 4)
    text_id[4, chosen[0]] = text_id[0, chosen[0]]  # two rows with one anchor text, which are not each other's negative
    got = run(OfViews(term=SimCSE(), views=chosen), rows, positives, text_id=text_id, weight=weight)
    want = run(SimCSE(), rows[:, chosen], kept, text_id=text_id[:, chosen], weight=weight)
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-12)
    assert got.metrics == want.metrics
    gradients = [torch.autograd.grad(output.loss, rows)[0] for output in (got, want)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
    assert not gradients[0][:, [view for view in range(4) if view not in chosen]].any()


def test_positives_come_before_hard_negatives_in_any_order():
    rows = rows_of(4)
    got = run(OfViews(term=SimCSE(), views=[0, 3, 1]), rows, 2)
    assert got.loss.item() == pytest.approx(run(SimCSE(), rows[:, [0, 1, 3]], 1).loss.item(), rel=1e-12)


def test_the_term_sees_the_exported_and_the_projected_vectors_of_its_views():
    projected, exported, term = rows_of(4), torch.randn(5, 4, 6), Heard()
    ids = torch.arange(5 * 4 * 3).view(5, 4, 3)
    batch = batch_of(5, 4, 2, text_id=ids[..., 0], score=torch.rand(5), view_mask=ids[..., 0] % 7 > 0)
    batch = batch.with_tensors(batch.tensors() | {"input_ids": ids, "attention_mask": ids % 2, "masked_ids": ids + 1})
    output = asked(OfViews(term=term, views=[0, 2, 3]), projected, exported, batch)
    assert output.metrics == {"of": projected[:, 0].sum()}
    assert torch.equal(term.views.anchor, projected[:, 0])
    assert torch.equal(term.views.positive, projected[:, [2]])
    assert torch.equal(term.views.negative, projected[:, [3]])
    assert torch.equal(term.views.embedding, exported[:, [0, 2, 3]])
    assert term.batch.num_positives == 1
    for name, tensor in batch.tensors().items():
        want = tensor if name == "score" else tensor[:, [0, 2, 3]]
        assert torch.equal(getattr(term.batch, name), want), name


def test_relevances_are_those_of_the_chosen_positives():
    rows, relevance = rows_of(4), torch.rand(5, 3, generator=torch_rng("relevance"), dtype=torch.float64)
    got = run(OfViews(term=GradedGCL(), views=[0, 3, 1]), rows, 3, relevance=relevance)
    want = run(GradedGCL(), rows[:, [0, 3, 1]], 2, relevance=relevance[:, [2, 0]])
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-12)
    refuses(r"Batch\.relevance", run, OfViews(term=GradedGCL(), views=[1, 0]), rows, 3, relevance=relevance)
