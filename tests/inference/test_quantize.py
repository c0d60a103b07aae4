"""Quantized vectors: pencil, limits, a slow search, and the way through eval, encode and publish."""

from __future__ import annotations

import numpy as np
import pytest

from cse.errors import UserError
from cse.inference.nearest import nearest
from cse.inference.quantize import Calibration, dequantize, quantize, rendered

RNG = np.random.default_rng(0)
KINDS = ("int8", "uint8", "binary", "ubinary")


def vectors(rows=200, size=20):
    return RNG.normal(size=(rows, size)).astype(np.float32)


def test_codes_by_pencil():
    ranges = Calibration(np.array([0, -1], np.float32), np.array([255, 1.55], np.float32), 2, {})  # steps 1 and 0.01
    x = np.array([[0.0, -1.0], [3.7, -0.985], [999.0, -9.0]], np.float32)
    assert quantize(x, "uint8", ranges).tolist() == [[0, 0], [3, 1], [255, 0]]
    assert quantize(x, "int8", ranges).tolist() == [[-128, -128], [-125, -127], [127, -128]]
    for kind in ("int8", "uint8"):
        middle = dequantize(quantize(x, kind, ranges), kind, ranges)
        assert np.abs(middle - [[0.5, -0.995], [3.5, -0.985], [255.5, -0.995]]).max() < 1e-4


def test_bits_by_pencil():
    x = np.array([[1, -1, 1, 1, -1, -1, -1, 1, 0.5, 0]], np.float32)  # 10110001 10
    assert quantize(x, "ubinary").tolist() == [[0b10110001, 0b10000000]]
    assert quantize(x, "binary").tolist() == [[0b10110001 - 128, 0b10000000 - 128]]
    for kind in ("binary", "ubinary"):
        assert rendered(x, kind).tolist() == [[1, -1, 1, 1, -1, -1, -1, 1, 1, -1]]


def test_eight_bits_are_within_a_step():
    x = vectors()
    ranges = Calibration.of(x)
    step = (ranges.high - ranges.low) / 255
    for kind in ("int8", "uint8"):
        assert (np.abs(rendered(x, kind, ranges) - x) <= step * (0.5 + 1e-3)).all()
    constant = np.ones((3, 2), np.float32)
    assert (rendered(constant, "int8", Calibration.of(constant)) == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_against_a_loop(kind):
    x, queries = vectors(), vectors(5)
    ranges = Calibration.of(x)
    codes = quantize(x, kind, ranges)
    for given in (None, x):
        found = nearest(queries, codes, 3, kind=kind, calibration=ranges, vectors=given, multiplier=5)
        for query, rows, scores in zip(queries, found.rows, found.scores, strict=True):
            seen = rendered(x, kind, ranges)
            signs = np.sign(query) if "binary" in kind else query
            first = sorted(range(len(x)), key=lambda i: (-float(np.float32(seen[i] @ signs)), i))[:15]
            last = {i: float((seen if given is None else x)[i] @ query) for i in first}
            assert rows.tolist() == sorted(first, key=lambda i: (-last[i], i))[:3]
            assert scores.tolist() == pytest.approx([last[i] for i in rows], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_with_every_row_scored_again_the_search_is_exact(kind):
    x, queries = vectors(), vectors(4)
    ranges = Calibration.of(x)
    found = nearest(queries, quantize(x, kind, ranges), 10, kind=kind, calibration=ranges, vectors=x, multiplier=20)
    assert (found.rows == np.argsort(-(queries @ x.T), axis=1)[:, :10]).all()


def test_a_file_of_ranges(tmp_path):
    ranges = Calibration.of(vectors(), {"model": "a", "normalize": True})
    ranges.write(tmp_path / "q.json")
    read = Calibration.read(tmp_path / "q.json")
    assert (read.ranges == ranges.ranges).all()
    assert (read.texts, read.made_from) == (200, {"model": "a", "normalize": True})
    read.require(tmp_path / "q.json", {"model": "a", "normalize": True})
    with pytest.raises(UserError, match="normalize was True"):
        read.require(tmp_path / "q.json", {"model": "a", "normalize": False})
    with pytest.raises(UserError, match="the model is another one"):
        read.require(tmp_path / "q.json", {"model": "b"})
    for damaged in ("{", "{}", '{"low": [1], "high": [0], "texts": 1, "made_from": {}}'):
        (tmp_path / "q.json").write_text(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            Calibration.read(tmp_path / "q.json")


def test_errors():
    x = vectors()
    ranges = Calibration.of(x)
    for call, message in (
        (lambda: quantize(x, "int4"), "--quantize is 'int4'"),
        (lambda: quantize(x, "int8"), "need a calibration"),
        (lambda: quantize(x[:, :3], "int8", ranges), "has 20 dimensions, and the vectors have 3"),
        (lambda: Calibration.of(x[:1]), "measured on 1 text"),
        (lambda: nearest(x, quantize(x, "binary"), 0, kind="binary"), "nearest.k is 0"),
        (lambda: nearest(x, quantize(x, "binary"), 1, kind="ubinary"), "of int8, and vectors of 20 dimensions have 3"),
    ):
        with pytest.raises(UserError, match=message):
            call()
