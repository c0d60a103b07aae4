"""`cse similarity`: two sentences, pairs of lines, and the most similar lines, by cosine or by distance."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import cse
from cse import Encoder, cli, diff
from cse.commands.similarity import top_k
from cse.inference.diff import align, delete
from tests.cases import cases, load, settings
from tests.refusals import refuses

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


PAIR = ("the cat sat on a mat", "the dog sat on the red mat")


@pytest.fixture(scope="module")
def mini():
    return Encoder("asset:mini", pooler="mean").eval()


@pytest.mark.parametrize("name", cases("rsd", has="words"))
def test_every_case_of_states(name):
    about, data = load("rsd", name)
    states = [data[f"states_{side}"] for side in "ab"]
    words = [[[i for i in word if i >= 0] for word in data[f"words_{side}"].tolist()] for side in "ab"]
    for got, side in zip(align(*states, *words), "ab", strict=True):
        assert np.allclose(got, data[f"align_{side}_words_only"], atol=1e-5)
    if about["max_n"] == 1:  # the authors' program can leave out more tokens at a time
        for got, side in zip(delete(*states, *words), "ab", strict=True):
            assert np.allclose(got, data[f"del_{side}"], atol=1e-5)


@pytest.mark.parametrize("name", cases("rsd", has="pairs"))
@pytest.mark.parametrize("method", ["align", "delete", "mask"])
def test_every_case_of_texts(mini, name, method):
    pairs = settings("rsd")[name]["pairs"]
    found = diff([pair["a"] for pair in pairs], [pair["b"] for pair in pairs], model=mini, method=method)
    for pair, got in zip(pairs, found, strict=True):
        for words, side in ((got.words_a, "a"), (got.words_b, "b")):
            assert [word.text for word in words] == pair[side].split()
            want = pair[f"{method.removesuffix('ete')}_{side}"]
            assert np.allclose([word.score for word in words], want, atol=2e-5), (pair["a"], side)


def test_words_keep_their_places_and_a_text_without_words_differs_wholly(mini):
    (found,) = diff("  Chinese shares,  higher.", "", model=mini)
    places = [(w.text, w.start, w.end) for w in found.words_a]
    assert places == [("Chinese", 2, 9), ("shares,", 10, 17), ("higher.", 19, 26)]
    assert [w.score for w in found.words_a] == [1, 1, 1]
    assert found.words_b == ()


def test_from_python(tiny_bert):
    pairs = cse.diff(*PAIR, model=tiny_bert)
    assert [len(pairs), len(pairs[0].words_a), len(pairs[0].words_b)] == [1, 6, 7]
    for arguments, message in (
        ({"a": ["x"], "b": ["y", "z"]}, "a has 1 texts and b has 2"),
        ({"a": "x", "b": "y", "method": "guess"}, "method is 'guess'"),
        ({"a": "the cat " * 40, "b": "y"}, "has more than the 40 tokens"),
        ({"a": "the cat " * 12, "b": "the dog " * 12, "method": "mask"}, "together more than the 40 tokens"),
    ):
        refuses(message, cse.diff, **arguments, model=tiny_bert)


def test_the_command_writes_lines_json_and_a_page(tiny_bert, tmp_path, capsys):
    command = ["diff", *PAIR, "--model", tiny_bert]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["pair", "text", "score", "word"]
    assert [line.split("\t")[3] for line in lines[1:]] == " ".join(PAIR).split()
    assert all("\x1b" not in line for line in lines)
    assert cli.main([*command, "--json", "--method", "delete"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["a"], found["words_b"][1]["text"]) == ("delete", PAIR[0], "dog")
    page = tmp_path / "page.html"
    assert cli.main(["diff", "1 < 2 & 3", "the cat", "--model", tiny_bert, "--html", str(page)]) == 0
    assert "&lt;" in page.read_text()
    shown = re.sub(r"<[^>]+>", "", page.read_text().split("<div>")[1])
    assert " ".join(shown.split()) == "1 &lt; 2 &amp; 3 the cat"


def test_files_line_by_line_and_colors(tiny_bert, tmp_path, capsys, monkeypatch):
    for name, texts in (("a", PAIR), ("b", PAIR[::-1])):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    command = ["diff", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--model", tiny_bert]
    assert cli.main(command) == 0
    plain = capsys.readouterr().out
    assert {line.split("\t")[0] for line in plain.splitlines()[1:]} == {"1", "2"}
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli.main(command) == 0
    colored = capsys.readouterr().out
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored).splitlines() == [
        f"{side}  {text}" for pair in (PAIR, PAIR[::-1]) for side, text in zip("ab", pair, strict=True)
    ]
