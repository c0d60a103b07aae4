"""The table of methods: arithmetic of its cells, and intervals that agree with `compare`."""

import json
import statistics

import numpy as np
import pytest
from scipy.stats import spearmanr

from cse.cli import main
from cse.evaluation import results, scoring
from cse.evaluation.comparison import Scored, compare
from cse.evaluation.reports import methods
from cse.evaluation.reports.collect import collect
from eval import tables
from tests.evaluation.helpers import score_sts

ROWS = [(i % 6, f"{'same ' * (i % 6)} text {i}", f"{'same ' * (i % 6)} words {i * 7 % 61}") for i in range(80)]


@pytest.fixture
def add(write_task, hash_encoder, tmp_path):
    """A function that writes a run's results: noise moves its similarities away from the gold scores."""
    data = str(write_task(ROWS))

    def write(recipe, seed, noise, steps_per_s=(1.0,)):
        run = tmp_path / "runs" / recipe / f"reproduce-s{seed}" if seed else tmp_path / "runs" / recipe
        found = score_sts(hash_encoder("x"), "STSB-dev", data, check=False)
        rng = np.random.default_rng([seed, len(recipe)])
        task = "STSB-dev"
        gold = found.findings[0].arrays["gold"]
        cosine = gold + noise * rng.standard_normal(len(gold))
        built = found.results(recipe, 20)
        score = 100 * float(spearmanr(cosine, gold).statistic)
        built["tasks"][task]["value"] = built["average"]["value"] = score
        arrays = scoring.arrays(found.findings) | {f"{task}/cosine": cosine}
        results.write(built, run / "results.json", arrays)
        if seed:
            log = [{"step": i, "steps_per_s": pace} for i, pace in enumerate(steps_per_s)]
            (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
        return run / "results.json", score

    return write


def _found(tmp_path, baseline="simcse"):
    return {m.name: m for m in methods.methods(collect(tmp_path / "runs").entries, baseline)}


def test_differences_are_those_of_means_over_seeds(add, tmp_path):
    simcse = [add("simcse", seed, 3.0)[1] for seed in (1, 2, 3)]
    better = [add("better", seed, 0.5)[1] for seed in (1, 2, 3)]
    add("alike", 1, 3.0), add("alike", 2, 3.0)
    found = _found(tmp_path)
    assert found["simcse"].difference is None
    assert found["better"].difference == pytest.approx(statistics.mean(better) - statistics.mean(simcse))
    assert found["better"].verdict == "better"
    low, high = found["better"].interval
    assert low < found["better"].difference < high
    assert found["alike"].verdict == "no difference shown"
    assert _found(tmp_path, "better")["simcse"].verdict == "worse"


def test_one_run_each_is_what_compare_says(add, tmp_path):
    a, b = add("simcse", 1, 2.0)[0], add("other", 1, 1.0)[0]
    expected = compare(Scored.read(a), Scored.read(b), resamples=methods.statistic.RESAMPLES)["STSB-dev"]
    found = _found(tmp_path)["other"]
    assert found.interval == pytest.approx(expected.interval)
    assert found.adjusted == pytest.approx(expected.p)


def test_many_methods_leave_room_for_a_verdict(add, tmp_path, monkeypatch):
    """Holm's correction multiplies the smallest p by the number of methods: 2 / 101 by 10 would be 0.2."""
    monkeypatch.setattr(methods.statistic, "RESAMPLES", 100)
    add("simcse", 1, 30.0)
    for i in range(10):
        add(f"better-{i}", 1, 0.01)
    found = _found(tmp_path)
    assert {method.verdict for name, method in found.items() if name != "simcse"} == {"better"}


def test_the_table_and_its_json(add, tmp_path, capsys):
    scores = [add("simcse", seed, 3.0, steps_per_s=(1.0, 4.0))[1] for seed in (1, 2)]
    add("slow", 1, 2.0, steps_per_s=(0.5, 2.0))
    untrained = add("untrained", 0, 5.0)[1]
    runs, out = tmp_path / "runs", tmp_path / "methods.json"
    assert main(["eval", "report", str(runs), "--baseline", "simcse", "--json", str(out), "--note", "a note"]) == 0
    text = (runs / "report.md").read_text()
    table = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()[:8] if line.startswith("|")}
    mean, sd = statistics.mean(scores), statistics.stdev(scores)
    assert table["simcse"] == f"| simcse | 2 | {mean:.2f} ± {sd:.2f} | {mean:.2f} ± {sd:.2f} |  |  | 1.00 |"
    assert table["slow"].endswith(" 0.50 |")
    assert f"| untrained | - | {untrained:.2f} |" in table["untrained"]
    found = json.loads(out.read_text())
    assert methods.markdown(found) in text
    assert (found["seeds"], found["note"], found["precision"]) == ([1, 2], "a note", "fp32")
    committed = json.loads((tables.RESULTS / "methods.json").read_text(encoding="utf-8"))
    assert list(found) == list(committed)
    assert {tuple(row) for row in found["methods"]} <= {tuple(row) for row in committed["methods"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "{tmp}/x.json"], "cse: --json writes the table of methods, which needs a baseline"),
        (["--baseline", "simcse", "--json", "/proc/x.json"], "cse: --json /proc/x.json cannot be written"),
        (["--tasks", "STS12"], "has no results on STS12"),
        (["--baseline", "bert"], "cse: --baseline bert"),
    ],
)
def test_a_report_that_cannot_be_made(add, tmp_path, capsys, options, message):
    add("simcse", 1, 3.0)
    options = [option.replace("{tmp}", str(tmp_path)) for option in options]
    assert main(["eval", "report", str(tmp_path / "runs"), *options]) == 2
    assert message in capsys.readouterr().err
