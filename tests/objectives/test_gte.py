"""GTE's joint contrast against sentence-transformers (oracles), and by a slow loop."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cse.objectives.gte import GTE
from cse.objectives.simcse import SimCSE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, hardness_of, is_joint, run, vectors


@pytest.mark.parametrize("name", cases("symmetric", where=is_joint))
def test_every_case_of_sentence_transformers(name):
    about, data = load("symmetric", name)
    rows, leaves = vectors(data)
    agrees(run(GTE(directions=about["directions"], **hardness_of(about)), rows), about, data, leaves)


def test_by_a_slow_loop():
    rows, t, strength, total = torch.randn(4, 3, 6, dtype=torch.float64), 0.2, 1.5, 0.0

    def cosine(a, b):
        return cosine_similarity(rows[a], rows[b], dim=0).item()

    for i in range(4):
        query, document = (i, 0), (i, 1)
        terms = [cosine(query, document) / t]
        terms += [cosine(query, (j, s)) * (1 / t + strength) for j in range(4) for s in (1, 2) if (j, s) != document]
        terms += [cosine(query, (j, 0)) / t for j in range(4) if j != i]
        terms += [cosine((j, 0), document) / t for j in range(4)]
        terms += [cosine((j, s), document) / t for j in range(4) for s in (1, 2) if j != i]
        total += math.log(sum(map(math.exp, terms))) - terms[0]
    got = run(GTE(temperature=t, hardness=strength), rows).loss
    assert got.item() == pytest.approx(total / 4, rel=1e-12)


def test_directions_are_parts_of_the_denominator():
    rows = torch.randn(4, 3, 6)
    alone = run(GTE(temperature=0.2, directions=["query_to_doc"], hardness=2.0), rows).loss
    assert alone.item() == pytest.approx(run(SimCSE(temperature=0.2, hardness=2.0), rows).loss.item(), rel=1e-6)
    every = ["doc_to_doc", "query_to_doc", "doc_to_query", "query_to_query"]  # in any order
    losses = [run(GTE(temperature=0.2, directions=every[:n]), rows).loss.item() for n in (2, 3, 4)]
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(run(GTE(temperature=0.2), rows).loss.item(), rel=1e-6)
