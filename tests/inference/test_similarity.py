"""`cse similarity`: two sentences, pairs of lines, and the most similar lines."""

import math

import numpy as np
import pytest

from cse import cli
from cse.commands.similarity import top_k
from cse.encoder.model import Encoder

A, B = ["the cat sat", "a dog ran fast", ""], ["the dog sat", "a red house", "the moon"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("\n".join(A) + "\n")
    (tmp_path / "b.tsv").write_text("text\tn\n" + "".join(f"{text}\t1\n" for text in B))
    (tmp_path / "short.txt").write_text("the cat\n")
    return tmp_path


def cosine(encoder, a: str, b: str) -> float:
    """Of two texts encoded alone, summed in Python."""
    x, y = (encoder.encode([text])[0].tolist() for text in (a, b))
    return sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)


def call(capsys, *arguments) -> list[list[str]]:
    assert cli.main(["similarity", *arguments, "--precision", "fp32"]) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_two_sentences(tiny_bert, capsys):
    ((got,),) = call(capsys, tiny_bert, A[0], B[0])
    assert float(got) == pytest.approx(cosine(Encoder.load(tiny_bert), A[0], B[0]), abs=1e-4)


def test_two_files_line_by_line(tiny_bert, files, capsys):
    header, *rows = call(capsys, tiny_bert, "a.txt", "b.tsv")
    assert header == ["cosine", "a", "b"]
    assert [row[1:] for row in rows] == [list(pair) for pair in zip(A, B, strict=True)]
    encoder = Encoder.load(tiny_bert)
    want = [cosine(encoder, *pair) for pair in zip(A, B, strict=True)]
    assert [float(row[0]) for row in rows] == pytest.approx(want, abs=1e-4)


def test_most_similar_lines(tiny_bert, files, capsys):
    header, *rows = call(capsys, tiny_bert, "short.txt", "b.tsv", "--top-k", "2")
    encoder = Encoder.load(tiny_bert)
    want = sorted(((cosine(encoder, "the cat", text), text) for text in B), reverse=True)[:2]
    assert header == ["row", "rank", "cosine", "a", "b"]
    assert [row[:2] + row[3:] for row in rows] == [["1", str(i + 1), "the cat", want[i][1]] for i in range(2)]
    assert [float(row[2]) for row in rows] == pytest.approx([score for score, _ in want], abs=1e-4)


def test_top_k_by_pencil(monkeypatch):
    monkeypatch.setattr("cse.commands.similarity.ROWS", 1)  # blocks
    a = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    b = np.array([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]], dtype=np.float32)
    found = [(row, rank, round(float(c), 6), x, y) for row, rank, c, x, y in top_k(a, b, ["pq", "xyz"], 9)]
    assert found == [
        (1, 1, 1.0, "p", "y"), (1, 2, 0.8, "p", "z"), (1, 3, 0.6, "p", "x"),
        (2, 1, 0.8, "q", "x"), (2, 2, 0.6, "q", "z"), (2, 3, 0.0, "q", "y"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["the cat", "a.txt"], ["'a.txt' is a file", "'the cat' is not"]),
        (["a.txt", "short.txt"], ["a.txt has 3 rows", "short.txt has 1", "--top-k"]),
        (["a.txt", "b.tsv", "--column", "sentence"], ["--column", "'sentence'", "'text'"]),
    ],
)
def test_bad_input(tiny_bert, files, capsys, arguments, fragments):
    assert cli.main(["similarity", tiny_bert, *arguments]) == 2
    said = capsys.readouterr().err
    assert all(fragment in said for fragment in fragments), said


def test_a_model_by_distance_prints_negative_distances(tiny_bert, files, capsys):
    """As sentence-transformers does."""
    encoder, by_distance = Encoder(tiny_bert, pooler="mean"), "by-distance"
    encoder.similarity = "euclidean"
    encoder.save(by_distance)
    encoder = Encoder.load(by_distance)

    def nearness(a: str, b: str) -> float:
        return -math.dist(*(encoder.encode([text])[0].tolist() for text in (a, b)))

    ((got,),) = call(capsys, by_distance, A[0], B[0])
    assert float(got) == pytest.approx(nearness(A[0], B[0]), abs=1e-3)
    header, *rows = call(capsys, by_distance, "a.txt", "b.tsv")
    assert header == ["negative_distance", "a", "b"]
    assert [float(row[0]) for row in rows] == pytest.approx([nearness(*p) for p in zip(A, B, strict=True)], abs=1e-3)
    header, *rows = call(capsys, by_distance, "short.txt", "b.tsv", "--top-k", "2")
    want = sorted(((nearness("the cat", text), text) for text in B), reverse=True)[:2]
    assert header == ["row", "rank", "negative_distance", "a", "b"]
    assert [row[4] for row in rows] == [text for _, text in want]
    assert [float(row[2]) for row in rows] == pytest.approx([score for score, _ in want], abs=1e-3)
