import numpy as np
import pytest

from cse.errors import UserError
from cse.evaluation.finding import Measure, rows_hash, scores
from tests.evaluation.helpers import finding


def test_scores_are_computed_from_the_arrays():
    found = finding()
    assert found.measures == {"accuracy": Measure(75.0, "mean", ("correct",))}
    assert (found.n, found.value) == (4, 75.0)
    assert found.arrays["correct"].dtype == np.float64


def test_one_set_gives_its_measures_and_several_the_mean():
    one, two = finding(), finding("B", (1.0, 0.0))
    assert scores([one]) == {"accuracy": 75.0}
    assert scores([one, two]) == {"A/accuracy": 75.0, "B/accuracy": 50.0, "mean": 62.5}


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
