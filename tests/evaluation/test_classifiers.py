from types import SimpleNamespace

import numpy as np
import pytest

from cse.evaluation.evaluators.classifiers import few_shot, nearest_mean
from tests.cases import cases, load


@pytest.fixture
def rows():
    """Vectors that tell four labels apart, not always."""
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b", "c", "d"], 120)
    centers = dict(zip("abcd", rng.normal(size=(4, 6)), strict=True))
    x = np.stack([centers[label] for label in y]) + rng.normal(size=(120, 6))
    return (x[:80], y[:80]), (x[80:], y[80:])


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("name", cases("block", has="accuracy_cosine"))
def test_nearest_mean_in_every_case_of_the_oracle(name):
    about, data = load("block", name)
    data = {key: np.asarray(array) for key, array in data.items()}
    found = nearest_mean(data["train"], data["train_label"].astype(str), data["test"])
    assert found.tolist() == data["predicted_cosine"].astype(str).tolist()
    assert 100 * np.mean(found == data["test_label"].astype(str)) == pytest.approx(about["accuracy_cosine"])


def test_few_shot_equals_mteb(rows):
    task = pytest.importorskip("mteb.abstasks.classification").AbsTaskClassification
    from datasets import Dataset
    from sklearn.linear_model import LogisticRegression

    (x, y), (new, truth) = rows
    table = Dataset.from_dict({"label": y.tolist()})
    settings = SimpleNamespace(seed=42, label_column_name="label", samples_per_label=5)
    accuracy, order = [], None
    for repetition in range(10):
        _, order, drawn = task._undersample_data(settings, table, repetition, order)
        model = LogisticRegression(max_iter=100, random_state=42).fit(x[drawn], y[drawn])
        accuracy.append((model.predict(new) == truth).mean())
    found = few_shot(5, 10, 42, x, y, new, truth)
    assert found.shape == (40,)
    assert found.mean() == pytest.approx(np.mean(accuracy), abs=1e-9)
    assert len(set(accuracy)) > 1  # the draws differ
