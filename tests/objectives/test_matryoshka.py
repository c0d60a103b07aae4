"""Sums over widths, against sentence-transformers, by pencil and in their limits."""

import numpy as np
import pytest
import torch

from cse import AdaptiveLayer, Encoder, MaskedLM, Matryoshka, SimCSE, WeightedSum, WhitenedCSE
from cse.objectives import matryoshka
from cse.objectives.matryoshka import draw
from cse.seeding import torch_rng
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, inner, refuses, run, vectors


def contract_case(backbone):
    return Case(
        {"term": SimCSE(), "dimensions": [16, 8, 3], "weights": [1.0, 0.5, 2.0], "dimensions_per_step": 2},
        refuses={"dimension 1": "objective.dimensions has 16, but the vectors have 1"},
    )


@pytest.mark.parametrize("name", cases("matryoshka"))
def test_every_case_of_sentence_transformers(name, monkeypatch):
    about, data = load("matryoshka", name)
    if about["dims_used"] is not None:
        used = [about["dims"].index(width) for width in about["dims_used"]]
        monkeypatch.setattr(matryoshka, "draw", lambda *_: used)
    objective = Matryoshka(
        term=inner(about, "score" in data),
        dimensions=about["dims"],
        weights=about["weights"],
        dimensions_per_step=about["dims_per_step"] if about["dims_per_step"] > 0 else None,
    )
    rows, leaves = vectors(data)
    positives = data["positive"].shape[1] if data["positive"].dim() == 3 else 1
    agrees(run(objective, rows, positives, score=data.get("score")), about, data, leaves)


def test_draws_come_from_the_step_and_the_whole_width_is_not_always_among_them():
    assert list(draw(3, None, None)) == list(draw(3, 3, None)) == list(draw(3, 9, None)) == [0, 1, 2]
    generator = torch_rng("draws")
    before = generator.get_state()
    draw(3, None, generator)
    assert torch.equal(generator.get_state(), before)  # nothing is drawn where all are taken
    drawn = [draw(4, 2, generator) for _ in range(200)]
    assert all(len(set(some)) == 2 for some in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=4)
    assert (np.abs(counts - 100) < 30).all()  # 200 draws of 2 of 4: each 100 times, give or take 7
    objective = Matryoshka(term=SimCSE(), dimensions=[8, 4, 2], dimensions_per_step=1)
    rows = torch.randn(4, 2, 8)
    seen = [set(run(objective, rows, generator=torch_rng("step", i)).metrics) - {"skipped"} for i in range(30)]
    assert set().union(*seen) == {"loss_8", "loss_4", "loss_2"}
    assert all(len(one) == 1 for one in seen)
    again = [set(run(objective, rows, generator=torch_rng("step", i)).metrics) - {"skipped"} for i in range(30)]
    assert seen == again


def test_widths_follow_the_encoder(tiny_bert):
    objective = Matryoshka(term=SimCSE())
    objective.setup(Encoder(tiny_bert))
    assert objective.dimensions == [16, 8, 4, 2]
    assert "dimensions=[16, 8, 4, 2]" in objective.describe()
    refuses(
        r"objective.dimensions has 32, but the vectors have 16 dimensions",
        Matryoshka(term=SimCSE(), dimensions=[32, 8]).setup,
        Encoder(tiny_bert),
    )
    refuses(
        r"objective.weights has 2 entries for the widths \[16, 8, 4, 2\]",
        Matryoshka(term=SimCSE(), weights=[1.0, 2.0]).setup,
        Encoder(tiny_bert),
    )


def test_a_head_that_is_not_exported_is_refused(tiny_bert):
    refuses(r"encoder.head, which is not exported", Matryoshka(term=SimCSE()).setup, Encoder(tiny_bert, head="mlp"))
    Matryoshka(term=SimCSE()).setup(Encoder(tiny_bert, head="mlp", export_head=True))


@pytest.mark.parametrize("wrapper", [Matryoshka, AdaptiveLayer])
@pytest.mark.parametrize(
    ("term", "said"),
    [
        (WhitenedCSE(), "is or contains WhitenedCSE, which has a head of its own"),
        (WeightedSum(terms=[SimCSE(), MaskedLM()], weights=[1, 1]), "is or contains MaskedLM, which has a head"),
        (AdaptiveLayer(term=SimCSE()), "put .* inside of AdaptiveLayer"),
    ],
)
def test_what_cannot_be_wrapped_is_named(tiny_bert, wrapper, term, said):
    refuses(said, wrapper(term=term).setup, Encoder(tiny_bert))


def test_vectors_in_bfloat16_are_scaled_in_float32():
    rows = torch.randn(6, 2, 16).bfloat16()
    objective = Matryoshka(term=SimCSE(), dimensions=[16, 4])
    assert run(objective, rows).loss.item() == pytest.approx(run(objective, rows.float()).loss.item(), rel=1e-6)
