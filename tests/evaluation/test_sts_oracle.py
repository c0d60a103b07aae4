"""The field's own engine, on a synthetic benchmark in its own folder layout: equal to 1e-9 in every number."""

import json

import numpy as np
import pytest

from cse.evaluation.evaluators import sts_rows
from cse.evaluation.evaluators.sts import score_all, task_score
from tests.cases import ORACLES, files

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
