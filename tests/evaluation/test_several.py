import pytest

from cse import STSEvaluator, UserError
from cse.evaluation.evaluator import RowEvaluator, Several, chosen, require_distinct, rows_hash, run_evaluator, scores
from cse.evaluation.reports import table
from cse.evaluation.scoring import describe
from cse.publish import card
from tests.evaluation.helpers import Numbers, finding
from tests.refusals import refuses


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
