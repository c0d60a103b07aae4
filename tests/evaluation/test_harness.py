import numpy as np
import pytest

from cse.errors import UserError
from cse.evaluation import results, scoring
from cse.evaluation.evaluators.sts import STSEvaluator
from tests.evaluation.helpers import GRADED as ROWS
from tests.evaluation.helpers import score_sts


def test_average_is_of_all_tasks_or_none(write_task, hash_encoder):
    data = str(write_task(ROWS))
    found = score_sts(hash_encoder(), "STSB-dev,SICKR-dev", data, check=False)
    assert found.average is None
    assert list(found.scores) == ["STSB-dev"]
    assert "SICKR/dev.tsv" in found.missing["SICKR-dev"]
    write_task(ROWS[::-1], "SICKR")
    found = score_sts(hash_encoder(), "STSB-dev,SICKR-dev", data, check=False)
    assert found.average == pytest.approx(np.mean([s.all.spearman for s in found.scores.values()]))


def test_results_have_the_published_schema(write_task, hash_encoder, tmp_path):
    found = score_sts(hash_encoder(), "STSB-dev", str(write_task(ROWS)), check=False)
    out = tmp_path / "deep" / "results.json"
    results.write(found.results("m", 200), out, scoring.arrays(found.findings))
    read = results.read(out)
    task = read["tasks"]["STSB-dev"]
    assert task["n"] == 40
    assert task["all"]["spearman"] == found.scores["STSB-dev"].all.spearman == task["mean"]["spearman"]
    low, high = task["interval"]
    assert low < task["all"]["spearman"] < high
    assert task["data"]["text"] == "raw"
    assert len(task["data"]["sha256"]) == 64
    assert read["average"]["all"]["rounded"] == round(task["all"]["spearman"], 2)
    assert read["sentences"] == {"total": 80, "unique": len({t for r in ROWS for t in r[1:]})}
    assert {"torch", "python", "scipy"} <= set(read["versions"])
    arrays = np.load(out.with_suffix(".npz"))
    np.testing.assert_array_equal(arrays["STSB-dev/cosine"], found.scores["STSB-dev"].cosine)
    assert sorted(p.name for p in out.parent.iterdir()) == ["results.json", "results.npz"]  # no scratch files


def test_a_crash_leaves_no_half_results(tmp_path, monkeypatch):
    out = tmp_path / "results.json"
    out.write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write({"score": float("nan")}, out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_evaluator_gives_the_harness_numbers(write_task, hash_encoder):
    data = str(write_task(ROWS))
    write_task(ROWS[::-1], "SICKR")
    encoder = hash_encoder()
    for tasks, given, message in (
        ("sts-dev", data, "1500 are known"),
        ("STSB", None, r"evaluator\.tasks: no data for"),
    ):
        with pytest.raises(UserError, match=message):
            STSEvaluator(tasks, given)
    shipped = STSEvaluator()(encoder)
    direct = score_sts(encoder, "sts-mini-dev")
    assert shipped == {"dev": direct.average, "sts-mini-dev": direct.scores["sts-mini-dev"].all.spearman}
    assert STSEvaluator.primary in shipped
