"""The source of every step of a mixture, its rows, and what is refused."""

import re
from collections import Counter

import pytest

from cse import Mixture, Pairs, ScoredPairs, Source, Texts
from cse.data.loader import StepBatches
from cse.data.mixture import BLOCK
from tests.refusals import refuses


def texts(rows):
    return Texts([f"text {rows} {i}" for i in range(rows)])


SIZES = {"a": 40, "b": 160, "c": 10}  # 4, 16 and 1 batches of 10


def mixed(schedule, temperature=None, weights=(1, 1, 1), seed=3, **options):
    sources = {name: Source(texts(rows), weight=w) for (name, rows), w in zip(SIZES.items(), weights, strict=True)}
    mixture = Mixture(sources, schedule=schedule, temperature=temperature)
    alone = {n: StepBatches(r, 10, 1, seed, max_steps=None, epochs=1) for n, r in SIZES.items()}
    return mixture, mixture.steps(alone, seed, **({"max_steps": None, "cap_steps": None, "epochs": 1} | options)), alone


def drawn(mixture, steps, count):
    """The source of every step, found from its rows."""
    found = []
    for step in range(count):
        names = {mixture[row].source for row in steps.of_step(step)[1]}
        assert len(names) == 1
        found += names
    return found


SHARES = [
    ("proportional", None, (1, 1, 1), (4 / 21, 16 / 21, 1 / 21)),
    ("proportional", None, (2, 1, 4), (8 / 28, 16 / 28, 4 / 28)),
    ("temperature", 0.5, (1, 1, 1), (2 / 7, 4 / 7, 1 / 7)),
    ("temperature", 1.0, (1, 1, 1), (4 / 21, 16 / 21, 1 / 21)),
    ("temperature", 0.0, (3, 1, 1), (3 / 5, 1 / 5, 1 / 5)),
    ("weights", None, (3, 1, 0), (3 / 4, 1 / 4, 0)),
    ("round_robin", None, (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
]


@pytest.mark.parametrize(("schedule", "temperature", "weights", "want"), SHARES)
def test_shares_by_pencil(schedule, temperature, weights, want):
    mixture, steps, _ = mixed(schedule, temperature, weights)
    asked = [steps.figures(0)[f"asked_{name}"] for name in SIZES]
    assert asked == pytest.approx(want, abs=1e-4)
    sequence = drawn(mixture, steps, 400)
    for start, end in ((0, 5), (0, 40), (130, 150), (0, 400)):  # close to what was asked for from any step on
        count = Counter(sequence[start:end])
        assert all(abs(count[n] - share * (end - start)) < 2.5 for n, share in zip(SIZES, want, strict=True))
    figures = steps.figures(400)
    assert [figures[f"drawn_{n}"] for n in SIZES] == [round(sequence.count(n) / 400, 4) for n in SIZES]


@pytest.mark.parametrize(("schedule", "temperature"), [("temperature", 0.3), ("round_robin", None)])
def test_a_step_is_a_function_of_seed_and_step(schedule, temperature):
    mixture, steps, alone = mixed(schedule, temperature)
    whole = [steps.of_step(step) for step in range(250)]
    for start in (2 * BLOCK + 3, 249, 100, 1):
        assert mixed(schedule, temperature)[1].of_step(start) == steps.of_step(start)
    assert schedule != "round_robin" or drawn(mixture, steps, BLOCK + 7) == (list("abc") * BLOCK)[: BLOCK + 7]
    visits = Counter()
    first = dict(zip(SIZES, mixture.firsts, strict=False))
    for (epoch, rows), name in zip(whole, drawn(mixture, steps, 250), strict=True):
        own_epoch, own_rows = alone[name].of_step(visits[name])
        assert (epoch, rows) == (own_epoch, [first[name] + row for row in own_rows])
        assert [mixture[row].row_id for row in rows] == own_rows
        visits[name] += 1
    other = mixed(schedule, temperature, seed=4)[1]
    assert whole != [other.of_step(step) for step in range(250)]


def test_an_epoch_passes_over_every_source():
    assert mixed("proportional")[1].max_steps == 21
    assert mixed("weights", None, (1, 0, 1))[1].max_steps == 5
    assert mixed("proportional", epochs=2, cap_steps=30)[1].max_steps == 30
    assert mixed("proportional", max_steps=7)[1].max_steps == 7


def test_a_mixture_is_its_rows():
    pairs = Pairs([("a", "b"), ("c", "d")])
    scored = ScoredPairs([("a", "x", 0.5), ("y", "z", 1.0), ("u", "v", 0.0)])
    mixture = Mixture({"pairs": Source(pairs), "graded": Source(scored)})
    assert len(mixture) == 5
    assert [row.source for row in mixture] == ["pairs"] * 2 + ["graded"] * 3
    assert [row.row_id for row in mixture] == [0, 1, 0, 1, 2]
    assert mixture[-1].score == 0.0
    assert mixture[1:3] == [mixture[1], mixture[2]]
    assert mixture.unique_texts() == list("abcdxyzuv")
    assert mixture.in_memory
    assert not mixture.ragged
    assert mixture.hash != Mixture({"pairs": Source(pairs), "other": Source(scored)}).hash
    assert mixture.describe() == "mixture of pairs, graded: 5 rows, proportional"


ROWS = texts(20)
REFUSED = [
    ({}, {}, "data.sources is empty"),
    ([ROWS], {}, "data.sources is of type list"),
    ({"": Source(ROWS)}, {}, "a source of the name ''"),
    ({"a.b": Source(ROWS)}, {}, "a source of the name 'a.b'"),
    ({3: Source(ROWS)}, {}, "a source of the name 3"),
    ({"a": ROWS}, {}, "data.sources.a is of type Texts"),
    ({"a": Source([("x", "y")])}, {}, "data.sources.a.data is of type list"),
    ({"a": Source(Mixture({"b": Source(ROWS)}))}, {}, "data.sources.a.data is of type Mixture"),
    ({"a": Source(ROWS, weight=-1)}, {}, "data.sources.a.weight is -1"),
    ({"a": Source(ROWS, weight=float("nan"))}, {}, "data.sources.a.weight is nan"),
    ({"a": Source(ROWS, weight=float("inf"))}, {}, "data.sources.a.weight is inf"),
    ({"a": Source(ROWS, weight=0), "b": Source(ROWS, weight=0)}, {}, "the weights of all sources are 0"),
    ({"a": Source(ROWS, batch_size=0)}, {}, "data.sources.a.batch_size is 0"),
    ({"a": Source(ROWS, prompts={"query": "query"})}, {}, "data.sources.a.prompts names the role 'query'"),
    ({"a": Source(ROWS)}, {"schedule": "proportinal"}, "data.schedule is 'proportinal'"),
    ({"a": Source(ROWS)}, {"schedule": "temperature"}, "data.temperature is not given"),
    ({"a": Source(ROWS)}, {"temperature": 0.5}, "data.schedule is proportional, and data.temperature is 0.5"),
    ({"a": Source(ROWS)}, {"schedule": "temperature", "temperature": 1.5}, "data.temperature is 1.5"),
    ({"a": Source(ROWS)}, {"schedule": "temperature", "temperature": -0.1}, "data.temperature is -0.1"),
    ({"a": Source(ROWS, weight=2)}, {"schedule": "round_robin"}, "data.schedule is round_robin"),
]


@pytest.mark.parametrize(("sources", "options", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_a_mixture_that_cannot_be(sources, options, message):
    refuses(re.escape(message), Mixture, sources, **options)


def test_two_processes_share_every_step():
    steps = mixed("proportional")[1]
    single = [row for part in steps.of_process(3, 0, 1, 40) for _, row in part]
    halves = [list(steps.of_process(3, rank, 2, 40)) for rank in range(2)]
    assert [row for parts in zip(*halves, strict=True) for part in parts for _, row in part] == single
