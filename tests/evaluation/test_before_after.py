"""The table of scores before and after training, from scores made by hand."""

import numpy as np
import pytest

from cse.evaluation import before_after
from cse.evaluation.before_after import Change
from cse.evaluation.evaluator import EvalResult, Measure
from tests.refusals import refuses

GOLD = np.arange(8.0)
UP, DOWN = GOLD / 10, -GOLD / 10  # a perfect ranking, and its reverse: every resample has +100 or -100
SWAPPED = np.array([0, 2, 1, 3, 4, 5, 6, 7]) / 10  # one swap of neighbours: 100 (1 - 6 * 2 / (8 * 63))


def made(name, spearman, sha="s", **cosines):
    """A model's scores on tasks of 8 pairs."""
    about = {"kind": "sts", "primary": "spearman", "unit": "pairs", "sha256": sha, "where": "by hand"}
    findings = []
    for task, cosine in cosines.items():
        measures = {"spearman": Measure(spearman[task], "spearman", ("cosine", "gold"))}
        findings.append(EvalResult(name=task, measures=measures, arrays={"cosine": cosine, "gold": GOLD}, **about))
    return before_after.scored(name, findings, "fp32")


BEFORE = made("before", {"A": -100.0, "B": -100.0, "G": 100.0}, A=DOWN, B=DOWN, G=UP)
BEST = made("best", {"A": 100.0, "B": -100.0, "G": -100.0}, A=UP, B=DOWN, G=DOWN)
SAME = made("merged", {"A": -100.0, "B": -100.0, "G": 100.0}, A=DOWN, B=DOWN, G=UP)


def table():
    rows = before_after.compare_part("dev", ["A", "B"], BEFORE, [BEST, SAME])
    rows += before_after.compare_part("general", ["G"], BEFORE, [BEST, SAME])
    return sorted(rows, key=lambda row: ["best", "merged"].index(row.checkpoint))


def test_rows_by_arithmetic():
    found = {(row.checkpoint, row.part, row.task): row for row in table()}
    keys = [("dev", "average"), ("dev", "A"), ("dev", "B"), ("general", "G")]
    mean, a, b, g = (found[("best", *key)] for key in keys)
    assert (mean.before, mean.after, mean.difference, mean.interval) == (-100.0, 0.0, 100.0, (100.0, 100.0))
    assert (a.difference, a.interval, a.verdict, a.n, mean.n) == (200.0, (200.0, 200.0), "better", 8, 16)
    assert (b.difference, b.interval, b.verdict) == (0.0, (0.0, 0.0), "no difference shown")
    assert (g.difference, g.interval, g.verdict) == (-200.0, (-200.0, -200.0), "worse")
    # All 2,000 resamples lie on one side: p = 2 (0 + 1) / 2001; Holm multiplies the smallest of three by 3.
    assert g.p == pytest.approx(2 / 2001)
    assert a.p == pytest.approx(3 * 2 / 2001)
    assert [row.headline for row in (mean, a, b, g)] == [True, False, False, True]
    assert found["merged", "general", "G"].verdict == "no difference shown"


def test_a_loss_on_the_general_set_is_said_in_words():
    (warning,) = before_after.warnings(table())
    assert warning == (
        "best/ is worse than the encoder before training on the general set: 100.00 before, -100.00 after "
        "(-200.00; 95 % -200.00 to -200.00)"
    )
    best, merged = before_after.verdicts(table())
    assert best == "best/: on dev better (+100.00); on general worse (-200.00)"
    assert merged == "merged/ has the scores of the encoder before training"


def test_a_loss_on_one_general_task_is_named_though_the_mean_rises():
    before = made("before", {"G": -100.0, "H": -100.0, "I": 100.0}, G=DOWN, H=DOWN, I=UP)
    after = made("best", {"G": 100.0, "H": 100.0, "I": -100.0}, G=UP, H=UP, I=DOWN)
    rows = before_after.compare_part("general", ["G", "H", "I"], before, [after])
    (warning,) = before_after.warnings(rows)
    assert "on the general task I: 100.00 before, -100.00 after (-200.00" in warning


def test_a_small_fall_within_the_interval_is_no_warning():
    score = 100 * (1 - 6 * 2 / (8 * 63))
    rows = before_after.compare_part(
        "general", ["G"], made("before", {"G": 100.0}, G=UP), [made("best", {"G": score}, G=SWAPPED)]
    )
    assert rows[0].difference == pytest.approx(-100 * 12 / 504)
    assert rows[0].interval[1] == 0.0  # resamples without both swapped pairs show no difference
    assert rows[0].verdict == "no difference shown"
    assert before_after.warnings(rows) == []


def test_a_score_without_pairs_has_no_interval():
    row = Change("best", "dev", "accuracy", 50.0, 60.0)
    text = before_after.lines([row])[1][1]
    assert text.split() == ["dev:", "accuracy", "50.00", "60.00", "+10.00", "no", "interval"]
    assert before_after.verdicts([row]) == ["best/: on dev +10.00 (without pairs, it has no interval)"]
    assert row.as_dict()["interval"] is None


def test_other_rows_than_before_training_are_refused():
    other = made("best", {"G": 100.0}, sha="other", G=UP)
    refuses("rows of G have changed", before_after.compare_part, "general", ["G"], BEFORE, [other])


def test_sts_belongs_to_the_general_set_where_its_rows_are(tmp_path, monkeypatch):
    """STS13 has three files; its known numbers of pairs are 750, 561 and 189."""
    monkeypatch.delenv("CSE_DATA", raising=False)
    (tmp_path / "STS13").mkdir()
    for name, count in (("headlines", 750), ("OnWN", 561), ("FNWN", 189)):
        rows = [f"{i % 6}\ta {name} {i}\tb {name} {i}" for i in range(count)]
        (tmp_path / "STS13" / f"{name}.tsv").write_text("score\tsentence1\tsentence2\n" + "\n".join(rows) + "\n")
    (tmp_path / "STS12").mkdir()  # damaged: its files are missing
    assert before_after.general_tasks(None) == ["sts-mini-dev", "sts-mini-test"]
    assert before_after.general_tasks(str(tmp_path), apart_from=["sts-mini-dev"]) == ["STS13", "sts-mini-test"]
