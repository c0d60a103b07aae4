"""The command line on real checkpoints, as small as they can be."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import cse.evaluation
from cse import Encoder, STSEvaluator, cli, evaluate
from cse.cli import main
from cse.encoder.checkpoint.identity import model_hash
from cse.evaluation.loading import load_model
from cse.evaluation.recognize import own_rows, recognize
from cse.evaluation.results import default_out
from eval import cli as checkout
from tests.evaluation.helpers import write_beir
from tests.models import save_embedder, save_tiny
from tests.refusals import refuses

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A Hugging Face folder: BERT of two thin layers, spelling every word."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("plain")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    save_tiny("bert", folder, folder, hidden_size=32, intermediate_size=64, max_position_embeddings=64)
    return folder


@pytest.fixture(scope="module")
def transformer(plain, tmp_path_factory):
    """The same as a SentenceTransformer."""
    return Path(save_embedder(str(plain), tmp_path_factory.mktemp("st"), max_length=64))


def prompted(folder, name, default=None):
    shutil.copytree(folder, name)
    (name / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"sts": "same : "}, "default_prompt_name": default, "similarity_fn_name": "cosine"})
    )
    return name


def test_command_line_evaluator_and_file_agree_and_python_m_eval_is_cse_eval(plain, tmp_path, capsys):
    arguments = [str(plain), "--tasks", "sts-mini-dev"]
    assert checkout.main([*arguments, "--out", str(tmp_path / "one.json")]) == 0
    assert main(["eval", "score", *arguments, "--out", str(tmp_path / "two.json")]) == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    score = two["tasks"]["sts-mini-dev"]["all"]["spearman"]
    assert one["average"] == two["average"]
    assert STSEvaluator("sts-mini-dev")(load_model(str(plain)).encoder) == {"dev": score, "sts-mini-dev": score}
    assert two["model"]["sha256"] == model_hash(plain)
    assert f"{score:.2f}" in capsys.readouterr().out
    assert checkout.main(["reproduce", "simcse-unsup", "--seeds", "0"]) == 2
    assert capsys.readouterr().err.startswith("cse: --seeds is 0")


def test_without_data_the_shipped_pairs_are_scored(plain, tmp_path, monkeypatch, capsys):
    out = tmp_path / "r.json"
    assert main(["eval", str(plain), "--out", str(out)]) == 0
    before = out.read_bytes()
    assert json.loads(before)["average"]["requested"] == "sts-mini"
    for options in (["--data", str(tmp_path)], []):  # a folder without rows stands for all of STS
        capsys.readouterr()
        assert main(["eval", str(plain), "--out", str(out), *options]) == 1
        assert "no average: 7 of the requested tasks have no score" in capsys.readouterr().out
        assert out.read_bytes() == before  # scores are never replaced by none
        monkeypatch.setenv("CSE_DATA", str(tmp_path))


def test_a_folder_is_scored_alike_plain_and_as_a_sentence_transformer(plain, transformer):
    evaluator = STSEvaluator("sts-mini-dev", precision="fp32")
    from sentence_transformers import SentenceTransformer

    ours, folder = (evaluator(load_model(str(path)).encoder)["dev"] for path in (plain, transformer))
    assert ours == folder
    assert evaluator(SentenceTransformer(str(transformer)))["dev"] == pytest.approx(ours, abs=0.01)


def test_a_default_prompt_is_applied_and_recorded(transformer, tmp_path):
    model = load_model(str(prompted(transformer, tmp_path / "p", default="sts")))
    assert (model.prompt_name, model.prompt, model.loader) == ("sts", "same : ", "cse")
    bare = load_model(str(transformer))
    assert (bare.prompt, bare.loader) == (None, "cse")
    np.testing.assert_allclose(model.encoder.encode(["a b"]), bare.encoder.encode(["same : a b"]), atol=1e-5)


def test_prompts_without_a_default_are_for_mteb_only(transformer, tmp_path):
    folder = str(prompted(transformer, tmp_path / "p"))
    assert load_model(folder).loader == "cse"
    assert load_model(folder, use_prompts=True).loader == "sentence-transformers"


def test_hash_is_of_what_vectors_depend_on(plain, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(plain, copy)
    (copy / "results.json").write_text("{}")
    (copy / "README.md").write_text("x")
    assert model_hash(copy) == model_hash(plain)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_hash(copy) != model_hash(plain)


def test_compare_scores_with_a_prompt(transformer, tmp_path, capsys):
    """Its score is that of `cse eval --prompt`, and a prompt of neither is an error."""
    folder, out = str(prompted(transformer, tmp_path / "p")), tmp_path / "c.json"
    line = ["eval", "compare", folder, folder, "--tasks", "sts-mini-dev", "--out", str(out)]
    assert main([*line, "--prompt", "sts"]) == 0
    wanted = [evaluate(folder, "sts-mini-dev", prompt=name).results["average"]["value"] for name in ("sts", None)]
    assert wanted[0] != wanted[1]
    assert f'"a": {wanted[0]}' in out.read_text()
    assert main([*line, "--prompt", "nonesuch"]) == 2
    assert main(line) == 0
    assert "verdict: no difference shown" in capsys.readouterr().out


def test_results_go_into_the_run(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "last").mkdir()
    assert default_out(str(tmp_path / "best"), "sts") is None
    (tmp_path / "metrics.jsonl").touch()
    assert default_out(str(tmp_path / "best"), "sts") == tmp_path / "results.json"
    assert default_out(str(tmp_path / "best"), "sts-mini") == tmp_path / "results-sts-mini.json"
    assert default_out(str(tmp_path / "last"), "sts,STSB-dev") == tmp_path / "results-last-sts-STSB-dev.json"
    assert default_out("some/model", "sts") is None


@pytest.mark.slow
def test_all_minilm_gives_86_7_on_stsb_dev(real_sts, all_minilm):
    """The published wheel of all-MiniLM-L6-v2, whose score is known."""
    scores = {}
    for precision in ("fp32", "bf16"):
        evaluator = STSEvaluator("STSB-dev", str(real_sts), precision)
        scores[precision] = evaluator(load_model(all_minilm).encoder)["dev"]
    assert scores["fp32"] == pytest.approx(86.7, abs=0.05)
    assert scores["bf16"] == pytest.approx(scores["fp32"], abs=0.05)


SAID = ["a cat", "the cat sat", "red moon", "a dog", "dogs run", "blue sky", "old house", "new bread"]
ROWS = [(SAID[i % 8], SAID[(i * 3 + 1) % 8] + f" {i}") for i in range(24)]
FILES = {
    "graded": ("sentence1\tsentence2\tscore", [(*row, i % 5) for i, row in enumerate(ROWS)]),
    "judged": ("question1\tquestion2\tlabel", [(*row, i % 2) for i, row in enumerate(ROWS)]),
    "triplets": ("anchor\tpositive\tnegative", [(*row, SAID[(i + 5) % 8] + f" x{i}") for i, row in enumerate(ROWS)]),
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
