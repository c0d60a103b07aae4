"""Quantized vectors: pencil, limits, a slow search, and the way through eval, encode and publish."""

import json

import numpy as np
import pytest
from pyarrow.parquet import read_table

from cse import Calibration, Encoder, dequantize, nearest, open_vectors, quantize
from cse.cli import main
from cse.encoder.heads import Normalize
from cse.inference.quantize import FILE, rendered
from cse.publish.card import write_card
from cse.publish.card.usage import quantize_code
from cse.publish.hub import published
from cse.publish.stage import stage
from tests.refusals import refuses
from tests.runs import write_texts

RNG = np.random.default_rng(0)
KINDS = ("int8", "uint8", "binary", "ubinary")


def vectors(rows=200, size=20):
    return RNG.normal(size=(rows, size)).astype(np.float32)


def test_codes_by_pencil():
    ranges = Calibration(np.array([0, -1], np.float32), np.array([255, 1.55], np.float32), 2, {})  # steps 1 and 0.01
    x = np.array([[0.0, -1.0], [3.7, -0.985], [999.0, -9.0]], np.float32)
    assert quantize(x, "uint8", ranges).tolist() == [[0, 0], [3, 1], [255, 0]]
    assert quantize(x, "int8", ranges).tolist() == [[-128, -128], [-125, -127], [127, -128]]
    constant = np.ones((3, 2), np.float32)
    assert (rendered(constant, "int8", Calibration.of(constant)) == 1).all()
    for kind in ("int8", "uint8"):
        middle = dequantize(quantize(x, kind, ranges), kind, ranges)
        assert np.abs(middle - [[0.5, -0.995], [3.5, -0.985], [255.5, -0.995]]).max() < 1e-4


def test_bits_by_pencil():
    x = np.array([[1, -1, 1, 1, -1, -1, -1, 1, 0.5, 0]], np.float32)  # 10110001 10
    assert quantize(x, "ubinary").tolist() == [[0b10110001, 0b10000000]]
    assert quantize(x, "binary").tolist() == [[0b10110001 - 128, 0b10000000 - 128]]
    for kind in ("binary", "ubinary"):
        assert rendered(x, kind).tolist() == [[1, -1, 1, 1, -1, -1, -1, 1, 1, -1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_against_a_loop(kind):
    x, queries = vectors(), vectors(5)
    ranges = Calibration.of(x)
    codes = quantize(x, kind, ranges)
    exact = nearest(queries, codes, 10, kind=kind, calibration=ranges, vectors=x, multiplier=20)  # scores every row
    assert (exact.rows == np.argsort(-(queries @ x.T), axis=1)[:, :10]).all()
    for given in (None, x):
        found = nearest(queries, codes, 3, kind=kind, calibration=ranges, vectors=given, multiplier=5)
        for query, rows, scores in zip(queries, found.rows, found.scores, strict=True):
            seen = rendered(x, kind, ranges)
            signs = np.sign(query) if "binary" in kind else query
            first = sorted(range(len(x)), key=lambda i: (-float(np.float32(seen[i] @ signs)), i))[:15]
            last = {i: float((seen if given is None else x)[i] @ query) for i in first}
            assert rows.tolist() == sorted(first, key=lambda i: (-last[i], i))[:3]
            assert scores.tolist() == pytest.approx([last[i] for i in rows], rel=1e-4, abs=1e-4)


def test_a_file_of_ranges(tmp_path):
    ranges = Calibration.of(vectors(), {"model": "a", "normalize": True})
    ranges.write(tmp_path / "q.json")
    read = Calibration.read(tmp_path / "q.json")
    assert (read.ranges == ranges.ranges).all()
    assert (read.texts, read.made_from) == (200, {"model": "a", "normalize": True})
    read.require(tmp_path / "q.json", {"model": "a", "normalize": True})
    refuses("normalize was True", read.require, tmp_path / "q.json", {"model": "a", "normalize": False})
    refuses("the model is another one", read.require, tmp_path / "q.json", {"model": "b"})
    for damaged in ("{", "{}", '{"low": [1], "high": [0], "texts": 1, "made_from": {}}'):
        (tmp_path / "q.json").write_text(damaged)
        refuses("cannot be read", Calibration.read, tmp_path / "q.json")


def test_errors():
    x = vectors()
    ranges = Calibration.of(x)
    for call, message in (
        (lambda: quantize(x, "int8"), "need a calibration"),
        (lambda: quantize(x[:, :3], "int8", ranges), "has 20 dimensions, and the vectors have 3"),
        (lambda: Calibration.of(x[:1]), "measured on 1 text"),
        (lambda: nearest(x, quantize(x, "binary"), 0, kind="binary"), "nearest.k is 0"),
        (lambda: nearest(x, quantize(x, "binary"), 1, kind="ubinary"), "of int8, and vectors of 20 dimensions have 3"),
    ):
        refuses(message, call)


@pytest.fixture
def place(tiny_bert, tmp_path, monkeypatch):
    """A folder with a checkpoint of unit vectors, and 48 texts."""
    monkeypatch.chdir(tmp_path)
    encoder = Encoder(tiny_bert, pooler="mean")
    encoder.append(Normalize())
    encoder.save("ck")
    write_texts(tmp_path)
    return tmp_path


def encoded(*options, out="v.npy"):
    assert main(["encode", "ck", "texts.txt", "--out", out, "--precision", "fp32", "--device", "cpu", *options]) == 0
    return np.load(out)


def test_the_command_measures_ranges_once_and_keeps_them_with_the_model(place, capsys, monkeypatch):
    whole = encoded()
    codes = encoded("--quantize", "int8", "--save-every", "10", out="q.npy")
    assert "measured on 48 texts: ck/quantization.json" in capsys.readouterr().out
    ranges = Calibration.read(place / "ck" / FILE)
    assert (ranges.low == whole.min(0)).all()
    assert (ranges.high == whole.max(0)).all()
    assert codes.dtype == np.int8
    assert (codes == quantize(whole, "int8", ranges)).all()
    assert main(["eval", "ck", "--tasks", "sts-mini-dev", "--quantize", "int8,binary", "--out", "r.json"]) == 0
    found = json.loads((place / "r.json").read_text())
    assert [(e["kind"], e["bytes"]) for e in found["quantized"]] == [("float32", 64), ("int8", 16), ("binary", 2)]
    assert found["quantized"][0]["tasks"]["sts-mini-dev"] == pytest.approx(found["tasks"]["sts-mini-dev"]["value"])
    capsys.readouterr()
    (place / "texts.txt").write_text("the cat\nthe dog\n")  # new texts, and the old ranges
    again = encoded("--quantize", "uint8", out="again.npy")
    assert "those of 48 texts" in capsys.readouterr().out
    assert (again == quantize(encoded(out="two.npy"), "uint8", ranges)).all()
    stage(place / "ck", place / "staged")
    assert (place / "staged" / FILE).read_bytes() == (place / "ck" / FILE).read_bytes()
    write_card(place / "staged", "me/x", run=None, results=place / "r.json", license="mit", previous=None)
    card = (place / "staged" / "README.md").read_text()
    for entry in found["quantized"]:
        assert f"| {entry['kind']} | {entry['bytes']} | {entry['tasks']['sts-mini-dev']:.2f} |" in card
    assert "measured on 48 texts" in card
    assert FILE in published(place / "staged")[0]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file: str(place / "staged" / file))
    shown = {"vectors": whole}
    exec(quantize_code("me/x"), shown)
    assert (shown["codes"] == codes).all()
    stage(place / "ck", place / "narrow", dimensions=8)
    assert not (place / "narrow" / FILE).exists()  # they are those of vectors that are scaled otherwise


def test_bits_as_parquet_and_in_shards(place):
    whole = encoded()
    encoded_to = ["encode", "ck", "texts.txt", "--precision", "fp32", "--device", "cpu", "--quantize", "ubinary"]
    assert main([*encoded_to, "--out", "v.parquet"]) == 0
    table = read_table("v.parquet")
    assert (np.array(table["vector"].to_pylist(), dtype=np.uint8) == quantize(whole, "ubinary")).all()
    assert main([*encoded_to, "--out", "shards", "--shards", "2", "--save-every", "24"]) == 0
    assert (open_vectors("shards")[:] == quantize(whole, "ubinary")).all()
    assert not (place / "ck" / FILE).exists()


def test_ranges_of_other_vectors_are_refused(place, capsys):
    encoded("--quantize", "int8")
    command = ["encode", "ck", "texts.txt", "--quantize", "int8", "--precision", "fp32", "--device", "cpu", "--out"]
    for options, message in (
        (["w.npy", "--normalize"], "normalize was False"),
        (["w.npy", "--dimensions", "4"], "has 16 dimensions, and the vectors have 4"),
        (["shards", "--shards", "2", "--save-every", "24", "--calibration", "new.json"], "before shards are written"),
    ):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "w.npy", "--normalize", "--calibration", "own.json"]) == 0
    assert Calibration.read(place / "own.json").made_from["normalize"] is True
