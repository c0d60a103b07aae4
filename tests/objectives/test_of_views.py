"""OfViews: the term alone on the chosen views, in a sum with a teacher of another view, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cse.batch import LossOutput, Views
from cse.errors import UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.align_uniform import AlignUniform
from cse.objectives.cosine_distillation import CosineDistillation
from cse.objectives.gcl import GradedGCL
from cse.objectives.masked_lm import MaskedLM
from cse.objectives.of_views import OfViews
from cse.objectives.simcse import SimCSE
from cse.objectives.weighted_sum import WeightedSum
from cse.seeding import torch_rng
from tests.objectives.helpers import Case, batch_of, run


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


def test_a_contrast_of_two_views_and_a_teacher_of_a_third():
    """The student's vectors in the distillation are the exported ones, which differ from those that are contrasted."""
    projected, exported, vectors = rows_of(3), rows_of(3, seed="exported"), rows_of(1, seed="teacher")[:, 0]
    terms = [SimCSE(temperature=0.5), CosineDistillation()]
    objective = WeightedSum(
        terms=[OfViews(term=term, views=views) for term, views in zip(terms, ([0, 1], [2]), strict=True)],
        weights=[1.0, 3.0],
    ).double()
    objective.setup(SimpleNamespace(dim=8))
    objective.double()
    batch = batch_of(5, 3, 2, teacher=vectors, text_id=torch.arange(5)[:, None].expand(5, 3))
    with torch.no_grad():  # as if it was only scored: the layer is still the identity
        got = asked(objective, projected, exported, batch).loss.item()
    z, e, t = (x.numpy() / np.linalg.norm(x.numpy(), axis=-1, keepdims=True) for x in (projected, exported, vectors))
    logits = np.exp(z[:, 0] @ z[:, 1].T / 0.5)
    contrast = -np.log(np.diag(logits) / logits.sum(1)).mean()
    assert got == pytest.approx(contrast + 3 * (1 - (e[:, 2] * t).sum(1)).mean(), rel=1e-6)


def test_relevances_are_those_of_the_chosen_positives():
    rows, relevance = rows_of(4), torch.rand(5, 3, generator=torch_rng("relevance"), dtype=torch.float64)
    got = run(OfViews(term=GradedGCL(), views=[0, 3, 1]), rows, 3, relevance=relevance)
    want = run(GradedGCL(), rows[:, [0, 3, 1]], 2, relevance=relevance[:, [2, 0]])
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-12)
    with pytest.raises(ValueError, match=r"Batch\.relevance"):  # which are those of view 0
        run(OfViews(term=GradedGCL(), views=[1, 0]), rows, 3, relevance=relevance)


def test_it_has_the_flags_of_its_term_and_passes_on_what_it_is_told():
    assert OfViews(term=MaskedLM(), views=[1]).requires == {"masked_ids", "mlm_labels"}
    assert not OfViews(term=MaskedLM(), views=[1]).uses_views
    assert not OfViews(term=CosineDistillation(), views=[0]).contrasts
    assert OfViews(term=AlignUniform(), views=[0, 1]).weighs_rows
    term = Heard()
    objective = OfViews(term=term, views=[0])
    objective.setup("encoder")
    objective.after_step(StepContext(encoder=None, step=4))
    assert (term.encoder, term.step) == (("encoder",), 4)
    assert OfViews(term=SimCSE(), views=[0, 1]).describe().endswith("hardness_of=all), views=[0, 1])")


def test_errors():
    for views in ([], [0, -1], [1, 1]):
        with pytest.raises(UserError, match=r"objective\.views is .*\nfix: name views once each, counted from 0"):
            OfViews(term=SimCSE(), views=views)
    with pytest.raises(ValueError, match=r"objective\.views names view 3, and rows have 3"):
        run(OfViews(term=SimCSE(), views=[0, 3]), rows_of(3), 2)
    with pytest.raises(ValueError, match="AlignUniform needs two views"):
        run(OfViews(term=AlignUniform(), views=[0]), rows_of(3), 2)
