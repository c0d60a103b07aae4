import numpy as np
import pytest

from cse.evaluation import results, scoring
from cse.evaluation.comparison import AVERAGE, Scored, compare, compare_all
from tests.evaluation.helpers import score_sts
from tests.refusals import refuses


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
