"""`cse data cluster`: clusters that are apart, resumption, and batches of one cluster."""

import json

import numpy as np
import pytest

import cse
from cse import ClusterBatches, Encoder
from cse.cli import main
from cse.encoder.vectors import unit
from cse.inference import cluster as clustering
from cse.inference.cluster import k_means
from tests.refusals import refuses
from tests.runs import write_texts, write_triplets


def test_clusters_that_are_apart_are_found():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    x = unit((np.eye(5)[truth] + 0.05 * rng.normal(size=(300, 5))).astype(np.float32))
    found = k_means(x, 3, seed=1)
    assert len({(a, b) for a, b in zip(truth.tolist(), found.tolist(), strict=True)}) == 3  # one cluster for each
    assert (k_means(x, 3, seed=1) == found).all()


def test_the_command_and_its_batches(tiny_bert, tmp_path, capsys):
    out = tmp_path / "clustered.parquet"
    texts = str(write_texts(tmp_path))
    command = ["data", "cluster", texts, "--model", tiny_bert, "--clusters", "3", "--out", str(out), "--device", "cpu"]
    assert main([*command, "--precision", "fp32"]) == 0
    assert "largest" in capsys.readouterr().out
    rows = cse.Texts(str(out), label_column="label")
    vectors = unit(Encoder.load(tiny_bert).encode([row.texts[0] for row in rows]))
    want = k_means(vectors, 3, seed=42)
    assert [rows.label_names[row.label] for row in rows] == [str(label) for label in want]
    counts = json.loads(out.with_suffix(".json").read_text())["counts"]
    assert counts == {"written": 48, "smallest": np.bincount(want).min(), "largest": np.bincount(want).max()}
    for batch in ClusterBatches().batches(rows, 4, seed=0, epoch=0):
        assert len({rows[i].label for i in batch}) == 1


def test_from_python_a_killed_call_resumes(tiny_bert, tmp_path, monkeypatch):
    data, out = write_triplets(tmp_path), tmp_path / "c.jsonl"
    options = {"clusters": 2, "device": "cpu", "precision": "fp32"}
    cse.cluster(tiny_bert, data, out, **options)
    whole = out.read_bytes()
    out.unlink()
    monkeypatch.setattr(clustering, "BLOCK", 8)
    encode, calls = Encoder.encode_read, []

    def dies(self, read, **kwargs):
        calls.append(read.texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, read, **kwargs)

    monkeypatch.setattr(Encoder, "encode_read", dies)
    with pytest.raises(KeyboardInterrupt):
        cse.cluster(tiny_bert, data, out, **options)
    assert not out.exists()
    rows = cse.cluster(tiny_bert, data, out, **options)
    assert calls == [8, 8, 8, 8]  # the first window is not encoded again
    assert sorted(rows.label_names) == ["0", "1"]
    assert out.read_bytes() == whole


def test_rows_that_cannot_have_a_label(tiny_bert, tmp_path):
    scored = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i / 5} for i in range(3)]
    refuses("scored pairs, which have no label", cse.cluster, tiny_bert, scored, tmp_path / "c.jsonl", clusters=2)
