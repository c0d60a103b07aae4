"""RankCSE: a program that implements it (oracles), slow loops, pencil and limits."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, linear

from cse import Encoder, RankCSE, SimCSE, StepContext, Views
from tests.cases import cases, load
from tests.objectives.helpers import Given, agrees, batch_of, refuses, run


def loss_of(objective, rows, judged, **fields):
    return objective.loss(Views.split(rows, rows, 1), batch_of(len(rows), rows.shape[1], **fields), judged)


@pytest.mark.parametrize("form", ["paper", "program"])
@pytest.mark.parametrize("name", cases("rankcse"))
def test_every_case(name, form):
    about, data = load("rankcse", name)
    states = data["cls_hidden"].requires_grad_()  # (B, 2, H)
    objective = RankCSE(
        temperature=about["temperature"],
        teacher_temperature=about["teacher_temperature"],
        ranking=about["distillation"],
        ranking_weight=about["gamma"],
        form=form,
    )
    output = loss_of(objective, torch.tanh(linear(states, data["mlp_w"], data["mlp_b"])), data["teacher"])
    if form == "paper":
        data["grad_cls_hidden"], loss, consistency = (
            data["grad_with_jensen_shannon"],
            "loss_with_jensen_shannon",
            "jensen_shannon",
        )
    else:
        loss, consistency = "loss", "consistency_of_the_release"
        ranking = output.metrics["ranking"].item() * about["gamma"]
        assert ranking == pytest.approx(about["distillation_loss"], rel=1e-5)
    agrees(output, about, data, {"cls_hidden": states}, loss=loss, contrast="contrast", consistency=consistency)


@pytest.mark.parametrize("ranking", ["listnet", "listmle"])
def test_duplicate_texts_are_not_ranked_by_a_slow_loop(ranking):
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(5, 2, 6, generator=generator, dtype=torch.float64)
    judged = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    text = torch.tensor([0, 1, 0, 3, 4])[:, None].expand(5, 2)  # rows 0 and 2 have one text
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    score = [[cosine_similarity(rows[i, 0], rows[j, 1], dim=0).item() / 0.3 for j in range(5)] for i in range(5)]
    each = []
    for i in range(5):
        kept = [j for j in range(5) if j == i or text[j, 0] != text[i, 0]]
        z = sum(math.exp(score[i][j]) for j in kept)
        back = sum(math.exp(score[j][i]) for j in kept)
        nce = math.log(z) - score[i][i]
        js = 0.0
        for j in kept:
            p, q = math.exp(score[i][j]) / z, math.exp(score[j][i]) / back
            js += (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))) / 2
        if ranking == "listnet":
            others = [j for j in kept if j != i]
            t, s = sum(math.exp(judged[i, j]) for j in others), sum(math.exp(score[i][j]) for j in others)
            rank = -sum(math.exp(judged[i, j]) / t * math.log(math.exp(score[i][j]) / s) for j in others)
        else:
            order = sorted(kept, key=lambda j: -judged[i, j].item())
            rank = sum(
                math.log(sum(math.exp(score[i][j]) for j in order[k:])) - score[i][order[k]] for k in range(len(order))
            )
        each.append(nce + 0.7 * js + 0.4 * rank)
    objective = RankCSE(temperature=0.3, ranking=ranking, consistency_weight=0.7, ranking_weight=0.4)
    want = sum(w * x for w, x in zip(weight.tolist(), each, strict=True)) / weight.sum().item()
    assert loss_of(objective, rows, judged, text_id=text, weight=weight).loss.item() == pytest.approx(want, rel=1e-10)


def test_without_its_terms_it_is_simcse_with_hard_negatives():
    rows = torch.randn(4, 3, 6)
    objective = RankCSE(teachers=[Given(rows)], consistency_weight=0.0, ranking_weight=0.0)
    assert run(objective, rows).loss.item() == pytest.approx(run(SimCSE(), rows).loss.item(), rel=1e-6)


def test_two_teachers_are_weighted_and_compare_the_first_view_with_the_second():
    rows, one, two = torch.randn(4, 2, 6), torch.randn(4, 2, 3), torch.randn(4, 2, 5)
    objective = RankCSE(
        teachers=[Given(one), Given(two)], first_weight=0.25, teacher_temperature=0.2, ranking="listnet"
    )
    cosine = [cosine_similarity(t[:, None, 0], t[None, :, 1], dim=-1) for t in (one, two)]
    judged = (0.25 * cosine[0] + 0.75 * cosine[1]) / 0.2
    assert run(objective, rows).loss.item() == pytest.approx(loss_of(objective, rows, judged).loss.item(), rel=1e-5)


def test_the_default_teacher_is_the_backbone_before_training(tiny_bert):
    objective = RankCSE()
    objective.setup(Encoder(tiny_bert, pooler="mean"))
    (teacher,) = objective.teachers
    assert (teacher.source, teacher.pooler) == (tiny_bert, "mean")
    assert objective.state_dict() == {}


def test_what_its_teachers_need_it_needs_and_they_move_with_the_encoder():
    class Moving(Given):
        requires = frozenset({"row_id"})
        followed = 0

        def follow(self, encoder):
            self.followed += 1

    teachers = [Moving(torch.randn(3, 2, 4)), Given(torch.randn(3, 2, 4))]
    objective = RankCSE(teachers=teachers)
    assert objective.requires == {"row_id"}
    objective.after_step(StepContext(encoder=None))
    assert teachers[0].followed == 1


def test_refusals():
    refuses("3 teachers", RankCSE, teachers=[Given(torch.randn(2, 2, 2)) for _ in range(3)])
