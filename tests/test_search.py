"""The search: what a budget buys, what is tried and pruned, what a kill leaves, and the verdict."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cse import cli
from cse import recipe as recipes
from cse.evaluation.evaluator import EvalResult
from cse.evaluation.reports.collect import Entry
from cse.evaluation.results import Scored
from cse.search import search
from cse.search.engine import load
from cse.search.report import judge, lines
from cse.search.runner import SPAN, AsksTrial, own_setting, propose
from cse.search.state import Budget, Cost, State, Trial, divide
from tests.refusals import refuses
from tests.runs import make_run, texts_recipe, write_texts, write_triplets
from tests.test_cli import files

ROOT = Path(__file__).resolve().parents[1]
START = {"learning_rate": 1e-3, "temperature": 0.05}


# Budget
@pytest.mark.parametrize(
    ("text", "amount", "in_steps"),
    [("90s", 90, False), ("30m", 1800, False), ("1.5h", 5400, False), ("2000steps", 2000, True)],
)
def test_a_budget_is_a_time_or_a_number_of_steps(text, amount, in_steps):
    assert Budget.parse(text) == Budget(amount, in_steps)
    assert Budget.parse(str(Budget.parse(text))) == Budget(amount, in_steps)


@pytest.mark.parametrize("text", ["30", "m", "0s", "-5m", "30 minutes", "1e3s", ""])
def test_anything_else_is_refused(text):
    refuses(r"--budget is(.|\n)*fix: ", Budget.parse, text)


def test_every_method_has_the_same_seconds():
    """1800 s for 2 methods of 9 runs: 100 s a run. Less 2 s and 4 x 1 s: 94 s, at 0.5 s 188 steps, at 0.7 s 134.3."""
    costs = {"cheap": Cost(2.0, 0.5, 1.0), "dear": Cost(2.0, 0.7, 1.0)}
    assert divide(Budget(1800), costs, 9) == {"cheap": 188, "dear": 132}  # the multiple of 4 below 134


def test_every_method_has_the_same_steps():
    costs = {"cheap": Cost(2.0, 0.5, 1.0), "dear": Cost(2.0, 5.0, 1.0)}
    assert divide(Budget(250, in_steps=True), costs, 3) == {"cheap": 40, "dear": 40}


@pytest.mark.parametrize(("budget", "enough"), [(Budget(100), "144s"), (Budget(60, in_steps=True), "72steps")])
def test_a_budget_that_is_too_small_is_refused_with_one_that_suffices(budget, enough):
    """The shortest run takes 2 s, 4 evaluations of 1 s and 4 steps of 0.5 s: 8 s; 2 methods of 9 runs, 144 s."""
    costs = {"a": Cost(2.0, 0.5, 1.0), "b": Cost(1.0, 0.5, 1.0)}
    refuses(rf"is too small(.|\n)*fix: give --budget {enough} or more", divide, budget, costs, 9)
    assert divide(Budget.parse(enough), costs, 9)["a"] == 4


# Trials
def ended(*curves) -> list[Trial]:
    """Trials with these scores at steps 4, 8, ...; the last step of a complete one is 16."""
    found = []
    for number, curve in enumerate(curves):
        scores = {str(4 * (i + 1)): score for i, score in enumerate(curve)}
        params = {name: value * (1 + number / 10) for name, value in START.items()}
        found.append(Trial(number, params, "complete" if len(curve) == 4 else "pruned", scores))
    return found


def test_the_first_setting_is_the_recipes_own_and_the_others_lie_around_it():
    pytest.importorskip("optuna")
    assert propose([], START, 1, "a") == START
    seen = set()
    for count in range(1, 8):
        trials = ended(*[(1.0, 2.0, 3.0, float(i)) for i in range(count)])
        params = propose(trials, START, 1, "a")
        assert params == propose(trials, START, 1, "a")  # so that a search that was killed asks for the same
        assert all(START[n] / SPAN[n] <= params[n] <= START[n] * SPAN[n] for n in START)
        seen.add(params["learning_rate"])
    assert len(seen) == 7
    assert propose(ended((1, 2, 3, 4)), START, 1, "a") != propose(ended((1, 2, 3, 4)), START, 1, "b")


def test_a_recipe_without_a_temperature_is_tuned_in_its_rate(tiny_bert, tmp_path):
    recipe = recipes.load(texts_recipe(tmp_path, tiny_bert))
    assert own_setting(recipe) == {"learning_rate": 1e-3, "temperature": 0.05}
    masked = [
        "--objective=cse.objectives.masked_lm.MaskedLM",
        "--collator=cse.data.Masked",
        "--collator.views=cse.data.TextViews",
    ]
    assert own_setting(recipes.load(texts_recipe(tmp_path, tiny_bert), masked)) == {"learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("score", "others", "last", "pruned"),
    [(14.0, 2, 16, True), (16.0, 2, 16, False), (0.0, 1, 16, False), (0.0, 2, 4, False)],
)
def test_a_trial_below_the_median_of_those_before_it_is_pruned(tiny_bert, tmp_path, score, others, last, pruned):
    """The median at step 4 is 15; one trial has none, and the last evaluation prunes nothing."""
    pytest.importorskip("optuna")
    before = ended((10.0, 11.0, 12.0, 13.0), (20.0, 21.0, 22.0, 23.0))[:others]
    asks, run = AsksTrial(before, START, START), make_run(tmp_path, tiny_bert)
    run.max_steps = last
    asks.on_eval(run, {"dev": 0.0})  # before the first step
    run.progress.step = 4
    asks.on_eval(run, {"dev": score})
    assert (asks.pruned, run.ended) == (pruned, pruned)


def test_a_resumed_trial_is_asked_again_about_what_it_scored_before_the_kill(tiny_bert, tmp_path):
    pytest.importorskip("optuna")
    asks = AsksTrial(ended((10, 11, 12, 13), (20, 21, 22, 23)), START, START)
    run = make_run(tmp_path, tiny_bert)
    run.folder.mkdir(parents=True)
    records = [{"step": 0, "dev": 0.0}, {"step": 4, "dev": 14.0}, {"step": 8, "dev": 99.0}]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    run.max_steps, run.progress.step = 16, 4
    asks.on_start(run)
    assert asks.pruned
    assert asks.trial.number == 2


# Verdict
def entry(method: str, seed: int | None, noise: float, draw: int) -> Entry:
    """A checkpoint whose cosines are the gold scores and noise."""
    rng = np.random.default_rng(draw)
    gold = np.random.default_rng(0).uniform(0, 5, 400)
    cosine = gold + noise * rng.normal(size=400)
    ranks = [np.argsort(np.argsort(x)) for x in (gold, cosine)]
    rho = 100 * float(np.corrcoef(*ranks)[0, 1])
    results = {"tasks": {"T": {"value": rho}}, "average": {"requested": "T", "metric": "spearman", "value": rho}}
    found = EvalResult.of(
        "T",
        kind="sts",
        measures={"spearman": ("spearman", "cosine", "gold")},
        arrays={"cosine": cosine, "gold": gold},
        primary="spearman",
        unit="pairs",
        sha256="same",
        where="by hand",
    )
    return Entry(method, method, seed, results, Scored(method, results, {"T": found}), None)


def seeds(method: str, noise: float, draw: int) -> list[Entry]:
    return [entry(method, seed, noise, draw + seed) for seed in (0, 1, 2)]


COSTS = {"good": 0.9, "equal": 0.3, "bad": 0.1}


def test_the_better_method_is_named():
    bare = entry("x", None, 4.0, 50)
    table = lines([*seeds("good", 0.5, 10), *seeds("bad", 3.0, 20)], {"good": bare, "bad": bare})
    assert [line.name for line in table] == ["good", "bad", "untrained"]
    good, bad, untrained = table
    assert good.to_best is None
    assert untrained.to_untrained is None
    assert good.to_untrained.difference == pytest.approx(good.mean - untrained.mean)
    assert good.to_untrained.interval[0] > 0
    assert (good.to_untrained.verdict, bad.to_best.verdict) == ("better", "worse")
    verdict = judge(table, COSTS)
    assert (verdict.best, verdict.choice) == ("good", "good")
    assert verdict.text == "good is better than all others"


def test_of_methods_that_do_not_differ_the_cheapest_is_taken():
    bare = entry("x", None, 4.0, 50)
    finals = [*seeds("good", 1.0, 10), *seeds("equal", 1.02, 30), *seeds("bad", 3.0, 20)]
    table = lines(finals, dict.fromkeys(("good", "equal", "bad"), bare))
    first, second = table[:2]
    assert {first.name, second.name} == {"good", "equal"}
    low, high = second.to_best.interval
    assert low < 0 < high
    verdict = judge(table, COSTS)
    assert (verdict.best, verdict.choice) == (first.name, "equal")
    tied = f"{first.name} and {second.name}"
    assert verdict.text == f"no difference shown between {tied}: take the cheapest, equal (0.3 s a step)"


def test_training_that_changes_nothing_is_not_taken():
    bare = entry("x", None, 1.0, 10)
    same = [entry("good", seed, 1.0, 10) for seed in (0, 1, 2)]
    verdict = judge(lines(same, {"good": bare}), COSTS)
    assert verdict.choice == "untrained"
    assert "which needs no training" in verdict.text


def test_methods_are_compared_with_the_untrained_encoder_that_they_begin_with():
    bare = {"good": entry("x", None, 2.0, 50), "bad": entry("y", None, 4.0, 60)}
    table = lines([*seeds("good", 0.5, 10), *seeds("bad", 3.0, 20)], bare)
    assert [line.name for line in table] == ["good", "untrained good", "bad", "untrained bad"]
    means = {line.name: line.mean for line in table}
    for line in table:
        if line.to_untrained is not None:
            assert line.to_untrained.difference == pytest.approx(line.mean - means[f"untrained {line.name}"])


# The whole
DEV = "sts-mini-dev"


def write_two(folder: Path, backbone: str, strikes: dict | None = None) -> list[str]:
    """Two recipes; the second one strikes."""
    first = Path(texts_recipe(folder, backbone))
    content = yaml.safe_load(first.read_text())
    content["objective"]["init_args"]["temperature"] = 0.2
    if strikes:
        content["callbacks"] = [{"class_path": "tests.runs.Strikes", "init_args": strikes}]
    second = folder / "warm.yaml"
    second.write_text(yaml.safe_dump(content))
    return [str(first), str(second)]


def command(folder: Path, recipes: list[str]) -> list[str]:
    """3 trials and 2 seeds of 8 steps for 2 methods: 80 steps."""
    words = ["search", *recipes, "--data", str(folder / "texts.txt"), "--dev", DEV, "--budget", "80steps"]
    return [*words, "--trials", "3", "--seeds", "2", "--run-dir", str(folder / "found")]


def same_costs(folder: Path, other: Path) -> None:
    """Give a search the costs that another one measured: by them it chooses among methods that do not differ."""
    state, costs = State.read(folder), State.read(other)
    for contender, known in zip(state.contenders, costs.contenders, strict=True):
        contender.cost = known.cost
    state.write(folder)


def outcome(folder: Path) -> dict:
    """What a search found, without the seconds that each trial took."""
    content = json.loads((folder / "search.json").read_text())
    for contender in content["contenders"]:
        for trial in contender["trials"]:
            del trial["seconds"]
    return {name: content[name] for name in ("contenders", "result")}


@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    """The folder of a search that nothing disturbed."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main(command(folder, write_two(folder, tiny_bert))) == 0
    return folder / "found"


def test_a_search_leaves_what_it_says(whole, capsys):
    state = State.read(whole)
    assert (state.seeds, state.tuning_seed) == ([3, 4], 5)
    for contender, temperature in zip(state.contenders, (0.05, 0.2), strict=True):
        assert contender.steps == 8
        assert contender.trials[0].params == contender.start == {"learning_rate": 1e-3, "temperature": temperature}
        complete = [trial for trial in contender.trials if trial.state == "complete"]
        assert [list(trial.scores) for trial in complete] == [["2", "4", "6", "8"]] * len(complete)
        assert contender.chosen == max(complete, key=lambda t: t.value).params
        assert set(contender.finals) == {"3", "4"}
        chosen = recipes.load(f"{whole}/{contender.name}/chosen.yaml")
        assert own_setting(chosen) == contender.chosen
        assert (chosen.config.trainer.max_steps, chosen.config.seed, chosen.expect) == (8, 3, {})
        assert not list(whole.glob("*/trial-*/best"))
        for seed in (3, 4):
            run = whole / contender.name / f"final-s{seed}"
            assert {"best", "recipe.yaml", "env.json", "data.json"} <= {p.name for p in run.iterdir()}
            scored = json.loads((run / f"results-{DEV}.json").read_text())
            assert scored["average"]["all"]["spearman"] == pytest.approx(contender.finals[str(seed)], abs=0.05)
    assert {row["name"] for row in state.result["dev"]} == {"tiny", "warm", "untrained"}
    table = (whole / "table.md").read_text()
    assert "optimistic" in table
    assert "**Verdict**" in table
    capsys.readouterr()
    assert cli.main(["search", "--resume", str(whole)]) == 0  # it has ended: the table again
    said = capsys.readouterr().out
    assert table in said
    assert "trial" not in said.replace("trials", "")


def test_the_chosen_recipe_trains(whole, tmp_path):
    assert cli.main(["train", f"{whole}/tiny/chosen.yaml", "--trainer.max_steps=1", "--run-dir", f"{tmp_path}/r"]) == 0


@pytest.mark.unix
@pytest.mark.parametrize("where", ["trial-1", pytest.param("final-s3", marks=pytest.mark.slow)])
def test_a_killed_search_resumes_and_finds_the_same(tiny_bert, tmp_path, whole, where):
    strikes = {"run": where, "step": 5, "marker": str(tmp_path / "struck"), "signal_name": "SIGKILL"}
    words = command(tmp_path, write_two(tmp_path, tiny_bert, strikes))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "cse", *words], env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    before = State.read(tmp_path / "found")
    assert not before.result
    half = json.loads((tmp_path / "found" / "warm" / where / "state" / "state.json").read_text())
    assert half["progress"]["step"] in {2, 4}  # a half-trained run, whose state is written while it goes on
    same_costs(tmp_path / "found", whole)
    assert cli.main(["search", "--resume", str(tmp_path / "found")]) == 0
    assert outcome(tmp_path / "found") == outcome(whole)
    log = (tmp_path / "found" / "warm" / where / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log][:3] == [0, 2, 4]


def test_ctrl_c_while_costs_are_measured_writes_nothing(tiny_bert, tmp_path, capsys):
    pytest.importorskip("optuna")
    strikes = {"run": "run", "step": 2, "marker": str(tmp_path / "struck"), "signal_name": "SIGINT"}
    assert cli.main(command(tmp_path, write_two(tmp_path, tiny_bert, strikes))) == 130
    assert "nothing is written" in capsys.readouterr().out
    assert not (tmp_path / "found").exists()


def test_from_python_with_test_tasks_and_a_tracker(tiny_bert, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = search(
        [texts_recipe(tmp_path, tiny_bert)],
        data=str(tmp_path / "texts.txt"),
        dev=DEV,
        test="sts-mini-test",
        budget="4steps",
        trials=0,
        seeds=1,
        overrides=["--trainer.trackers=[tensorboard]"],
        folder=tmp_path / "found",
    )
    assert not found.interrupted
    assert {line.name for line in found.table} == {"tiny", "untrained"}
    assert "## sts-mini-test" in (found.folder / "table.md").read_text()
    assert [row["name"] for row in State.read(found.folder).result["test"]]
    events = EventAccumulator(str(found.folder / "trackers" / "cse")).Reload()
    assert "search/text_summary" in events.Tags()["tensors"]
    assert (found.folder / "tiny" / "final-s3" / "trackers").is_dir()


# Which recipes
@pytest.mark.slow
def test_without_names_the_recipes_that_fit_the_columns_are_taken(tmp_path):
    texts, _ = load((), str(write_texts(tmp_path)), [])
    assert {"simcse-unsup", "esimcse", "whitenedcse"} <= {recipe.name for recipe in texts}
    assert all(recipe.config.data.class_path == "cse.data.Texts" for recipe in texts)
    assert "pretrain-mini" not in {recipe.name for recipe in texts}  # it trains no sentence vectors
    triplets, left_out = load((), str(write_triplets(tmp_path)), [])
    assert {"simcse-sup", "syncse", "promcse-sup"} <= {recipe.name for recipe in triplets}
    assert "clhaif" in left_out  # it reads a score, too
    assert "simcse-unsup" in left_out


# Errors
@pytest.fixture
def refused(tiny_bert, tmp_path, monkeypatch, capsys):
    """Run `cse search` with these options; gives what it says. Nothing may be written."""
    texts_recipe(tmp_path, tiny_bert)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        before = files(tmp_path)
        assert cli.main(["search", *words]) == 2
        assert files(tmp_path) == before
        return capsys.readouterr().err

    return run


TINY = ("tiny.yaml", "--data", "texts.txt")


def test_without_optuna_the_pip_line_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'cse-embeddings[search]'" in refused(*TINY, "--budget", "900steps")


def test_several_processes_are_refused(refused, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in refused(*TINY)


def test_a_folder_that_holds_a_search_is_not_overwritten(whole, tmp_path):
    refuses("holds a search already", search, data="texts.txt", folder=whole)
