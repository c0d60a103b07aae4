"""`cse diff`: against the authors' program (oracles), limits, and what a terminal, a pipe, JSON and HTML get."""

import json
import re

import numpy as np
import pytest

import cse
from cse import Encoder, cli, diff
from cse.inference.diff import align, delete
from tests.cases import cases, load, settings
from tests.refusals import refuses

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
