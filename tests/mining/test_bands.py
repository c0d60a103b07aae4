"""`cse mine` with positives and easy negatives by rank, from vectors of any origin."""

import json

import numpy as np
import pytest

import cse
from cse import Encoder, cli
from cse.mining.given import Vectors
from cse.mining.miners import Bands, dealt
from tests.mining.conftest import ROWS
from tests.mining.helpers import mined


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
