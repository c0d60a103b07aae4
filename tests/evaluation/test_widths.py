"""Scores by width: as slicing gives them, in results, table, report and card."""

import json
import random
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.stats import spearmanr

import cse
from cse import Encoder, Evaluator, cli, evaluate
from cse.encoder.heads import Normalize
from cse.evaluation.encoding import Reduced
from cse.evaluation.reports.reporting import report
from cse.evaluation.reports.table import reduced, series
from cse.evaluation.scoring import first_dimensions
from cse.publish.card import PLOT, write_card
from cse.publish.stage import stage
from tests.conftest import WORDS
from tests.refusals import refuses

TASK = "STSB-dev"
DRAWN = random.Random(1)
TEXTS = [" ".join(DRAWN.sample(WORDS, 3 + i % 5)) for i in range(80)]
PAIRS = [(i / 8, TEXTS[i], TEXTS[-1 - i]) for i in range(40)]  # gold, first, second


class Size(Evaluator):
    """The sizes of the vectors that it gets, and how often it asked."""

    primary = "size"

    def __call__(self, encoder):
        return {"size": float(encoder.encode(["a cat", "a dog"]).shape[1])}


@pytest.fixture(scope="module")
def scored(tiny_bert, tmp_path_factory):
    """A checkpoint that scales its vectors, and its results.json with scores by width."""
    folder = tmp_path_factory.mktemp("scored")
    encoder = Encoder(tiny_bert, pooler="mean")
    encoder.append(Normalize())
    encoder.save(folder / "best")
    (folder / "best" / "LICENSE").write_text("Apache License, Version 2.0\n")
    (folder / "sts" / "STSB").mkdir(parents=True)
    lines = "".join(f"{gold}\t{first}\t{second}\n" for gold, first, second in PAIRS)
    (folder / "sts" / "STSB" / "dev.tsv").write_text(f"score\tsentence1\tsentence2\n{lines}")
    command = [*command_of(folder, "4,8"), "--precision", "fp32", "--out", str(folder / "results.json")]
    assert cli.main(command) == 0
    return folder


def command_of(folder, dimensions):
    data = ["--tasks", TASK, "--data", str(folder / "sts"), "--unchecked"]
    return ["eval", str(folder / "best"), *data, "--dimensions", dimensions]


def by_hand(checkpoint, width):
    """Spearman x 100 of the cosines of sliced vectors."""
    gold, first, second = zip(*PAIRS, strict=True)
    encoder = Encoder.load(str(checkpoint))
    a, b = (encoder.encode(texts).astype(np.float64)[:, :width] for texts in (first, second))
    cosine = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return 100 * spearmanr(cosine, gold).statistic


def test_results_hold_the_scores_of_slices(scored):
    results = json.loads((scored / "results.json").read_text())
    assert [entry["width"] for entry in results["dimensions"]] == [16, 8, 4]
    for entry in results["dimensions"]:
        assert entry["tasks"] == {TASK: pytest.approx(by_hand(scored / "best", entry["width"]), abs=1e-3)}
        assert entry["average"] == entry["tasks"][TASK]
    assert results["dimensions"][0]["tasks"][TASK] == pytest.approx(results["tasks"][TASK]["value"], abs=1e-6)


def test_python_and_evaluators(scored):
    given = {"data": str(scored / "sts"), "check": False, "precision": "fp32"}
    found = cse.evaluate(scored / "best", [TASK, Size()], dimensions=[3], **given)
    assert {width: scores["Size"] for width, scores in found.by_width.items()} == {16: 16.0, 3: 3.0}
    assert found.by_width[3][TASK] == pytest.approx(by_hand(scored / "best", 3), abs=1e-3)
    assert found.results["dimensions"][0]["average"] is None  # different metrics have no average
    assert cse.evaluate(scored / "best", tasks=[Size()]).by_width == {}


@pytest.mark.parametrize("unit", [False, True])
def test_each_text_is_encoded_once_for_all_widths(hash_encoder, unit):
    """And vectors of unit length are scaled again."""
    encoder = hash_encoder(dim=3)
    whole = encoder.encode(["a", "b"])
    scale = np.linalg.norm(whole, axis=1, keepdims=True) if unit else np.ones((2, 1))
    encode, encoder.calls = encoder.encode, []
    encoder.encode = lambda texts, *, batch_size=64: encode(texts) / scale[: len(texts)]
    narrow = Reduced(encoder)
    for width in (2, 1):
        narrow.change = first_dimensions(width)
        want = whole[:, :width] / (np.linalg.norm(whole[:, :width], axis=1, keepdims=True) if unit else 1)
        np.testing.assert_allclose(narrow.encode(["a", "b", "a"]), want[[0, 1, 0]], rtol=1e-6)
    assert encoder.calls == [["a", "b"]]


@pytest.mark.parametrize("given", ["17", "8,8"])
def test_bad_widths_are_one_error(scored, given, capsys):
    assert cli.main(command_of(scored, given)) == 2
    error = capsys.readouterr().err
    assert error.startswith("cse: --dimensions")
    assert "\nfix: give" in error
    refuses(r"--dimensions has 2.5", evaluate, scored / "best", TASK, dimensions=[2.5])


def test_the_report_shows_them(scored, tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("results.json", "results.npz"):
        (tmp_path / "runs" / name).write_bytes((scored / name).read_bytes())
    report(tmp_path / "runs", tmp_path)
    text, html = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    value = json.loads((scored / "results.json").read_text())["dimensions"][2]["tasks"][TASK]
    assert f"| 4 | {value:.2f} |" in text
    assert "Scores by dimensions" in html
    assert "score against dimensions" in html


def card(scored, staged, width):
    stage(scored / "best", staged, width)
    results = scored / "results.json"
    write_card(staged, "you/it", run=None, results=results, license="apache-2.0", previous=None)
    return (staged / "README.md").read_text()


def test_the_card_has_a_table_and_a_plot_and_the_scores_of_a_published_width(scored, tmp_path):
    _, eight, four = (entry["tasks"][TASK] for entry in json.loads((scored / "results.json").read_text())["dimensions"])
    text = card(scored, tmp_path / "whole", None)
    assert f"| 8 | {eight:.2f} |" in text
    assert f"]({PLOT})" in text
    ET.fromstring((tmp_path / "whole" / PLOT).read_text())
    text = card(scored, tmp_path / "four", 4)
    assert f"**{four:.2f}**" in text
    assert f"value: {round(four / 100, 6)}" in text  # in the header, which the Hub reads
    assert "to a vector of 4 numbers" in text
    assert "Not scored" in card(scored, tmp_path / "five", 5)


def test_tables_and_charts_by_pencil():
    entries = [
        {"width": 8, "tasks": {"a": 50.0, "b": 70.0}, "average": 60.0, "transfer": {"MR": 80.0}},
        {"width": 2, "tasks": {"a": 40.0, "b": None}, "average": None, "transfer": {"MR": 75.0}},
    ]
    table = reduced({"dimensions": entries}, "dimensions")
    assert table.heads == ["dimensions", "a", "b", "MR", "average"]
    assert table.rows == [["8", "50.00", "70.00", "80.00", "60.00"], ["2", "40.00", "-", "75.00", "-"]]
    lines = {line.name: (line.x, line.y) for line in series({"dimensions": entries})}
    assert lines["a"] == ([2.0, 8.0], [40.0, 50.0])
    assert lines["b"] == ([8.0], [70.0])
    assert reduced({}, "dimensions") is None
