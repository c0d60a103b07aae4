"""None"""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from cse.cli import main
from cse.evaluation.evaluators import transfer
from cse.evaluation.evaluators.classifiers import few_shot, nearest_mean
from cse.evaluation.evaluators.sts_rows import Missing
from cse.evaluation.evaluators.transfer import Labeled, Row
from cse.evaluation.scoring import describe
from tests.cases import ORACLES, OWN, cases, files, load, settings
from tests.refusals import refuses


def rows(n, seed, classes=("0", "1")):
    rng = np.random.default_rng(seed)
    return [Row(str(rng.choice(classes)), (f"s{seed} {i} {'w ' * (i % 4)}".strip(),)) for i in range(n)]


def telling(labels, noise):
    """Vectors that show the class, up to noise."""

    def embed(texts):
        rng = np.random.default_rng(0)
        return np.stack([np.r_[float(labels[t]), 1.0] + noise * rng.normal(size=2) for t in texts])

    return embed


def task(protocol, splits, name="MR"):
    return Labeled(name, protocol, splits, "here")


def test_nested_folds_against_scikit_learns_own_search():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score

    data = rows(150, 3)
    ordered = sorted(data, key=lambda r: (len(r.texts[0].split()), r.label))
    place = {r.texts[0]: i for i, r in enumerate(ordered)}
    x = telling({r.texts[0]: r.label for r in data}, 0.7)(list(place))
    y = np.array([r.label for r in ordered])
    folds = StratifiedKFold(5, shuffle=True, random_state=1111)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": transfer.GRID}, cv=folds)
    wanted = 100 * cross_val_score(search, x, y, cv=folds).mean()
    found = transfer.score(task("folds", {"all": data}), lambda texts: x[[place[t] for t in texts]], folds=5)
    assert found.test == pytest.approx(wanted)


def test_pairs_have_sentevals_features():
    vectors = {"a": [1.0, 2.0], "b": [3.0, -1.0]}
    x, y = transfer.features([Row("1", ("a", "b"))], "pair", lambda texts: np.array([vectors[t] for t in texts]))
    np.testing.assert_array_equal(x, [[2, 3, 3, -2]])
    assert y.tolist() == ["1"]


def test_split_and_test_protocols():
    splits = {"train": rows(80, 4), "dev": rows(30, 5), "test": rows(40, 6)}
    labels = {r.texts[0]: r.label for part in splits.values() for r in part}
    assert transfer.score(task("split", splits, "SST2"), telling(labels, 0.01)).test == 100
    splits.pop("dev")
    found = transfer.score(task("test", splits, "TREC"), telling(labels, 0.01), folds=3)
    assert (found.test, found.f1, found.n) == (100, None, 40)
    pairs = {name: [Row(row.label, (row.texts[0], "x")) for row in part] for name, part in splits.items()}
    found = transfer.score(task("test", pairs, "MRPC"), telling(labels | {"x": "0"}, 0.01), folds=3)
    assert (found.test, found.f1, found.n) == (100, 100, 40)
    assert transfer._f1(np.array(list("11100")), np.array(list("10101"))) == pytest.approx(100 * 2 * 2 / (3 + 3))


def test_names():
    assert transfer.split_names("STS12, mr,TREC,sts-dev") == ("STS12,sts-dev", ["MR", "TREC"])
    assert transfer.split_names("transfer")[1] == ["MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC"]


def test_both_layouts_hold_the_same_rows(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs" / "downstream"
    for name in ("MR", "TREC", "MRPC", "SST/binary"):
        (theirs / name).mkdir(parents=True)
    ours.mkdir()
    (ours / "MR.tsv").write_text("label\tsentence\n1\tgood\n0\tb\xe4d\n", encoding="utf-8")
    (theirs / "MR" / "rt-polarity.pos").write_text("good\n")
    (theirs / "MR" / "rt-polarity.neg").write_bytes(b"b\xe4d\n")
    for split, file in (("train", "train_5500"), ("test", "TREC_10")):
        (ours / f"TREC_{split}.tsv").write_text("label\tsentence\nNUM\tHow far ?\n")
        (theirs / "TREC" / f"{file}.label").write_text("NUM:dist How far ?\n")
        (ours / f"MRPC_{split}.tsv").write_text('label\tsentence1\tsentence2\n1\tHe said "x\ty z\n')
        (theirs / "MRPC" / f"msr_paraphrase_{split}.txt").write_text(
            'Quality\t#1\t#2\ta\tb\n1\t7\t8\tHe said "x\ty z\n'
        )
    for split in ("train", "dev", "test"):
        (ours / f"SST2_{split}.tsv").write_text("label\tsentence\n1\tfine\n")
        (theirs / "SST" / "binary" / f"sentiment-{split}").write_text("fine\t1\n")
    for name in ("MR", "TREC", "MRPC", "SST2"):
        a, b = (transfer.load(name, str(p), check=False) for p in (ours, tmp_path / "theirs"))
        assert a.splits == b.splits


def test_other_numbers_of_rows_are_refused(tmp_path):
    (tmp_path / "SUBJ.tsv").write_text("label\tsentence\n" + "1\ta\n" * 20)
    refuses(r"SUBJ: all in .* has 20 rows where 10000 are known", transfer.load, "SUBJ", str(tmp_path))


def test_missing_tasks_leave_no_average(tmp_path, hash_encoder):
    evaluator = transfer.Transfer(["MPQA"], str(tmp_path))
    assert "MPQA.tsv" in evaluator.missing["MPQA"]
    about = {"model": {}, "precision": "fp32", "requested": "", "transfer": evaluator.missing}
    found = describe([evaluator.answer(hash_encoder())], **about)
    assert found["transfer_average"] == {"accuracy": None, "missing": evaluator.missing}
    with pytest.raises(Missing, match="no --data and no CSE_DATA"):
        transfer.load("MR", None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MR", "CR", "TREC", "MRPC"])
def test_real_sets_have_their_known_sizes(real_sts, name):
    assert transfer.load(name, str(real_sts.parent)).where.endswith("transfer")


@pytest.mark.parametrize("length", [1.0, 10.0])  # solved by lbfgs, and by Newton's method
@pytest.mark.parametrize("classes", [2, 3])
def test_a_fit_is_the_optimum_of_each_class_against_the_rest(length, classes):
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(300, 6))
    x *= length / np.linalg.norm(x, axis=1, keepdims=True)
    noisy = x @ rng.normal(size=(6, classes)) / length + rng.normal(size=(300, classes))
    y, c = noisy.argmax(1).astype(str), 0.5
    model = transfer.fit_logistic(x, y, c)
    for label, fit in zip("012", getattr(model, "estimators_", [model]), strict=False):
        target = y == ("1" if classes == 2 else label)
        weight = fit.coef_[0]
        chance = 1 / (1 + np.exp(-(x @ weight + fit.intercept_[0])))
        # of the mean loss and |w|^2 / 2cn, whose gradient scikit-learn brings below 1e-4
        assert np.abs(x.T @ (chance - target) + weight / c).max() / 300 < 1e-4
        assert abs(np.mean(chance - target)) < 1e-4
    assert (model.predict(x) == y).mean() > 1 / classes + 0.2


@pytest.fixture
def labeled_rows():
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


def test_few_shot_equals_mteb(labeled_rows):
    task = pytest.importorskip("mteb.abstasks.classification").AbsTaskClassification
    from datasets import Dataset
    from sklearn.linear_model import LogisticRegression

    (x, y), (new, truth) = labeled_rows
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


OURS = ("SP", "BSO", "DC", "SSP")


def by_words(vectors):
    """A text is the mean of its words' vectors; wN has row N."""

    def embed(texts):
        return np.stack([vectors[[int(word[1:]) for word in text.split()]].mean(0) for text in texts])

    return embed


@pytest.mark.parametrize("file", files("discoeval*.npz"))
def test_every_task_of_the_oracle(file):
    """discoeval_tasks has the tasks of the entry `tasks`, and its texts are in discoeval_data; a suffix is of both."""
    data, case = np.load(ORACLES / file), file.removeprefix("discoeval_").removesuffix(".npz")
    end = case.removeprefix("tasks")
    folder = ORACLES / f"discoeval_data{end}"
    folder = folder if folder.is_dir() else ORACLES / "discoeval_data"
    about = settings(f"discoeval{end}" if (ORACLES / f"discoeval{end}.json").is_file() else "discoeval")
    tasks = about.get(case) or about["tasks"]
    embed = by_words(data["word_vectors"].astype(np.float64))
    names = [name for name in tasks if name.startswith(OURS)]
    assert names
    for name in names:
        task, wanted = transfer.load(name, str(folder)), tasks[name]
        assert {s.replace("dev", "valid"): len(rows) for s, rows in task.splits.items()} == wanted["rows"]
        for split in ("train", "test"):
            x, y = transfer.features(task.splits[split], transfer.specs("discoeval")[name]["features"], embed)
            assert x.shape[1] == wanted["features"]
            for row, label in zip(data[f"{name}_{split}_x"], data[f"{name}_{split}_y"], strict=True):
                nearest = np.abs(x - row).max(1)  # BSO's rows are in another order
                assert nearest.min() < 1e-6
                assert y[nearest.argmin()] == str(label)
        found = transfer.score(task, embed)
        assert (found.test, found.dev) == pytest.approx((wanted["sklearn"]["test"], wanted["sklearn"]["dev"]), abs=0.01)


def test_names_and_missing_rows(tmp_path):
    assert transfer.split_names("discoeval")[1] == list(transfer.specs("discoeval"))
    assert transfer.split_names("spwiki,MR,STSB-dev") == ("STSB-dev", ["SPwiki", "MR"])
    with pytest.raises(Missing, match="SP/wiki"):
        transfer.load("SPwiki", str(tmp_path))
    assert list(transfer.Transfer(["DCchat"], str(tmp_path)).missing) == ["DCchat"]
    (tmp_path / "SSP" / "abs").mkdir(parents=True)
    for file in transfer.SPLITS.values():
        (tmp_path / "SSP" / "abs" / file).write_text("1 without a tab\n")
    refuses(r"train\.txt", transfer.load, "SSPabs", str(tmp_path))


def test_the_command(tiny_bert, tmp_path):
    out = tmp_path / "r.json"
    data = ["--tasks", "BSOwiki,SSPabs", "--data", str(OWN / "discoeval_data")]
    assert main(["eval", tiny_bert, *data, "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads(out.read_text())["transfer"]
    assert list(found) == ["BSOwiki", "SSPabs"]
    assert all(0 <= task["nearest_mean"] <= 100 for task in found.values())
