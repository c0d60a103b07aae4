import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from statistics import mean, stdev

import pytest

from cse.data import open_rows, stats
from cse.evaluation import results, scoring
from cse.evaluation.reports import reporting, svg
from cse.evaluation.reports.collect import collect
from tests.evaluation.helpers import score_sts

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
