import json

import numpy as np
import pytest

from cse.evaluation import MTEB
from cse.evaluation.loading import Model
from tests.evaluation.helpers import GRADED as ROWS
from tests.evaluation.helpers import score_sts
from tests.refusals import refuses

pytest.importorskip("mteb")
from cse.evaluation.evaluators import mteb_adapter


@pytest.fixture
def data(write_task):
    for subset in ("FNWN", "headlines", "OnWN"):
        folder = write_task([(g, f"{subset} {a}", f"{b} {subset}") for g, a, b in ROWS], "STS13", subset)
    return str(folder)


@pytest.fixture
def model(hash_encoder, tmp_path):
    def make(salt, name="same-name"):
        return Model(hash_encoder(salt), name, tmp_path, sha256=salt * 64, loader="cse")

    return make


def run(model, data, out):
    return mteb_adapter.run(model, mteb_adapter.get_tasks("STS13"), out, data=data, check=False)


def test_one_checkpoint_never_gets_anothers_scores(model, data, tmp_path):
    first, second = (run(model(salt), data, tmp_path / "out") for salt in "ab")
    assert first["mteb"]["name"] == second["mteb"]["name"]
    assert first["mteb"]["revision"] == "a" * 40 != second["mteb"]["revision"]
    for salt, found in (("a", first), ("b", second)):
        ours = score_sts(model(salt).encoder, "STS13", data, check=False)
        assert found["tasks"]["STS13"]["main_score"] == pytest.approx(ours.average, abs=1e-3)
        assert "120 pairs" in found["tasks"]["STS13"]["data"]


def test_what_is_there_is_not_run_again(model, data, tmp_path):
    first, again = model("a"), model("a")
    before = run(first, data, tmp_path / "out")
    assert run(again, data, tmp_path / "out") == before
    assert first.encoder.calls
    assert not again.encoder.calls


def test_other_rows_are_run_again(model, data, write_task, tmp_path):
    before = run(model("a"), data, tmp_path / "out")
    write_task([(5 - g, a, b) for g, a, b in ROWS], "STS13", "FNWN")
    assert run(model("a"), data, tmp_path / "out")["tasks"] != before["tasks"]


def test_a_task_that_fails_does_not_lose_the_others(model, data, tmp_path):
    tasks = mteb_adapter.get_tasks("STS16,STS13")
    found = mteb_adapter.run(model("a"), tasks, tmp_path / "out", data=data, check=False)
    assert list(found["tasks"]) == ["STS13"]
    assert "not in the Hub's cache" in found["failed"]["STS16"]


def test_sickr_is_mtebs_nine_thousand_pairs(write_task):
    for subset, n in (("train", 4), ("dev", 2), ("test", 3)):
        folder = write_task([(i, f"{subset} {i}", "b") for i in range(n)], "SICKR", subset)
    (task,) = mteb_adapter.get_tasks("SICKR")
    assert task.metadata.name == "SICK-R"
    assert mteb_adapter.inject(task, str(folder), check=False).count("+") == 2
    assert len(task.dataset["test"]) == 9
    (folder / "SICKR" / "train.tsv").unlink()
    assert mteb_adapter.inject(mteb_adapter.get_tasks("SICKR")[0], str(folder), check=False) is None


def test_names():
    names = [task.metadata.name for task in mteb_adapter.get_tasks("sts")]
    assert sorted(names) == sorted(mteb_adapter.OURS)
    refuses("no task 'STSBenchmrk'; the nearest is 'STSBenchmark'", mteb_adapter.get_tasks, "STSBenchmrk")
    refuses("unknown benchmark", mteb_adapter.get_tasks, "", "MTEB(engl, v2)")


def test_repeated_texts_keep_their_places(model):
    adapter = mteb_adapter.Adapter(model("a"))
    texts = ["b c", "a", "b c", "a d"]
    found = adapter.encode([{"text": texts[:2]}, {"text": texts[2:]}], task_metadata=None)
    np.testing.assert_array_equal(found, model("a").encoder.encode(texts))


def test_tasks_as_an_evaluator(model, data):
    evaluator = MTEB("STS13", data=data, check=False)
    encoder = model("a").encoder
    found, (finding,) = evaluator.answer(encoder)[:2]
    ours = score_sts(encoder, "STS13", data, check=False)
    assert found == {"main_score": pytest.approx(ours.average, abs=1e-3)}
    assert (finding.name, finding.kind, finding.arrays) == ("STS13", "mteb", {})
    assert evaluator(model("b").encoder) != found  # nothing is kept from one encoder to the next
    refuses("mteb has no task 'STS99'", MTEB, "STS99")


def test_a_task_that_fails_as_an_evaluator(model, monkeypatch, hash_encoder):
    refuses("the task STS13 of mteb failed", lambda: MTEB("STS13")(hash_encoder()))


def test_a_model_by_distance_is_compared_by_distance(model, data, tmp_path, capsys):
    far = model("a")
    far.encoder.similarity = "euclidean"
    adapted = mteb_adapter.adapt(far)
    a, b = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[3.0, 4.0], [1.0, 2.0]])  # by pencil: 5, sqrt 5; sqrt 20, 2
    assert np.asarray(adapted.similarity(a, b)) == pytest.approx(-np.sqrt([[25, 5], [20, 4]]))
    assert np.asarray(adapted.similarity_pairwise(a, b)) == pytest.approx([-5, -2])
    near = mteb_adapter.adapt(model("a"))
    assert np.asarray(near.similarity_pairwise(a[1:], b[1:])) == pytest.approx([1 / np.sqrt(5)])
    assert np.asarray(near.similarity(a[1:], b)) == pytest.approx(np.array([[3 / 5, 1 / np.sqrt(5)]]))
    run(far, data, tmp_path / "out")
    assert "mteb's STS tasks is that of cosines" in capsys.readouterr().out
    path = tmp_path / "out" / "fp32" / "results" / "cse__same-name" / ("a" * 40) / "STS13.json"
    found = json.loads(path.read_text())["scores"]["test"][0]
    ours = score_sts(far.encoder, "STS13", data, check=False)
    assert 100 * found["spearman"] == pytest.approx(ours.scores["STS13"].all.spearman, abs=1e-3)
