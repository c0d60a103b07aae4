"""Each statistic on resamples, against scipy and scikit-learn on the rows that were drawn."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from cse.evaluation import geometry, results, scoring, statistic
from cse.evaluation.comparison import AVERAGE, Scored, compare, compare_all
from cse.evaluation.evaluators.sts_rows import Pairs
from cse.evaluation.statistic import STATISTICS, bootstrap, holm, interval, p_value
from tests.cases import cases, load
from tests.evaluation.helpers import score_pairs, score_sts
from tests.refusals import refuses

RNG = np.random.default_rng(4)
N = 40
SCORE = np.round(RNG.normal(size=N), 1)  # with ties
GOLD = RNG.integers(0, 6, size=N) / 1.0
LABEL = RNG.integers(0, 2, size=N) / 1.0
PREDICTED = RNG.integers(0, 2, size=N) / 1.0
CLUSTER, CLASS = RNG.integers(0, 4, size=(N, 3)) / 1.0, RNG.integers(0, 3, size=N) / 1.0
TIMES = RNG.integers(0, 3, size=(N, 3)) / 1.0  # how often a clustering drew each unit
COUNTS = np.stack([np.ones(N), *(np.bincount(RNG.integers(0, N, N), minlength=N) for _ in range(20))]).astype(float)

CASES = {
    "mean": ((SCORE,), np.mean),
    "spearman": ((SCORE, GOLD), lambda x, y: stats.spearmanr(x, y)[0]),
    "pearson": ((SCORE, GOLD), lambda x, y: stats.pearsonr(x, y)[0]),
    "average_precision": ((SCORE, LABEL), lambda x, y: metrics.average_precision_score(y, x)),
    "f1": ((PREDICTED, LABEL), lambda x, y: metrics.f1_score(y, x)),
    "v_measure": (
        (CLUSTER, CLASS, TIMES),
        lambda x, y, times: np.mean([_v(x[:, r], times[:, r], y) for r in range(3)]),
    ),
}


def _v(cluster, times, label):
    drawn = np.repeat(np.arange(len(label)), times.astype(int))
    return metrics.v_measure_score(label[drawn], cluster[drawn])


def test_every_statistic_has_a_case():
    assert set(CASES) == set(STATISTICS)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_library_on_every_resample(name):
    arrays, slow = CASES[name]
    other = (arrays[0][::-1].copy(), *arrays[1:])
    found = STATISTICS[name]([arrays, other])(COUNTS)
    assert found.shape == (2, len(COUNTS))
    for model, row in zip((arrays, other), found, strict=True):
        for counts, value in zip(COUNTS.astype(int), row, strict=True):
            drawn = np.repeat(np.arange(N), counts)
            assert value == pytest.approx(100 * slow(*(column[drawn] for column in model)), abs=1e-9)


def test_one_cluster_and_one_class_agree():
    ones, once = np.ones((5, 1)), np.ones((5, 1))
    assert STATISTICS["v_measure"]([(ones, ones[:, 0], once)])(np.ones((1, 5)))[0, 0] == 100
    assert STATISTICS["v_measure"]([(ones, np.arange(5.0), once)])(np.ones((1, 5)))[0, 0] == 0


def data(n, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 11, size=n) / 2
    return np.round(gold + noise * rng.normal(size=n), 1), gold


def test_chunks_do_not_matter(monkeypatch):
    cosine, gold = data(50)
    whole = bootstrap("spearman", [(cosine, gold)], "T", 101)
    monkeypatch.setattr(statistic, "CELLS", 50 * 7)
    chunked = bootstrap("spearman", [(cosine, gold)], "T", 101)
    assert whole.shape == chunked.shape == (1, 101)
    # The draws of numpy's generator do not depend on how many are asked for at once.
    np.testing.assert_allclose(whole, chunked)


def test_interval_is_about_fishers():
    # For normal data of correlation r, arctanh of Spearman has a standard error of about sqrt((1 + r^2 / 2) / (n - 3)).
    rng = np.random.default_rng(3)
    n, r = 1500, 0.7
    x = rng.normal(size=n)
    y = r * x + np.sqrt(1 - r * r) * rng.normal(size=n)
    low, high = interval(bootstrap("spearman", [(x, y)], "T")[0])
    rho = stats.spearmanr(x, y)[0]
    spread = 1.96 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    assert low == pytest.approx(100 * np.tanh(np.arctanh(rho) - spread), abs=0.6)
    assert high == pytest.approx(100 * np.tanh(np.arctanh(rho) + spread), abs=0.6)


def test_p_value_by_hand():
    assert p_value(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(2 / 10)
    assert p_value(np.array([-1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(4 / 10)
    assert p_value(np.zeros(9)) == 1.0


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 -> raised to 0.06, 0.5 * 1.
    adjusted = holm({"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})


class Leaky:
    """An encoder that knows the gold score, up to noise: pair i's second text is turned by an angle of 5 - gold."""

    def __init__(self, noise, seed=0):
        self.noise, self.seed = noise, seed

    def encode(self, texts, *, batch_size=64):
        rng = np.random.default_rng(self.seed)
        noise = dict(zip(sorted(texts), rng.normal(size=len(texts)), strict=True))
        angles = [float(t.split()[-1]) * 0.3 + self.noise * noise[t] if t.startswith("b") else 0.0 for t in texts]
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rows(n, seed):
    gold = np.random.default_rng(seed).integers(0, 6, size=n)
    return [(int(g), f"a {i}", f"b {i} {5 - g}") for i, g in enumerate(gold)]


@pytest.fixture
def scored(write_task, tmp_path):
    write_task(rows(200, 1), "STSB")
    data = str(write_task(rows(150, 2), "SICKR"))

    def make(name, encoder, tasks="sts-dev"):
        found = score_sts(encoder, tasks, data, check=False)
        out = tmp_path / f"{name}.json"
        results.write(found.results(name, 50), out, scoring.arrays(found.findings))
        return Scored.read(out)

    return make


def test_a_better_model_is_found_and_the_other_way_round_is_the_mirror_image(scored):
    noisy, good = scored("noisy", Leaky(1.0)), scored("good", Leaky(0.2))
    found, mirrored = compare(noisy, good), compare(good, noisy)
    assert set(found) == {"STSB-dev", "SICKR-dev", AVERAGE}
    for task, d in found.items():
        assert d.verdict == "B is better"
        assert 0 < d.interval[0] < d.b - d.a < d.interval[1]
        assert d.p <= d.adjusted <= 1
        assert mirrored[task].interval == pytest.approx([-x for x in d.interval[::-1]])
        assert mirrored[task].p == d.p


def test_no_average_over_fewer_tasks(scored):
    found = compare(scored("a", Leaky(0.5)), scored("b", Leaky(0.5, 3), tasks="STSB-dev"))
    assert list(found) == ["STSB-dev"]


def test_other_rows_are_refused(scored, write_task):
    a = scored("a", Leaky(0.5))
    write_task(rows(200, 9), "STSB")
    refuses("STSB-dev was scored on different rows", compare, a, scored("b", Leaky(0.5)))
    assert list(compare_all([a, a, scored("b", Leaky(0.5))], 50)[0, 2]) == ["SICKR-dev"]


def test_similarities_must_lie_beside(scored, tmp_path):
    scored("a", Leaky(0.5))
    (tmp_path / "a.npz").unlink()
    refuses(r"a\.npz cannot be read", Scored.read, tmp_path / "a.json")


def test_any_measure_is_compared_by_name(scored):
    a, b = scored("a", Leaky(1.0)), scored("b", Leaky(0.2))
    found = compare(a, b, measures="all")
    assert list(found) == [f"{task}/{name}" for task in ("STSB-dev", "SICKR-dev") for name in ("spearman", "pearson")]
    assert {d.verdict for d in found.values()} == {"B is better"}
    assert list(compare(a, b, measures="pearson")) == ["STSB-dev/pearson", "SICKR-dev/pearson"]
    refuses("no measure 'ndcg' in common", compare, a, b, measures="ndcg")


def unit(n=30, d=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_spectrum_and_rank_of_known_spaces():
    axes = np.concatenate([np.eye(4), -np.eye(4)])  # variance the same along each of four directions
    np.testing.assert_allclose(geometry.spectrum(axes), np.full(4, 0.25))
    assert geometry.effective_rank(geometry.spectrum(axes)) == pytest.approx(4)
    line = np.zeros((8, 4))
    line[:, 0] = [1, -1] * 4
    assert geometry.effective_rank(geometry.spectrum(line)) == pytest.approx(1)


def test_measure_against_direct_formulas():
    x = unit()
    names = [f"t{i}" for i in range(30)]
    p = Pairs(tuple(names[:15]), tuple(names[15:]), np.r_[np.full(5, 4.5), np.arange(10) / 5])
    row = {name: i for i, name in enumerate(names)}
    found = geometry.measure(
        3 * x, row, {"T": {"s": p}}, {"T": score_pairs({"s": p}, lambda t: x[[row[i] for i in t]]).cosine}
    )
    assert found["alignment"] == pytest.approx(np.square(x[:5] - x[15:20]).sum(1).mean())
    distances = [np.square(a - b).sum() for a, b in combinations(x, 2)]
    assert found["uniformity"] == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(distances)))))
    assert found["dim"] == 6
    assert found["mean_cosine"] == pytest.approx(np.mean([a @ b for a, b in combinations(x, 2)]))


def test_worst_pairs_by_hand():
    p = Pairs(("a", "b", "c"), ("x", "y", "z"), np.array([1.0, 2.0, 3.0]))
    vectors = {"a": [1, 0], "x": [1, 0], "b": [1, 0], "y": [0, 1], "c": [1, 0], "z": [-1, 0]}
    scored = score_pairs({"s": p}, lambda texts: np.array([vectors[t] for t in texts], dtype=float))
    first = geometry.worst({"s": p}, scored.cosine, scored.gold, keep=1)[0]
    # Ranks by cosine 3 2 1, by gold 1 2 3: the first pair is too similar by two ranks of three.
    gap = pytest.approx(2 / 3, abs=1e-4)
    assert first == {"sentence1": "a", "sentence2": "x", "gold": 1.0, "cosine": 1.0, "gap": gap}


@pytest.mark.parametrize("name", cases("lexical", has="partial_spearman"))
def test_traps_in_every_case_of_the_oracle(name):
    about, data = load("lexical", name)
    pairs = [Pairs(tuple(data["first"].tolist()), tuple(data["second"].tolist()), data["gold"].numpy())]
    cosine = data["cosine"].numpy()
    found = [geometry.jaccard(a, b) for a, b in zip(pairs[0].first, pairs[0].second, strict=True)]
    assert found == pytest.approx(data["jaccard"].tolist())
    found = geometry.traps(pairs, cosine)
    assert found["partial"] == pytest.approx(about["partial_spearman"])
    for kind in ("trap", "reverse"):
        wanted = about[f"{kind}_cosine"]
        assert found[kind]["n"] == about[f"{kind}_n"]
        assert found[kind]["cosine"] == (None if wanted is None else pytest.approx(wanted))
    by_quartile = geometry.overlap(pairs, cosine)
    assert [q["n"] for q in by_quartile] == about["n_by_quartile"]
    assert [q["spearman"] for q in by_quartile] == pytest.approx(about["spearman_by_quartile"])


def test_no_partial_correlation_where_gold_is_overlap():
    shared = [" ".join("abcdefgh"[:n]) for n in range(1, 9)]
    pairs = [Pairs(tuple(shared), ("a b c d e f g h",) * 8, np.arange(1, 9) / 8)]
    assert geometry.traps(pairs, np.random.default_rng(0).normal(size=8))["partial"] is None
