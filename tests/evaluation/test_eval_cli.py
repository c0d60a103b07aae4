"""The command line on real checkpoints, as small as they can be."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cse import STSEvaluator, evaluate
from cse.cli import main
from cse.encoder.checkpoint.identity import model_hash
from cse.evaluation.loading import load_model
from cse.evaluation.results import default_out
from eval import cli as checkout
from tests.models import save_embedder, save_tiny

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
