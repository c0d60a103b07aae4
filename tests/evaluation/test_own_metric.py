"""Evaluators through everything that takes them: evaluate, compare, reports, the card, a recipe, the table of a run."""

import json

import pytest
import yaml

import cse
from cse import Encoder, STSEvaluator, UserError, cli
from cse.evaluation import Triplets
from cse.evaluation.evaluator import RowEvaluator, Several, chosen, require_distinct, rows_hash, run_evaluator, scores
from cse.evaluation.reports import table
from cse.evaluation.results import Scored
from cse.evaluation.scoring import describe
from cse.publish import card
from tests.evaluation.helpers import Numbers, finding
from tests.refusals import refuses
from tests.runs import metrics, write_recipe, write_triplets

TRIPLETS = [(f"a cat {i}", *([f"a cat {i * 3}", f"red moon {i * 7}"][:: 1 if i % 3 else -1])) for i in range(30)]


@pytest.fixture(scope="module")
def checkpoints(tiny_bert, tmp_path_factory):
    """Two checkpoints, as folders."""
    folder = tmp_path_factory.mktemp("models")
    for name, pooler in (("one", "mean"), ("two", "cls")):
        Encoder(tiny_bert, pooler=pooler).save(folder / name)
    return str(folder / "one"), str(folder / "two")


def evaluators():
    return [Triplets(TRIPLETS, precision="fp32"), Numbers(), "sts-mini-dev"]


def test_lists_of_evaluators_and_tasks(checkpoints, tmp_path):
    found = cse.evaluate(checkpoints[0], evaluators(), precision="fp32", out=tmp_path / "one.json")
    encoder = Encoder.load(checkpoints[0])
    assert found.scores == {
        "sts-mini-dev": pytest.approx(STSEvaluator(precision="fp32")(encoder)["dev"]),
        "rows": Triplets(TRIPLETS, precision="fp32")(encoder)["accuracy"],
        "Numbers": 3.0,
    }
    task = json.loads((tmp_path / "one.json").read_text())["tasks"]["rows"]
    assert (task["kind"], task["metric"], task["n"], task["unit"]) == ("triplets", "accuracy", 30, "triplets")
    low, high = task["interval"]
    assert low < task["value"] < high
    read = Scored.read(tmp_path / "one.json")
    assert set(read.findings) == {"sts-mini-dev", "rows"}
    assert (read.findings["rows"].arrays["right"] == found.findings["rows"].arrays["right"]).all()
    assert found.results["average"]["value"] is None  # of different metrics


def test_reports_and_cards_show_any_metric(checkpoints, tmp_path, capsys):
    for path, out in zip(checkpoints, ("one", "two"), strict=True):
        cse.evaluate(path, Triplets(TRIPLETS, precision="fp32"), out=tmp_path / "runs" / out / "results.json")
    assert cli.main(["eval", "report", str(tmp_path / "runs")]) == 0
    text = (tmp_path / "runs" / "report.md").read_text()
    assert "accuracy × 100, `rows`" in text
    (row,) = card.others(json.loads((tmp_path / "runs" / "one" / "results.json").read_text())).rows
    assert (row[0], row[1], row[4]) == ("rows", "accuracy", "30 triplets")


def test_one_of_several_selects_the_checkpoint_of_a_recipe(checkpoints, tmp_path, capsys):
    rows = tmp_path / "dev.jsonl"
    names = ("premise", "entailment", "contradiction")
    rows.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in TRIPLETS))
    own = {"class_path": "cse.evaluation.Triplets", "init_args": {"data": str(rows), "precision": "fp32"}}
    general = {"class_path": "cse.evaluation.STSEvaluator", "init_args": {"precision": "fp32"}}
    several = {"evaluators": {"domain": own, "general": general}, "primary": "domain"}
    recipe = write_recipe(
        tmp_path,
        "Triplets",
        {"path": str(write_triplets(tmp_path))},
        {"backbone": checkpoints[0]},
        trainer={"max_steps": 4, "initial_weights": "compare"},
        evaluator={"class_path": "cse.evaluation.Several", "init_args": several},
    )
    assert cli.main(["train", recipe, "--run-dir", str(tmp_path / "run")]) == 0
    log = metrics(tmp_path / "run")
    assert all(line["dev"] == line["domain/accuracy"] and "general/sts-mini-dev" in line for line in log)
    parts = {
        (row["part"], row["task"]): row for row in json.loads((tmp_path / "run" / "helped.json").read_text())["rows"]
    }
    assert parts["dev", "domain"]["metric"] == "accuracy"
    assert parts["dev", "domain"]["interval"] is not None
    assert parts["other", "general"]["metric"] == "spearman"
    assert ("general", "average") in parts
    resolved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert resolved["evaluator"]["init_args"]["primary"] == "domain"
    assert "dev: domain accuracy" in capsys.readouterr().out


class Sets(RowEvaluator):
    """An evaluator of two sets of rows."""

    primary, name = "mean", "sets"

    def measure(self, encoder):
        return [finding("x"), finding("y", (1.0, 0.0))]


def test_scores_are_named_after_the_evaluators(hash_encoder):
    several = Several({"own": Numbers(), "sets": Sets(), "general": STSEvaluator()}, primary="own")
    encoder = hash_encoder()
    found, findings = several.answer(encoder)[:2]
    assert found == several(encoder)
    assert found["own/words"] == found[several.primary] == 3.0
    assert found["sets/mean"] == 62.5
    assert found["general/dev"] == STSEvaluator()(encoder)["dev"]
    assert [f.name for f in findings] == ["own", "sets/x", "sets/y", "general"]


def test_a_terminal_and_a_card_show_them(hash_encoder, capsys):
    answer = Several({"own": Sets(), "general": STSEvaluator()}, primary="own").answer(hash_encoder())
    found = describe([answer], model={"name": "m"}, precision="fp32", requested="own+general", resamples=10)
    table.show(found)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("own/x", "own/y", "general"))
    assert [row[0] for row in card.others(found).rows if row[0]] == ["own/x", "own/y", "general"]
    assert card.sts(found) is None


@pytest.mark.parametrize(
    ("primary", "names"), [("sets", ["sets/x", "sets/y"]), ("general", ["general"]), ("own", ["own"])]
)
def test_the_rows_that_select_are_told_from_the_others(hash_encoder, primary, names):
    several = Several({"own": Numbers(), "sets": Sets(), "general": STSEvaluator()}, primary=primary)
    assert chosen(several.primary, several.measure(hash_encoder())) == names


def test_names_that_are_wrong():
    refuses("primary is 'b', and evaluators has a", Several, {"a": Numbers()}, primary="b")
    refuses("two sets of rows are named 'x'", require_distinct, [finding("x"), finding("x")])
    wrong = Numbers()
    wrong.primary = "syllables"
    refuses(r"Numbers.primary is 'syllables', and it returned words, letters", run_evaluator, wrong, None)


def test_different_measures_have_no_mean():
    other = finding("B", arrays={"cosine": [1, 2], "gold": [3, 4]}, primary="rho",
                    measures={"rho": ("spearman", "cosine", "gold")})  # fmt: skip
    assert scores([finding(), other]) == {"A/accuracy": 75.0, "B/rho": pytest.approx(100)}


def test_an_undefined_score_is_refused():
    with pytest.raises(UserError, match="rho is undefined on 2 pairs"):
        finding(arrays={"cosine": [1, 1], "gold": [3, 4]}, primary="rho", unit="pairs",
                measures={"rho": ("spearman", "cosine", "gold")})  # fmt: skip


def test_the_hash_tells_rows_apart():
    hashes = {rows_hash(rows) for rows in ([["a", "b"]], [["ab"]], [["a"], ["b"]], [["a", "b", 1.0]], [])}
    assert len(hashes) == 5
