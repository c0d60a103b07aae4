"""None"""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from statistics import mean, stdev

import numpy as np
import pytest

from cse.data import open_rows, stats
from cse.evaluation import before_after, results, scoring
from cse.evaluation.before_after import Change
from cse.evaluation.evaluator import EvalResult, Measure
from cse.evaluation.reports import reporting, svg
from cse.evaluation.reports.collect import collect
from tests.evaluation.helpers import score_sts
from tests.refusals import refuses

ROWS = [(i % 6, f"a {i} <b>common</b> {'word ' * (i % 3)}", f"a {i * 7 % 11} common & </script>") for i in range(60)]


@pytest.fixture
def runs(write_task, hash_encoder, tmp_path):
    data = str(write_task(ROWS))
    folder = tmp_path / "runs"
    for seed in (1, 2):
        run = folder / "simcse" / f"20260101-000000-s{seed}"
        found = score_sts(hash_encoder(str(seed)), "STSB-dev", data, check=False)
        built = found.results(str(run / "best"), 50)
        results.write(built, run / "results.json", scoring.arrays(found.findings))
        log = [{"step": 10 * i, "dev": 50 + i, "loss": 1 / (i + 1), "align": 0.1 * i, "uniform": -i} for i in range(4)]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, log)) + '\n{"step": 40, "de')
    (folder / "results-broken.json").write_text("{")
    return folder


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_markdown_has_every_score_and_the_spread_over_seeds(runs):
    table = reporting.markdown(collect(runs).entries)
    scores = [e.average for e in collect(runs).entries]
    assert all(f"{score:.2f}" in table for score in scores)
    assert f"{mean(scores):.2f} ± {stdev(scores):.2f}" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_page_is_well_formed_and_self_contained(runs):
    report = stats(open_rows([{"text": t, "label": t[0]} for t in ("a b", "A b!", "<i>c</i> d e", "a b")]))
    for run in (runs / "simcse").iterdir():  # both runs were on the same rows
        (run / "data.json").write_text(json.dumps(report))
    reporting.report(runs, runs)
    text = (runs / "report.html").read_text()
    assert text.count(f"<h3>{report['data']}</h3>") == 1
    assert "&lt;i&gt;" not in text  # no text of the rows, only their counts
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.seen.count("polyline") >= 6
    assert all(link.startswith("#") for link in page.links)
    assert "&lt;b&gt;common&lt;/b&gt;" in text
    assert text.count("</script>") == 2  # texts cannot end ours
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1).replace("<\\/", "</"))
    assert list(embedded["pairs"]) == ["0,1"]


def test_a_bar_is_as_long_as_its_value():
    chart = svg.bars(["one", "three", "none", "<" + "long" * 10], [10, 30, 0, 15], "rows")
    wide = [float(value) for value in re.findall(r'<rect[^>]* width="([\d.]+)"', chart)]
    assert wide[1] == 720 - 176 - 96
    assert wide == pytest.approx([wide[1] / 3, wide[1], 0, wide[1] / 2], abs=0.1)
    assert "&lt;longlong" in chart
    assert "three: 30 rows" in chart


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0.13, 0.42, [0.1, 0.2, 0.3, 0.4, 0.5]), (-3, -1, [-3, -2.5, -2, -1.5, -1])],
)
def test_ticks_are_round(low, high, wanted):
    assert svg.ticks(low, high) == pytest.approx(wanted)
    assert svg.ticks(low, low)[0] < low < svg.ticks(low, low)[-1]


@pytest.mark.slow
def test_in_a_browser(runs):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no Chromium on the path")
    reporting.report(runs, runs)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    command = [browser, *options, (runs / "report.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-ready="yes"' in dom  # the script ran to its end
    comparison = re.search(r'id="comparison".*?</div>', dom, re.S).group(0)
    assert re.search("no difference shown|is better", comparison)
    hidden = re.findall(r'data-checkpoint="(\d)"([^>]*)', dom)
    assert [("hidden" in rest) for _, rest in hidden] == [False, True]


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
