"""Mining from a folder of vectors, into a folder of shards, and over several indexes of a pool on disk."""

import json
import shutil

import numpy as np
import pytest

from cse import Triplets, cli
from cse.encoder.vectors import unit
from cse.inference.shards import Shard, claim
from cse.mining import neighbors
from cse.mining.neighbors import Exact, Faiss, open_pool
from tests.mining.helpers import mined
from tests.refusals import refuses

NONE = np.zeros((30, 0), dtype=np.int64)


def in_shards(vectors, folder, ends):
    """Write an array as a folder of shards that end at these rows."""
    parts = np.split(vectors, ends)
    files = [{"file": f"0a-{Shard(i, len(parts)).name}.npy", "rows": len(p)} for i, p in enumerate(parts, 1)]
    about = {"rows": len(vectors), "width": vectors.shape[1], "dtype": vectors.dtype.name}
    claim(folder, {"checkpoint": "any"}, files, about)
    for each, part in zip(files, parts, strict=True):
        np.save(folder / each["file"], part)


# From shards
def test_a_folder_of_shards_is_mined_as_one_file(place):
    options = ("--positives", "3", "5", "--ranks", "9", "10", "--k", "2", "--easy", "4")
    want = mined(*options)
    in_shards(np.load("graph.npy"), place / "graph", [4, 5, 21])
    assert mined(*options, vectors="graph") == want
    (place / "graph" / "0a-00002-of-00004.npy").unlink()
    assert cli.main(["mine", "--data", "texts.txt", "--vectors", "graph", "--out", "m.jsonl"]) == 2


def test_codes_are_not_vectors(place, capsys):
    in_shards(np.ones((30, 5), dtype=np.int8), place / "codes", [10, 20])
    assert cli.main(["mine", "--data", "texts.txt", "--vectors", "codes", "--out", "m.jsonl"]) == 2
    assert "--vectors codes has codes of one byte (int8)" in capsys.readouterr().err


# Into shards
@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("cse.mining.command.CHUNK", 4)


def test_all_shards_are_the_one_file(place, small_blocks, capsys):
    base = ["mine", "--data", "texts.txt", "--vectors", "graph.npy", "--k", "2", "--easy", "1", "--ranks", "2", "9"]
    assert cli.main([*base, "--out", "one.parquet"]) == 0
    assert cli.main([*base, "--out", "parts", "--shard", "2/3"]) == 0
    kept = (place / "parts" / "00002-of-00003.parquet").stat().st_mtime_ns
    assert cli.main([*base, "--out", "parts", "--shards", "3"]) == 0
    assert (place / "parts" / "00002-of-00003.parquet").stat().st_mtime_ns == kept, "what was complete is mined again"
    assert "30, of them 0 without a negative" in capsys.readouterr().out
    columns = ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    want, found = (Triplets(path, columns=columns) for path in ("one.parquet", "parts"))
    assert [row.texts for row in found] == [row.texts for row in want]
    counts = [json.loads((place / "parts" / f"0000{i}-of-00003.json").read_text())["counts"] for i in (1, 2, 3)]
    one = json.loads((place / "one.json").read_text())["counts"]
    assert {n: sum(each[n] for each in counts) for n in one if n != "pool"} == {n: one[n] for n in one if n != "pool"}
    shutil.copy(place / "parts" / "00002-of-00003.parquet", place / "kept")
    (place / "parts" / "00002-of-00003.json").unlink()  # as if the job had died between the two files
    assert cli.main([*base, "--out", "parts", "--shards", "3"]) == 0
    assert (place / "parts" / "00002-of-00003.parquet").read_bytes() == (place / "kept").read_bytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--out", "parts", "--shard", "2/3", "--k", "1"], "k was 2 and is 1"),
        (["--out", "parts", "--shard", "1/2"], "shards was 3 and is 2"),
        (["--out", "parts", "--shard", "1/3", "--shards", "3"], "give one of the two"),
        (["--out", "m.parquet", "--shards", "2"], "m.parquet is a file, and a folder is to be written"),
    ],
)
def test_a_folder_of_another_job_is_refused(place, small_blocks, capsys, options, named):
    base = ["mine", "--data", "texts.txt", "--vectors", "graph.npy", "--k", "2"]
    (place / "m.parquet").write_bytes(b"")
    assert cli.main([*base, "--out", "parts", "--shard", "1/3"]) == 0
    before = sorted(place.rglob("*"))
    assert cli.main([*base, *options]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "\nfix: " in said
    assert sorted(place.rglob("*")) == before


# Several indexes
@pytest.fixture
def pool(tmp_path):
    """Vectors on disk, in groups as texts are, with an index for each 200 rows."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(2)
    groups = rng.normal(size=(50, 16))
    vectors = unit((groups[rng.integers(0, 50, 900)] + 0.5 * rng.normal(size=(900, 16))).astype(np.float32))
    np.save(tmp_path / "pool.npy", vectors)
    return np.load(tmp_path / "pool.npy", mmap_mode="r")


def slow(pool, anchors, depth, banned):
    """The nearest rows, by sorting in float64."""
    cosine = anchors.astype(np.float64) @ np.asarray(pool, dtype=np.float64).T
    for row, out in enumerate(banned):
        cosine[row, out[out >= 0]] = -np.inf
    return np.argsort(-cosine, axis=1)[:, :depth]


@pytest.mark.parametrize("on_disk", [True, False])
def test_flat_indexes_of_parts_find_what_sorting_finds(pool, on_disk):
    anchors = np.array(pool[:30])
    banned = np.stack([np.arange(30), np.arange(30) + 400, np.full(30, -1)], 1)
    near = Faiss(pool if on_disk else np.array(pool), "Flat", 200)
    assert len(near.indexes) == 5
    rows, cosine = near.search(anchors, 12, banned)
    np.testing.assert_array_equal(rows, slow(pool, anchors, 12, banned))
    exact_rows, exact = Exact(pool).search(anchors, 12, banned)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_allclose(cosine, exact, atol=1e-6)


def test_more_neighbors_than_a_part_has_rows(pool):
    anchors = np.array(pool[:3])
    rows, _ = Faiss(pool, "Flat", 200).search(anchors, 850, NONE[:3])
    np.testing.assert_array_equal(rows, slow(pool, anchors, 850, NONE[:3]))
    rows, cosine = Faiss(pool, "Flat", 200).search(anchors, 905, NONE[:3])
    assert (rows[:, 900:] == -1).all()
    assert np.isneginf(cosine[:, 900:]).all()


def test_a_compressed_index_names_candidates_and_exact_cosines_order_them(pool, monkeypatch):
    anchors = np.array(pool[:30])
    want = slow(pool, anchors, 10, NONE)
    recall = {}
    for wider in (1, 4):
        monkeypatch.setattr(neighbors, "WIDER", wider)
        rows, cosine = Faiss(pool, "IVF4,PQ4x4;nprobe=4", 200).search(anchors, 10, NONE)
        recall[wider] = np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), want.tolist(), strict=True)])
        assert (np.diff(cosine, axis=1) <= 0).all()
        exact = np.take_along_axis(anchors @ np.asarray(pool).T, rows, 1)
        np.testing.assert_allclose(cosine, exact, atol=1e-6)
    assert recall[4] > max(0.8, recall[1])


def test_indexes_are_made_once_and_a_killed_job_continues(pool, monkeypatch):
    """A kill after any part, or before the merge, leaves what the next job needs; the result is that of one index."""
    anchors = np.array(pool[:30])
    want = Faiss(pool, "IVF4,Flat;nprobe=2", 900).search(anchors, 9, NONE)
    folder = Faiss(pool, "IVF4,Flat;nprobe=2", 200)._folder()
    merged = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}
    assert merged.keys() == {"trained", "merged", "merged.lists"}
    for name in ("merged", "merged.lists"):
        (folder / name).unlink()
    made, real = [], Faiss._filled

    def filled(self, copy, start):
        if made[-1:] == [400]:
            made.append(-1)
            raise KeyboardInterrupt
        made.append(start)
        return real(self, copy, start)

    monkeypatch.setattr(Faiss, "_filled", filled)
    with pytest.raises(KeyboardInterrupt):
        Faiss(pool, "IVF4,Flat;nprobe=2", 200)
    (folder / "merged.lists").write_bytes(b"half")  # as a killed merge leaves it
    found = Faiss(pool, "IVF4,Flat;nprobe=2", 200).search(anchors, 9, NONE)
    assert made == [0, 200, 400, -1, 600, 800]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"} == merged
    for a, b in zip(want, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_auto_searches_as_many_cells_as_find_enough(pool, monkeypatch, capsys):
    assert isinstance(open_pool(pool, "auto"), Exact)
    monkeypatch.setattr("cse.mining.neighbors.SMALL", 100)
    monkeypatch.setattr(neighbors, "ROWS_OF_A_CELL", 8)
    monkeypatch.setattr(neighbors, "PROBES", (1, 2, 4, 8, 16))
    monkeypatch.setattr(neighbors, "MANY", 100)  # cells of two levels
    near = open_pool(pool, "auto", part=200)
    assert near.indexes[0].ntotal == 900
    ivf = near._faiss.extract_index_ivf(near.indexes[0])
    assert (ivf.nlist, ivf.quantizer.ntotal) == (128, 128)  # 900 / 8, to the next power of 2
    said = capsys.readouterr().out
    assert float(said.partition("%")[0].rpartition(" ")[2]) >= 95
    assert "IVF128_HNSW32,SQ8;nprobe=" in said
    anchors, own = np.array(pool[:200]), np.arange(200)[:, None]
    found, want = near.search(anchors, 10, own)[0], slow(pool, anchors, 10, own)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), want.tolist(), strict=True)])
    assert recall > 0.9
    again = open_pool(pool, "auto", part=200)
    assert again._parameters == near._parameters
    assert "index" not in capsys.readouterr().out  # it is tuned once


def test_an_index_that_cannot_be_built(pool):
    refuses("cannot be built for 900 vectors of 16", Faiss, pool, "PQ7", 200)
