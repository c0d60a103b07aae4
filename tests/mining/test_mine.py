"""`cse mine`: its file against a slow loop, that it is trained on as it is, its cache, and what it refuses."""

import functools
import hashlib
import json

import numpy as np
import pytest
from pyarrow.parquet import read_table

import cse
from cse import Encoder, Triplets, cli
from cse.data.reading.texts import same_text_key as key
from cse.mining.given import Vectors
from cse.mining.miners import Bands, dealt
from tests.mining.conftest import ROWS
from tests.mining.helpers import cosines, mined, slow
from tests.runs import write_texts


def mined_file(*arguments):
    assert cli.main(["mine", *arguments]) == 0


def table(path):
    from pyarrow.parquet import read_table

    return read_table(path).to_pylist()


def test_bands_and_margins_against_a_slow_loop(checkpoint, rows, tmp_path):
    path, pairs = rows
    out = tmp_path / "mined.parquet"
    options = ["--ranks", "2", "8", "--margin", "0", "--k", "3", "--precision", "fp32"]
    mined_file(checkpoint, "--data", path, "--columns", "a", "p", "--out", str(out), *options)
    want, dropped = slow(checkpoint, pairs, 2, 8, 0.0, 3)
    got = table(out)
    assert [(row["anchor"], row["positive"]) for row in got] == pairs
    assert [[row[f"negative_{i}"] for i in (1, 2, 3) if row[f"negative_{i}"] is not None] for row in got] == want
    assert len({len(row) for row in want}) > 1  # or nothing is unequal here
    about = json.loads((tmp_path / "mined.json").read_text())
    counts = {"anchors": 20, "pool": 19, "candidates": 20 * 7, "absolute_margin": dropped}
    counts |= {"negatives": sum(map(len, want)), "rows_without_negatives": sum(not row for row in want)}
    assert {name: about["counts"][name] for name in counts} == counts
    assert dropped > 0
    assert about["miner"]["first"] == 2
    assert about["out"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert about["data"]["columns"] == ["a", "p"]
    assert len(about["checkpoint"]["sha256"]) == 64
    assert {"cse", "torch"} <= set(about["versions"])
    again = Triplets(str(out), columns=about["out"]["columns"])
    assert [list(e.texts[2:]) for e in again] == want


def test_a_teacher_drops_and_its_word_is_counted(checkpoint, rows, tmp_path):
    """The teacher is the encoder itself, so its limit is that of the cosines."""
    path, pairs = rows
    pool = list(dict.fromkeys(p for _, p in pairs))
    near = cosines(checkpoint, [a for a, _ in pairs], pool)
    limit = float(np.median(near))
    out = tmp_path / "mined.parquet"
    teacher = ["--teacher", checkpoint, "--teacher-max", str(limit), "--teacher-positive"]
    options = ["--columns", "a", "p", "--k", "18", "--precision", "fp32", *teacher]
    mined_file(checkpoint, "--data", path, "--out", str(out), *options)
    own = cosines(checkpoint, [a for a, _ in pairs], [p for _, p in pairs]).diagonal()
    want = 0
    for row, cosine, positive in zip(table(out), near, own, strict=True):
        got = {t for n, t in row.items() if n.startswith("negative") and t is not None}
        same = {key(p) for a, p in pairs if key(a) == key(row["anchor"])} | {key(row["anchor"])}
        near_ones = [t for t, c in zip(pool, cosine, strict=True) if c <= limit and c < positive]
        assert got == {text for text in near_ones if key(text) not in same}
        want += len(got)
    counts = json.loads((tmp_path / "mined.json").read_text())["counts"]
    assert counts["negatives"] == want
    assert counts["teacher"] == counts["candidates"] - want > 0


def test_a_model_by_distance_is_mined_by_cosine_and_it_is_said(checkpoint, rows, tmp_path, capsys):
    encoder = Encoder.load(checkpoint)
    encoder.similarity = "euclidean"
    encoder.save(tmp_path / "far")
    mined_file(checkpoint, "--data", rows[0], "--columns", "a", "p", "--out", str(tmp_path / "near.parquet"))
    assert "by distance" not in capsys.readouterr().out
    mined_file(str(tmp_path / "far"), "--data", rows[0], "--columns", "a", "p", "--out", str(tmp_path / "far.parquet"))
    assert "compares texts by distance, and mining compares its vectors by cosine" in capsys.readouterr().out
    assert table(tmp_path / "far.parquet") == table(tmp_path / "near.parquet")


def test_the_search_is_on_the_device_that_is_wanted(tmp_path, monkeypatch):
    from cse.encoder.device import ACCELERATORS
    from cse.mining import miners, neighbors

    file = write_texts(tmp_path, 12)
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    wanted, search = [], neighbors.Exact
    monkeypatch.setitem(ACCELERATORS, "cuda", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(neighbors, "Exact", lambda pool, device: wanted.append(device) or search(pool))
    given = ["--vectors", str(tmp_path / "v.npy"), "--data", str(file), "--ranks", "1", "3", "--easy", "1"]
    for device in ("auto", "cpu"):
        mined_file(*given, "--device", device, "--out", str(tmp_path / f"{device}.jsonl"))
    assert wanted == ["cuda", "cuda", "cpu", "cpu"]  # negatives, and easy ones
    assert str(search(np.zeros((1, 4), np.float32), "cuda:1").device) == "cuda:1"
    assert str(search(np.zeros((1, 4), np.float32), "mps").device) == "cpu"
    miners.TopK().setup(np.zeros((1, 4), np.float32))
    assert wanted[4:] == ["cpu"]


def order(vectors):
    """The numbers of the others of each row, the nearest first, by cosine in float64."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return [[j for j in np.argsort(-unit @ row) if j != i] for i, row in enumerate(unit)]


def test_bands_against_a_slow_loop(place):
    """Positives are ranks 3 to 5, hard negatives 9 and 10, and three easy ones are beyond: five rows for five."""
    texts, near = (place / "texts.txt").read_text().splitlines(), order(np.load("graph.npy"))
    rows = mined("--positives", "3", "5", "--ranks", "9", "10", "--k", "2", "--easy", "4")
    assert [row["anchor"] for row in rows] == [text for text in texts for _ in range(3)]
    for i, own in enumerate(near):
        mine = rows[3 * i : 3 * i + 3]
        assert [row["positive"] for row in mine] == [texts[j] for j in own[2:5]]
        assert [mine[0]["negative_1"], mine[1]["negative_1"]] == [texts[j] for j in own[8:10]]  # dealt in turn
        easy = [mine[2]["negative_1"], *(row["negative_2"] for row in mine)]
        assert len({*easy}) == 4
        assert {*easy} <= {texts[j] for j in own[10:]}
    about = json.loads((place / "m.json").read_text())
    assert about["bands"] == {"positives": [3, 5], "easy": 4, "seed": 42}
    counts = {"positives": 3 * ROWS, "negatives": 2 * ROWS, "easy_negatives": 4 * ROWS}
    assert {name: about["counts"][name] for name in counts} == counts
    assert about["checkpoint"]["vectors"] == "graph.npy"
    assert about["miner"]["first"] == 9


def test_vectors_are_those_of_the_rows_of_the_file(place):
    """Blank and repeated lines have vectors too, and a pool has the vectors after those of the data."""
    (place / "texts.txt").write_text("b\n\na\nb\n")
    (place / "pool.txt").write_text("c\nd\n")
    np.save("graph.npy", np.array([[1.0, 0], [9, 9], [0, 1], [0, -5], [1, 1], [1, 0.1]]))
    rows = mined("--pool", "pool.txt", "--ranks", "1", "1")
    assert [(row["anchor"], row["negative_1"]) for row in rows] == [("b", "d"), ("a", "c")]


def test_python_gives_the_rows_of_the_command(place):
    want = mined("--positives", "3", "5", "--ranks", "9", "10", "--k", "2", "--easy", "4")
    texts = (place / "texts.txt").read_text().splitlines()
    bands = Bands(positives=(3, 5), easy=4)
    found = cse.mine(Vectors("graph.npy"), texts, miner=cse.TopK(first=9, last=10), k=2, bands=bands)
    assert [list(e.texts) for e in found] == [[text for text in row.values() if text is not None] for row in want]


@pytest.mark.parametrize(
    ("negatives", "rows", "want"),
    [
        ("abcde", 5, ["a", "b", "c", "d", "e"]),  # SciNCL: 2 hard and 3 easy negatives of 5 positives
        ("abcde", 2, ["ace", "bd"]),
        ("ab", 3, ["a", "b", "a"]),
        ("", 2, ["", ""]),
        ("abc", 1, ["abc"]),
    ],
)
def test_negatives_are_dealt_in_turn(negatives, rows, want):
    assert ["".join(dealt(tuple(negatives), i, rows)) for i in range(rows)] == want


def test_an_encoder_gives_the_same_as_its_vectors(place, checkpoint):
    np.save("own.npy", Encoder.load(checkpoint).encode((place / "texts.txt").read_text().splitlines()))
    options = ["--positives", "1", "2", "--ranks", "4", "5", "--easy", "1"]
    want = mined(*options, vectors="own.npy")
    line = ["mine", checkpoint, "--data", "texts.txt", "--out", "e.jsonl", "--precision", "fp32", *options]
    assert cli.main(line) == 0
    assert [json.loads(line) for line in (place / "e.jsonl").read_text().splitlines()] == want


@pytest.mark.parametrize(("suffix", "margin"), [("parquet", 0.0), ("jsonl", 0.05)])
def test_candidates_above_the_positive_minus_the_margin_are_dropped(
    checkpoint, rows, save_reranker, tmp_path, margin, suffix
):
    from sentence_transformers import CrossEncoder

    path, pairs = rows
    judge, out = save_reranker(), tmp_path / f"mined.{suffix}"
    options = ["--reranker", judge, "--reranker-margin", str(margin), "--scores", "--k", "3", "--precision", "fp32"]
    assert cli.main(["mine", checkpoint, "--data", path, "--columns", "a", "p", "--out", str(out), *options]) == 0
    model = CrossEncoder(judge)

    @functools.cache
    def score(a, b):
        return float(model.predict([(a, b)], show_progress_bar=False)[0])

    pool = list(dict.fromkeys(p for _, p in pairs))
    near = cosines(checkpoint, [a for a, _ in pairs], pool)
    got = read_table(out).to_pylist() if suffix == "parquet" else list(map(json.loads, out.read_text().splitlines()))
    dropped = 0
    for (anchor, positive), cosine, row in zip(pairs, near, got, strict=True):
        same = {key(p) for a, p in pairs if key(a) == key(anchor)} | {key(anchor)}
        want, own = [], score(anchor, positive)
        for i in np.argsort(-cosine):
            if key(pool[i]) in same or len(want) == 3:
                continue
            if score(anchor, pool[i]) <= own - margin:
                want.append(pool[i])
            else:
                dropped += 1
        assert [row[f"negative_{i}"] for i in (1, 2, 3) if row.get(f"negative_{i}") is not None] == want
        assert row["positive_score"] == pytest.approx(own, abs=1e-6)
        scores = [row[f"negative_{i}_score"] for i in range(1, len(want) + 1)]
        assert scores == pytest.approx([score(anchor, text) for text in want], abs=1e-6)
        assert row.get(f"negative_{len(want) + 1}_score") is None
    about = json.loads((tmp_path / "mined.json").read_text())
    assert about["counts"]["reranker"] >= dropped > 0
    assert about["reranker"]["margin"] == margin
    assert len(about["reranker"]["sha256"]) == 64
    assert len(Triplets(str(out))) == len(pairs)  # its columns are recognized


def mine_in_parts(rank, arguments, cache):
    """Mine with parts so small that each process has several; the number of texts that this process encoded."""
    import torch

    from cse.encoder.model import Encoder

    torch.set_num_threads(1)
    real, encoded = Encoder.encode_read, []

    def encode(self, read, **options):
        encoded.append(read.texts)
        return real(self, read, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSE_CACHE", cache)
        patch.setattr("cse.encoder.job.CHUNK", 5)
        patch.setattr("cse.mining.command.CHUNK", 3)
        patch.setattr(Encoder, "encode_read", encode)
        return cli.main(["mine", *arguments]), sum(encoded)


def test_two_processes_write_the_file_of_one(checkpoint, rows, save_reranker, tmp_path, two_processes):
    import torch

    judge = ["--reranker", save_reranker(), "--scores", "--teacher", checkpoint, "--teacher-positive"]
    options = [checkpoint, "--data", rows[0], "--columns", "a", "p", *judge, "--k", "2", "--precision", "fp32"]
    found, before = {}, torch.get_num_threads()
    for number in (1, 2):
        out, cache = tmp_path / str(number) / "mined.jsonl", str(tmp_path / f"cache{number}")
        out.parent.mkdir()
        arguments = [*options, "--out", str(out)]
        call = two_processes if number == 2 else lambda work, *given: [work(0, *given)]
        try:
            done = call(mine_in_parts, arguments, cache)
        finally:
            torch.set_num_threads(before)
        files = [*out.parent.glob("mined.*"), *(tmp_path / f"cache{number}" / "vectors").glob("*.npy")]
        found[number] = {path.name: path.read_bytes() for path in files}
        assert [code for code, _ in done] == [0] * number
        assert sum(count for _, count in done) == len({text for pair in rows[1] for text in pair})
        assert max(count for _, count in done) <= {1: 39, 2: 20}[number]
    assert found[1] == found[2]
    assert len(found[1]) == 3


def test_a_process_that_fails_stops_the_mining_of_all(checkpoint, rows, tmp_path, two_processes):
    arguments = [checkpoint, "--data", rows[0], "--columns", "a", "p", "--out", str(tmp_path / "mined.jsonl")]
    assert two_processes(mine_where_one_fails, arguments) == [2, 2]
    assert not list(tmp_path.glob("*mined*"))


def mine_where_one_fails(rank, arguments):
    from cse.errors import UserError
    from cse.mining import command

    def mine(*_):
        if rank:
            raise UserError("the disk of this process is full\nfix: free some space")
        return real(*_)

    real = command.search_block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cse.mining.command.CHUNK", 3)
        patch.setattr(command, "search_block", mine)
        return cli.main(["mine", *arguments])
