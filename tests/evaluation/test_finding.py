import pytest

from cse.errors import UserError
from cse.evaluation.evaluator import rows_hash, scores
from tests.evaluation.helpers import finding


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
