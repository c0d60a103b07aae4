"""`cse similarity`: two sentences, pairs of lines, and the most similar lines, by cosine or by distance."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from cse import Encoder, cli
from cse.commands.similarity import top_k

A, B = ["the cat sat", "a dog ran fast", ""], ["the dog sat", "a red house", "the moon"]
SHORT = "the cat"


def cosine(x, y) -> float:
    return sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)


def negative_distance(x, y) -> float:
    """What sentence-transformers gives, too."""
    return -math.dist(x, y)


@pytest.fixture(params=[("cosine", cosine, 1e-4), ("euclidean", negative_distance, 1e-3)], ids=lambda each: each[0])
def model(request, tiny_bert, tmp_path, monkeypatch):
    """Beside some files, a model that compares in this way: the name, and the number of two texts encoded alone."""
    similarity, function, tolerance = request.param
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("\n".join(A) + "\n")
    (tmp_path / "b.tsv").write_text("text\tn\n" + "".join(f"{text}\t1\n" for text in B))
    (tmp_path / "short.txt").write_text(f"{SHORT}\n")
    encoder = Encoder(tiny_bert, pooler="mean").eval()
    encoder.similarity = similarity
    encoder.save("model")

    def of(a: str, b: str) -> float:
        return function(*(encoder.encode([text])[0].tolist() for text in (a, b)))

    return SimpleNamespace(name=function.__name__, of=of, near=lambda want: pytest.approx(want, abs=tolerance))


def call(capsys, *arguments) -> list[list[str]]:
    assert cli.main(["similarity", "model", *arguments, "--precision", "fp32"]) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_two_sentences(model, capsys):
    ((got,),) = call(capsys, A[0], B[0])
    assert float(got) == model.near(model.of(A[0], B[0]))


def test_two_files_line_by_line(model, capsys):
    header, *rows = call(capsys, "a.txt", "b.tsv")
    assert header == [model.name, "a", "b"]
    assert [row[1:] for row in rows] == [list(pair) for pair in zip(A, B, strict=True)]
    assert [float(row[0]) for row in rows] == model.near([model.of(*pair) for pair in zip(A, B, strict=True)])


def test_most_similar_lines(model, capsys):
    header, *rows = call(capsys, "short.txt", "b.tsv", "--top-k", "2")
    want = sorted(((model.of(SHORT, text), text) for text in B), reverse=True)[:2]
    assert header == ["row", "rank", model.name, "a", "b"]
    assert [row[:2] + row[3:] for row in rows] == [["1", str(i + 1), SHORT, want[i][1]] for i in range(2)]
    assert [float(row[2]) for row in rows] == model.near([score for score, _ in want])


def test_top_k_by_pencil(monkeypatch):
    monkeypatch.setattr("cse.commands.similarity.ROWS", 1)  # blocks
    a = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    b = np.array([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]], dtype=np.float32)
    found = [(row, rank, round(float(c), 6), x, y) for row, rank, c, x, y in top_k(a, b, ["pq", "xyz"], 9)]
    assert found == [
        (1, 1, 1.0, "p", "y"), (1, 2, 0.8, "p", "z"), (1, 3, 0.6, "p", "x"),
        (2, 1, 0.8, "q", "x"), (2, 2, 0.6, "q", "z"), (2, 3, 0.0, "q", "y"),
    ]  # fmt: skip
