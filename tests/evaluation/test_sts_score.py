"""STS scores by hand, and those of the field's own engine on a synthetic benchmark, equal to 1e-9 in every number."""

import json

import numpy as np
import pytest

from cse import STSEvaluator, UserError
from cse.evaluation import results, scoring
from cse.evaluation.encoding import cosine
from cse.evaluation.evaluators import sts_rows
from cse.evaluation.evaluators.sts import score_all, task_score
from cse.evaluation.evaluators.sts_rows import Pairs
from tests.cases import ORACLES, files
from tests.evaluation.helpers import GRADED as ROWS
from tests.evaluation.helpers import score_pairs, score_sts


def pairs(n, seed=0, prefix="t"):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, n, size=(2, n))
    first, second = ([f"{prefix}{i}" for i in row] for row in ids)
    return Pairs(tuple(first), tuple(second), rng.integers(0, 6, size=n).astype(float))


def embed(texts):
    return np.stack([np.random.default_rng(int(t[1:])).normal(size=7) for t in texts])


def test_by_pencil():
    # Cosines 1, 0, -1 against golds 5, 1, 2: ranks 3 2 1 against 3 1 2, so rho = 1 - 6 * 2 / (3 * 8) = 0.5.
    vectors = {"x": [1, 0], "same": [2, 0], "right": [0, 1], "back": [-1, 0]}
    p = Pairs(("x", "x", "x"), ("same", "right", "back"), np.array([5.0, 1.0, 2.0]))
    found = score_pairs({"s": p}, lambda texts: np.array([vectors[t] for t in texts], dtype=float))
    assert found.all.spearman == pytest.approx(50)
    assert found.all.pearson == pytest.approx(100 * 9 / np.sqrt(2 * 78))  # x = 1, 0, -1; 3 y = 7, -5, -2
    np.testing.assert_allclose(found.cosine, [1, 0, -1])


def test_every_sentence_is_embedded_once():
    seen = []

    def spy(texts):
        seen.append(texts)
        return embed(texts)

    tasks = {"one": {"s": pairs(20, 1)}, "two": {"s": pairs(20, 2), "r": pairs(9, 3)}}
    score_all(tasks, spy)
    assert len(seen) == 1
    assert len(set(seen[0])) == len(seen[0])
    assert set(seen[0]) == {t for subs in tasks.values() for p in subs.values() for t in (*p.first, *p.second)}


def test_zero_vector_scores_zero():
    assert cosine(np.array([[0.0, 0.0], [1.0, 2.0]]), [0, 1], [1, 1]).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("dim", [1, 15, 16, 24, 50, 384])
def test_cosine_for_any_width(dim):
    x = np.random.default_rng(dim).normal(size=(6, dim)).astype(np.float32)
    y = x.astype(np.float64)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    np.testing.assert_allclose(cosine(x, [0, 1, 2], [3, 4, 5], rows=2), (y[:3] * y[3:]).sum(1), atol=1e-14)


def test_nan_from_the_model_is_an_error():
    with pytest.raises(UserError, match=r"nan or infinity for 1 of .*'t3'"):
        score_pairs(
            {"s": pairs(30)}, lambda texts: np.array([[np.nan if t == "t3" else 1.0, float(t[1:])] for t in texts])
        )


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


NAMES = {"STSBenchmark": "STSB", "SICKRelatedness": "SICKR"}


def embedder(vectors):
    def embed(texts):
        rows = [[vectors[int(w[1:])] * (1 + 0.1 * k) for k, w in enumerate(text.split())] for text in texts]
        return np.stack([np.mean(row, axis=0) for row in rows])

    return embed


@pytest.fixture(scope="module", params=files("senteval_sts*.json"))
def case(request):
    """The engine's scores, the folder of the texts, and how they are embedded."""
    end = request.param.removeprefix("senteval_sts").removesuffix(".json")
    vectors = np.load(ORACLES / f"senteval_word_vectors{end}.npy")
    scores = json.loads((ORACLES / request.param).read_text())
    return scores, ORACLES / f"senteval_data{end}", embedder(vectors)


def check(ours, theirs):
    assert ours.spearman / 100 == pytest.approx(theirs["spearman"], abs=1e-9)
    assert ours.pearson / 100 == pytest.approx(theirs["pearson"], abs=1e-9)


def test_years_equal_the_engine(case):
    reference, folder, embed = case
    names = [name for name in reference if name not in NAMES]
    data = {name: sts_rows.load(sts_rows.tasks()[name], str(folder), check=False) for name in names}
    scores = score_all({name: item.subsets for name, item in data.items()}, embed).tasks
    for name in names:
        assert data[name].source.layout == "senteval"
        assert set(scores[name].subsets) == set(reference[name]) - {"all"}
        for subset, found in scores[name].subsets.items():
            check(found, reference[name][subset])
            assert scores[name].sizes[subset] == reference[name][subset]["n"]  # blank golds left out
        for aggregation in ("all", "mean", "wmean"):
            wanted = {m: reference[name]["all"][m][aggregation] for m in ("spearman", "pearson")}
            check(getattr(scores[name], aggregation), wanted)


@pytest.mark.parametrize("theirs", NAMES)
def test_benchmarks_equal_the_engine(case, theirs):
    (reference, folder, embed), splits = case, ("train", "dev", "test")
    names = [f"{NAMES[theirs]}-{split}" for split in splits]
    data = [sts_rows.load(sts_rows.resolve(name)[0], str(folder), check=False) for name in names]
    scores = score_all({d.task.split: d.subsets for d in data}, embed).tasks
    for split in splits:
        check(scores[split].all, reference[theirs][split])
        assert len(scores[split].gold) == reference[theirs][split]["n"]
    # The engine also pools a benchmark's splits as it pools a year's subsets.
    pooled = task_score({s: scores[s].cosine for s in splits}, {s: scores[s].gold for s in splits})
    for aggregation in ("all", "mean", "wmean"):
        wanted = {m: reference[theirs]["all"][m][aggregation] for m in ("spearman", "pearson")}
        check(getattr(pooled, aggregation), wanted)
