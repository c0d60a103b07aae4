"""`cse mine`: its file against a slow loop, that it is trained on as it is, its cache, and what it refuses."""

import hashlib
import json

import numpy as np

from cse import Encoder, Triplets, cli
from cse.data.reading.texts import same_text_key as key
from tests.mining.helpers import cosines, slow
from tests.runs import write_texts


def mined(*arguments):
    assert cli.main(["mine", *arguments]) == 0


def table(path):
    from pyarrow.parquet import read_table

    return read_table(path).to_pylist()


def test_bands_and_margins_against_a_slow_loop(checkpoint, rows, tmp_path):
    path, pairs = rows
    out = tmp_path / "mined.parquet"
    options = ["--ranks", "2", "8", "--margin", "0", "--k", "3", "--precision", "fp32"]
    mined(checkpoint, "--data", path, "--columns", "a", "p", "--out", str(out), *options)
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
    mined(checkpoint, "--data", path, "--out", str(out), *options)
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
    mined(checkpoint, "--data", rows[0], "--columns", "a", "p", "--out", str(tmp_path / "near.parquet"))
    assert "by distance" not in capsys.readouterr().out
    mined(str(tmp_path / "far"), "--data", rows[0], "--columns", "a", "p", "--out", str(tmp_path / "far.parquet"))
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
        mined(*given, "--device", device, "--out", str(tmp_path / f"{device}.jsonl"))
    assert wanted == ["cuda", "cuda", "cpu", "cpu"]  # negatives, and easy ones
    assert str(search(np.zeros((1, 4), np.float32), "cuda:1").device) == "cuda:1"
    assert str(search(np.zeros((1, 4), np.float32), "mps").device) == "cpu"
    miners.TopK().setup(np.zeros((1, 4), np.float32))
    assert wanted[4:] == ["cpu"]
