"""Which rows share a batch: what each sampler promises, on any number of processes, from any step."""

import itertools
import json
import tracemalloc
from collections import Counter
from functools import partial

import numpy as np
import pytest

from cse import ClusterBatches, Example, LabelBatches, NegativesAsRows, NoDuplicates, Pairs, UserError
from cse import recipe as recipes
from cse.data.loader import StepBatches
from cse.data.samplers import Permuted
from tests.refusals import refuses
from tests.runs import write_recipe


def labeled(*counts: int) -> list[Example]:
    """So many rows of label 0, 1, ..., every text different."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [Example((f"text {row}",), label=label, row_id=row) for row, label in enumerate(labels)]


def repeated(rows: int, texts: int) -> list[Example]:
    """Pairs whose anchors and positives come from two small sets."""
    return [Example((f"a{i * 7 % texts}", f"p{i * 11 % (texts + 3)}"), row_id=i) for i in range(rows)]


def test_no_text_twice_in_a_batch():
    data = repeated(300, 40)
    plain = StepBatches(300, 20, 1, 3, max_steps=1, epochs=1)
    for batches, clean in ((NoDuplicates().batches(data, 20, 3, 0), True), (plain._permutation(0), False)):
        worst = max(max(Counter(t for row in batch for t in set(data[row].texts)).values()) for batch in batches)
        assert (worst == 1) is clean
    every = [row for batch in NoDuplicates().batches(data, 20, 3, 0) for row in batch]
    assert len(set(every)) == len(every) > 240  # nearly all rows find a place, and none has two


def test_one_text_everywhere():
    data = [Example(("same", f"p{i}")) for i in range(9)]
    refuses(r"no 2 of the 9 rows(.|\n)*fix", lambda: NoDuplicates().batches(data, 2, 0, 0))
    assert NoDuplicates().batches(data, 1, 0, 0).shape == (9, 1)


def test_p_labels_with_k_rows_each():
    data = labeled(9, 8, 3, 2, 8)
    batches = LabelBatches(labels=2).batches(data, 8, 0, 0)  # K = 4: labels 0, 1 and 4 have groups, two each
    assert len(batches) == 3
    assert len(set(batches.flatten())) == 24
    for batch in batches:
        labels = [data[row].label for row in batch]
        assert len(set(labels[:4])) == len(set(labels[4:])) == 1
        assert labels[0] != labels[4]
        assert {labels[0], labels[4]} <= {0, 1, 4}


@pytest.mark.parametrize(
    ("sampler", "data", "size", "named"),
    [
        (LabelBatches(labels=3), labeled(4, 4), 6, "sampler.labels is 3, but only 2 labels have the 2 rows"),
        (LabelBatches(labels=2), labeled(4, 1), 6, "only 1 labels have the 3 rows"),
        (LabelBatches(labels=3), labeled(4, 4, 4), 8, "does not divide a batch of 8"),
        (LabelBatches(labels=2), [Example(("a",)), Example(("b",))], 2, "needs labels(.|\n)*label_column"),
        (ClusterBatches(), [Example(("a",)), Example(("b",))], 2, "needs labels"),
        (ClusterBatches(), labeled(3, 3), 4, "no cluster of the data has the 4 rows"),
    ],
)
def test_what_cannot_be_drawn_is_named_with_its_fix(sampler, data, size, named):
    refuses(named, sampler.batches, data, size, 0, 0)


def test_batches_of_one_cluster():
    data = labeled(10, 3, 7, 4)
    batches = ClusterBatches().batches(data, 4, 0, 0)
    assert sorted(data[batch[0]].label for batch in batches) == [0, 0, 2, 3]
    assert all(len({data[row].label for row in batch}) == 1 for batch in batches)
    orders = {tuple(data[b[0]].label for b in ClusterBatches().batches(data, 4, 0, epoch)) for epoch in range(9)}
    assert len(orders) > 2  # clusters are mixed over an epoch


SAMPLERS = {
    "none": (None, labeled(90)),
    "duplicates": (NoDuplicates(), repeated(90, 25)),
    "labels": (LabelBatches(labels=3), labeled(30, 17, 25, 18)),
    "clusters": (ClusterBatches(), labeled(30, 17, 25, 18)),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_has_the_same_rows_whoever_asks_and_when(name, accumulation):
    sampler, data = SAMPLERS[name]
    size = 12 // accumulation
    draw = partial(sampler.batches, data, size, 5) if sampler else None

    def fresh():
        return StepBatches(len(data), 12, accumulation, 5, max_steps=30, epochs=1, draw=draw)

    whole = [fresh().of_step(step) for step in range(30)]
    one = fresh()
    assert [one.of_step(step) for step in reversed(range(30))] == whole[::-1]
    assert len({epoch for epoch, _ in whole}) >= 3
    assert all(len(set(rows)) == 12 for _, rows in whole)
    for epoch in {epoch for epoch, _ in whole}:
        seen = [row for e, rows in whole if e == epoch for row in rows]
        assert len(set(seen)) == len(seen)
    single = [part for part in fresh().of_process(7, 0, 1)]
    shares = [list(fresh().of_process(7, rank, 2)) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == single
    assert [[row for _, row in p] for p in single[:accumulation]] == [
        whole[7][1][i : i + size] for i in range(0, 12, size)
    ]
    assert list(fresh().of_process(7, 0, 1, 9)) == single[: 2 * accumulation]


def test_epochs_of_unequal_length():
    """Epochs of 2, 1 and 3 parts: step by step, and the run's length from the first."""
    parts = [[[0, 1], [2, 3]], [[4, 5]], [[6, 7], [8, 9], [10, 11]]]
    batches = StepBatches(12, 2, 1, 0, max_steps=None, epochs=3, draw=lambda epoch: np.array(parts[epoch % 3]))
    assert batches.max_steps == 6
    want = [(epoch, rows) for epoch in range(3) for rows in parts[epoch]]
    assert [batches.of_step(step) for step in range(6)] == want
    with pytest.raises(UserError, match=r"trainer\.accumulation is 2"):
        StepBatches(12, 4, 2, 0, max_steps=3, epochs=1, draw=lambda epoch: np.array(parts[1])).of_step(0)


def test_a_recipe_names_its_sampler(tiny_bert, tmp_path):
    (tmp_path / "rows.tsv").write_text("topic\ta\tb\n" + "".join(f"t{i % 3}\ta{i}\tb{i}\n" for i in range(12)))
    rows = {"path": str(tmp_path / "rows.tsv"), "columns": ["a", "b"], "label_column": "topic"}
    sampler = {"class_path": "cse.data.LabelBatches", "init_args": {"labels": 3}}
    built = recipes.build(recipes.load(write_recipe(tmp_path, "Pairs", rows, {"backbone": tiny_bert}, sampler=sampler)))
    assert built.sampler.labels == 3
    assert [e.label for e in built.data[:4]] == [0, 1, 2, 0]


# Many rows
@pytest.mark.parametrize("rows", [1, 2, 3, 17, 257])
def test_an_order_that_is_computed_has_every_row_once(rows):
    order = [int(row) for (row,) in Permuted(rows, 1, 5, 0)]
    assert sorted(order) == list(range(rows))
    assert order == [row for batch in Permuted(rows, rows, 5, 0) for row in batch]
    assert rows < 17 or order != [int(row) for (row,) in Permuted(rows, 1, 5, 1)]


def test_an_order_that_is_computed_is_random():
    """Where 4,000 rows of 64 go over 512 epochs: each place as often, and neighbors apart as by chance."""
    orders = np.array([list(itertools.chain(*Permuted(64, 64, 1, epoch))) for epoch in range(512)])
    for row in (0, 1, 31, 63):
        counts = np.bincount(np.argmax(orders == row, axis=1), minlength=64)
        assert ((counts - 8) ** 2 / 8).sum() < 126  # chi-square of 63 degrees: beyond it 4 in a million
    beside = (np.abs(np.diff(orders, axis=1)) == 1).sum() / 512
    assert abs(beside - 2 * 63 / 64) < 5 * (2 / 512) ** 0.5  # 63 pairs of neighbors, each 2/64 likely to be consecutive


def test_the_order_of_many_rows_takes_no_memory_by_row():
    tracemalloc.start()
    steps = StepBatches(10**9, 64, 2, 3, max_steps=5, epochs=1)
    found = [steps.of_step(step) for step in range(5)]
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    rows = [row for _, own in found for row in own]
    assert len(set(rows)) == 320
    assert 0 <= min(rows) < max(rows) < 10**9
    assert max(rows) - min(rows) > 9 * 10**8
    assert steps.steps_per_epoch == 10**9 // 64
    assert steps.of_step(10**9 // 64)[0] == 1


# Negatives as rows
def mined_for(tmp_path, negatives):
    """A file of the negatives of rows, as `cse mine` writes it for single texts."""
    path = tmp_path / "mined.jsonl"
    lines = [{"anchor": a, "positive": a, **{f"negative_{i}": n for i, n in enumerate(own, 1)}} for a, own in negatives]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def in_threes(tmp_path, count):
    """Rows of which each three are the negatives of each other."""
    texts = [f"text {row}" for row in range(count)]
    trios = [[i - i % 3 + j for j in range(3) if j != i % 3] for i in range(count)]
    return labeled(count), mined_for(tmp_path, [(texts[i], [texts[j] for j in trio]) for i, trio in enumerate(trios)])


def test_negatives_of_a_row_are_rows_of_its_batch(tmp_path):
    data, path = in_threes(tmp_path, 90)
    sampler = NegativesAsRows(path=path)
    for epoch in range(2):
        batches = sampler.batches(data, 9, 3, epoch)
        assert batches.shape == (10, 9)
        assert sorted(batches.flatten()) == list(range(90))  # every row once
        for batch in batches:
            assert set(Counter(row // 3 for row in batch.tolist()).values()) == {3}
    assert sampler.batches(data, 9, 3, 0).tolist() != sampler.batches(data, 9, 3, 1).tolist()
    assert sampler.batches(data, 9, 3, 1).tolist() == NegativesAsRows(path=path).batches(data, 9, 3, 1).tolist()


def test_a_batch_has_room_for_some_of_them_only(tmp_path):
    data, path = in_threes(tmp_path, 90)
    batches = NegativesAsRows(path=path).batches(data, 4, 3, 0)  # three of a kind and a fourth row
    assert len(set(batches.flatten().tolist())) == batches.size == 88
    assert max(max(Counter(row // 3 for row in batch).values()) for batch in batches.tolist()) == 3
    borders = [(a[-1] // 3, b[0] // 3) for a, b in itertools.pairwise(batches.tolist())]
    assert sum(a == b for a, b in borders) < 5  # what has no room in a batch does not begin the next one
    pairs = NegativesAsRows(path=path, each=1).batches(data, 2, 3, 0)  # a row and one of its two negatives
    assert sum(a // 3 == b // 3 for a, b in pairs.tolist()) > 10  # by chance there would be one


def test_the_positive_of_another_row_brings_that_row(tmp_path):
    pairs = [(f"question {row}", f"answer {row}") for row in range(8)]
    data = Pairs(pairs)
    path = mined_for(tmp_path, [(f"question {row}", [f"answer {row ^ 1}"]) for row in range(8)])
    for batch in NegativesAsRows(path=path).batches(data, 2, 3, 0).tolist():
        assert batch[0] ^ 1 == batch[1]


def test_negatives_that_are_no_rows_are_not_there(tmp_path):
    data = labeled(4)
    path = mined_for(tmp_path, [("text 0", ["unknown", "text 3"]), ("other", ["text 1"])])
    for seed in range(9):
        assert sorted(NegativesAsRows(path=path).batches(data, 2, seed, 0).flatten()) == [0, 1, 2, 3]
    nowhere = mined_for(tmp_path, [("text 0", ["unknown"]), ("other", ["text 1"])])
    with pytest.raises(UserError, match=r"no negative of a row of the data is a row(.|\n)*fix: mine them"):
        NegativesAsRows(path=nowhere).batches(data, 2, 0, 0)
    refuses(r"sampler.each is 0", NegativesAsRows, path=path, each=0)
    refuses(r"absent.jsonl", NegativesAsRows, path=str(tmp_path / "absent.jsonl"))
