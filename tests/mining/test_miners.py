"""Miners against slow loops over every pair, and by pencil where there are few."""

from pathlib import Path

import numpy as np
import pytest

from cse import Example, Random, TopK
from cse.encoder.vectors import unit
from cse.mining.corpus import Corpus
from cse.mining.miners import Queries
from cse.mining.neighbors import Exact, open_pool
from tests.cases import cases, load
from tests.refusals import refuses


def circle(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def queries(anchor, positive, banned=None, key=None) -> Queries:
    banned = np.full((len(anchor), 0), -1) if banned is None else np.array(banned)
    return Queries(anchor, positive, banned, np.arange(len(anchor)) if key is None else np.array(key))


def topk(pool, query, k=9, allowed=None, **options):
    miner = TopK(**{"last": len(pool), **options})
    miner.setup(pool)
    return miner(query, k, allowed)


@pytest.mark.parametrize("name", cases("scincl", has="pool"))
def test_scincls_bands_of_the_authors_program(name):
    """Theirs count ranks from 0 and exclude the upper end: 3998:4000 there is first 3999, last 4000 here."""
    about, data = load("scincl", name)
    data = {key: array.numpy() for key, array in data.items()}
    rows = data["queries"]
    query = queries(data["pool"][rows], data["pool"][rows], banned=rows[:, None])
    for band, want in (("positives_k", data["positive"]), ("hard_negatives_k", data["hard"])):
        lower, upper = about[band]
        found = topk(data["pool"], query, k=upper - lower, first=lower + 1, last=upper).rows
        assert (np.sort(found, 1) == np.sort(want, 1)).all(), band
        shifted = topk(data["pool"], query, k=upper - lower, first=max(1, lower), last=upper).rows
        assert lower == 0 or (np.sort(shifted, 1) != np.sort(want, 1)).any()


# By pencil: the anchor at 0 degrees, its positive at 30, the pool at 10, 20, ... 80
POOL = circle(10, 20, 30, 40, 50, 60, 70, 80)
QUERY = queries(circle(0), circle(30))


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"first": 8, "last": 99}, [7]),
        ({"first": 9, "last": 99}, []),
        ({"absolute_margin": 0.0}, [2, 3, 4, 5, 6, 7]),  # cos 30 = 0.866 itself is not above it
        ({"absolute_margin": 0.2}, [4, 5, 6, 7]),  # cos 30 - 0.2 = 0.666: cos 40 = 0.766, cos 50 = 0.643
        ({"relative_margin": 0.05}, [3, 4, 5, 6, 7]),  # 0.95 x 0.866 = 0.823
        ({"relative_margin": 0.2}, [4, 5, 6, 7]),  # 0.8 x 0.866 = 0.693
        ({"max_similarity": 0.6}, [5, 6, 7]),
        ({"first": 2, "last": 6, "absolute_margin": 0.2, "max_similarity": 0.6}, [5]),
    ],
)
def test_bands_and_margins(options, want):
    found = topk(POOL, QUERY, **options)
    assert [row for row in found.rows[0] if row >= 0] == want


def test_each_candidate_is_counted_by_the_first_rule_that_drops_it():
    found = topk(POOL, QUERY, first=2, last=7, absolute_margin=0.2, max_similarity=0.4, k=1)
    # ranks 2 to 7 are 20 to 70 degrees; 20, 30 and 40 fail the margin; of the rest 50 and 60 are above 0.4
    assert found.counts == {"same_text": 0, "candidates": 6, "absolute_margin": 3, "max_similarity": 2}
    assert found.rows.tolist() == [[6]]


def test_a_relative_margin_on_a_negative_positive_is_still_below_it():
    """cos 120 = -0.5; a tenth of its size below is -0.55, so 123 degrees is too near and 124 is not."""
    found = topk(circle(123, 124), queries(circle(0), circle(120)), relative_margin=0.1)
    assert found.rows[0, :2].tolist() == [1, -1]


def test_ranks_are_counted_without_what_is_banned():
    found = topk(POOL, queries(circle(0), circle(30), [[2, 0, -1]]), first=2, last=3, k=2)
    assert found.rows.tolist() == [[3, 4]]  # left are 20, 40, 50, ...
    assert found.counts["same_text"] == 2  # 10 and 30 degrees, both nearer than the last rank, 50
    beyond = topk(POOL, queries(circle(0), circle(30), [[7, 0]]), last=2, k=2)
    assert beyond.counts["same_text"] == 1  # what lies beyond the last rank was kept out by nothing


# Against loops
def slow(anchor, positive, pool, banned, first, last, margin, k):
    """Rows of one anchor by sorting all cosines in float64."""
    cosine = pool.astype(np.float64) @ anchor.astype(np.float64)
    order = [row for row in np.argsort(-cosine, kind="stable") if row not in banned]
    limit = float(anchor.astype(np.float64) @ positive.astype(np.float64)) - margin
    kept = [int(row) for row in order[first - 1 : last] if cosine[row] <= limit]
    return (kept + [-1] * k)[:k]


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(3)
    anchor, pool = unit(rng.normal(size=(40, 6)).astype(np.float32)), unit(rng.normal(size=(333, 6)).astype(np.float32))
    positive = unit(anchor + 0.3 * rng.normal(size=anchor.shape).astype(np.float32))
    return anchor, positive, pool, rng.integers(-1, 333, size=(40, 5))


@pytest.mark.parametrize("index", ["exact", "Flat"])
@pytest.mark.parametrize(("first", "last", "margin"), [(1, 10, 0.0), (5, 40, 0.1), (20, 25, -0.0), (1, 400, 0.3)])
def test_every_anchor_of_a_cloud(cloud, monkeypatch, index, first, last, margin):
    if index != "exact":
        pytest.importorskip("faiss")
    monkeypatch.setattr("cse.mining.neighbors.BLOCK", 50)
    monkeypatch.setattr("cse.mining.neighbors.STRIP", 2)
    anchor, positive, pool, banned = cloud
    options = {"first": first, "last": last, "absolute_margin": margin, "index": index}
    found = topk(pool, queries(anchor, positive, banned), 4, **options)
    want = [slow(a, p, pool, set(b), first, last, margin, 4) for a, p, b in zip(anchor, positive, banned, strict=True)]
    assert found.rows.tolist() == want
    assert 0 < sum(row.count(-1) for row in want) < 160 or first == 1


# Which texts are no negatives of which
def test_single_rows_and_a_pool_of_one_text():
    corpus = Corpus([Example(("b",)), Example(("z",))], ["a", "B.", "c", "a", "  "])
    assert list(corpus.texts) == ["a", "B.", "c", "b", "z"]
    assert [set(row) - {-1} for row in corpus.banned(range(2))] == [{1}, set()]
    assert corpus.anchor.tolist() == corpus.positive.tolist() == [3, 4]
    refuses("1 different texts", Corpus, [Example(("a", "b")), Example(("c", "B"))])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TopK(first=0), "ranks are 0 to 50"),
        (lambda: TopK(first=9, last=8), "ranks are 9 to 8"),
        (lambda: TopK(absolute_margin=-0.1), "absolute_margin is -0.1"),
        (lambda: TopK(relative_margin=3), "relative_margin is 3"),
        (lambda: TopK(max_similarity=1.1), "max_similarity is 1.1"),
        (lambda: Random(outside=-1), r"miner\.outside is -1"),
    ],
)
def test_what_is_out_of_range(make, named):
    refuses(named, make)


def test_an_index_that_faiss_does_not_know():
    pytest.importorskip("faiss")
    for index in ("Nonsense", "IVF99,Flat", "IVF1,Flat;speed=9"):
        refuses("index '", open_pool, circle(1, 2, 3), index)


def test_faiss_that_is_not_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    refuses(r"--index Flat needs faiss .*\nfix: pip install 'cse-embeddings\[faiss\]'", open_pool, circle(1, 2), "Flat")


def test_a_pool_on_disk_is_searched_in_memory_that_does_not_grow_with_it(tmp_path):
    """The pages of the pool are released block by block, and the result is that of an array in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc")

    def mapped():
        return int(status.read_text().split("RssFile:")[1].split()[0]) / 1024

    pool = np.random.default_rng(0).standard_normal((6 * 16_384, 128), dtype=np.float32)  # 48 MB
    np.save(tmp_path / "pool.npy", pool)
    on_disk, none = np.load(tmp_path / "pool.npy", mmap_mode="r"), np.empty((3, 0), dtype=np.int64)
    Exact(pool[:9]).search(pool[:3], 4, none)  # what torch maps when it is first used
    before = mapped()
    rows, cosine = Exact(on_disk).search(pool[:3], 4, none)
    assert mapped() - before < 16
    scores = pool[:3] @ pool.T
    assert rows.tolist() == np.argsort(-scores, axis=1)[:, :4].tolist()
    assert np.allclose(cosine, -np.sort(-scores, axis=1)[:, :4], rtol=1e-5)


# Random rows outside the nearest
@pytest.mark.parametrize("name", cases("scincl", has="pool"))
def test_scincls_easy_negatives_lie_where_those_of_the_authors_program_do(name):
    about, data = load("scincl", name)
    data = {key: array.numpy() for key, array in data.items()}
    rows, outside = data["queries"], about["hard_negatives_k"][1]
    miner = Random(outside=outside)
    miner.setup(data["pool"])
    query = queries(data["pool"][rows], data["pool"][rows], banned=rows[:, None])
    found = miner(query, about["easy"]).rows
    everything = miner(query, about["pool"]).rows
    for row, near, theirs, ours, every in zip(rows, data["nearest"], data["easy"], found, everything, strict=True):
        allowed = set(range(about["pool"])) - {*near[:outside], row}
        assert {*theirs} <= allowed
        assert {*ours} <= allowed
        assert len({*ours}) == about["easy"]
        assert {*every} - {-1} == allowed  # whatever is outside may be drawn


def test_rows_outside_by_pencil():
    miner = Random(outside=5)
    miner.setup(POOL)
    found = miner(queries(circle(0), circle(30), [[0]]), 8)  # without 10 degrees: the nearest five are 20 to 60
    assert sorted(found.rows[0].tolist()) == [-1] * 6 + [6, 7]
    assert found.counts == {"candidates": 8, "same_text": 1, "near": 5}
    miner = Random()
    miner.setup(circle(1, 2, 3))
    assert sorted(miner(queries(circle(0), circle(0), [[1]]), 3).rows[0].tolist()) == [-1, 0, 2]
    beyond = Random(outside=99)
    beyond.setup(POOL)
    assert beyond(QUERY, 2).rows.tolist() == [[-1, -1]]
