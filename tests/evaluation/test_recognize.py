"""What a path is taken for, and `cse eval --data` on it."""

import json

import pytest

import cse.evaluation
from cse import Encoder, cli
from cse.evaluation.recognize import own_rows, recognize
from tests.evaluation.helpers import write_beir
from tests.refusals import refuses

WORDS = ["a cat", "the cat sat", "red moon", "a dog", "dogs run", "blue sky", "old house", "new bread"]
ROWS = [(WORDS[i % 8], WORDS[(i * 3 + 1) % 8] + f" {i}") for i in range(24)]
FILES = {
    "graded": ("sentence1\tsentence2\tscore", [(*row, i % 5) for i, row in enumerate(ROWS)]),
    "judged": ("question1\tquestion2\tlabel", [(*row, i % 2) for i, row in enumerate(ROWS)]),
    "triplets": ("anchor\tpositive\tnegative", [(*row, WORDS[(i + 5) % 8] + f" x{i}") for i, row in enumerate(ROWS)]),
    "pairs": ("question\tanswer", ROWS),
    "labels": ("text\tlabel", [(f"{b} {i}", "ab"[i % 2]) for i, (_, b) in enumerate(ROWS)]),
}
FITS = {
    ("graded", None): "Similarity",
    ("judged", None): "PairClassification",
    ("judged", "similarity"): "Similarity",
    ("triplets", None): "Triplets",
    ("triplets", "paraphrases"): "Paraphrases",
    ("pairs", None): "Paraphrases",
    ("labels", None): "Labels",
    ("labels", "clustering"): "Clustering",
}


@pytest.fixture
def folder(tmp_path):
    for name, (header, rows) in FILES.items():
        lines = [header, *("\t".join(map(str, row)) for row in rows)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    write_beir(tmp_path / "beir", {"q": "a cat"}, {"d": "cats", "e": "dogs"}, {"q": {"d": 1}}, split="dev")
    (tmp_path / "nano" / "NanoNQ").mkdir(parents=True)
    write_beir(tmp_path / "nano" / "NanoNQ", {"q": "a cat"}, {"d": "cats"}, {"q": {"d": 1}})
    (tmp_path / "sts" / "STSB").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("name", "kind"), FITS)
def test_files_by_their_columns(folder, name, kind):
    found = recognize(str(folder / f"{name}.tsv"), kind)
    assert found.class_path == f"cse.evaluation.{FITS[name, kind]}"
    evaluator = found.evaluator("fp32")
    assert type(evaluator) is getattr(cse.evaluation, FITS[name, kind])
    assert (evaluator.name, evaluator.precision) == (name, "fp32")
    assert FITS[name, kind] in found.said
    assert "\n" not in found.said


def test_folders(folder):
    beir, nano = recognize(str(folder / "beir")), recognize(str(folder / "nano"))
    assert (beir.class_path, beir.options["split"]) == ("cse.evaluation.Retrieval", "dev")
    assert nano.class_path == "cse.evaluation.NanoBEIR"
    assert recognize(str(folder / "sts")) is None
    assert recognize(str(folder / "beir"), "sts") is None


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("graded.tsv", "triplets", "--as triplets needs other columns"),
        ("labels.tsv", "similarity", "--as similarity needs other columns"),
        ("none.tsv", None, "there is no such file"),
        ("org/name", None, "say what a Hub id holds: --as retrieval"),
    ],
)
def test_what_does_not_fit(folder, monkeypatch, name, kind, message):
    monkeypatch.chdir(folder)
    refuses(message, recognize, name, kind)
    (folder / "odd.tsv").write_text("one\ttwo\na\tb\n")
    refuses("has the columns one, two: no evaluator fits", recognize, "odd.tsv")


def test_eval_prints_what_it_understood_and_writes_results(folder, tiny_bert, capsys):
    Encoder(tiny_bert, pooler="mean").save(folder / "model")
    out = folder / "out" / "results.json"
    for name in ("triplets.tsv", "beir"):
        assert cli.main(["eval", str(folder / "model"), "--data", str(folder / name), "--out", str(out)]) == 0
        said = capsys.readouterr().out
        kind = "Triplets" if name == "triplets.tsv" else "Retrieval"
        assert f"scored by {kind} (--as retrieval|" in said
        assert list(json.loads(out.read_text())["tasks"]) == [name.removesuffix(".tsv")]
    assert "ndcg@10" in said


def test_the_dev_rows_of_a_search_are_options_of_a_recipe(folder):
    assert own_rows("--dev", "sts-mini-dev") is None
    refuses("a folder without rows of its own", own_rows, "--dev", str(folder / "sts"))
    name, data = own_rows("--dev", str(folder / "triplets.tsv")).overrides()
    assert name == "--evaluator=cse.evaluation.Triplets"
    path = str(folder / "triplets.tsv")
    assert json.loads(data.partition("=")[2]) == {"class_path": "cse.data.Triplets", "init_args": {"path": path}}
    assert own_rows("--dev", str(folder / "beir")).overrides() == [
        "--evaluator=cse.evaluation.Retrieval",
        f"--evaluator.data={folder / 'beir'}",
        "--evaluator.split=dev",
    ]
