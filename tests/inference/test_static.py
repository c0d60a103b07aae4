"""Static vectors: the oracle, pencil, and the way through sentence-transformers and cse."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, StaticEmbedding
from tokenizers import Tokenizer

import cse
from cse import Encoder, UserError, static_checkpoint
from cse.cli import main
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.vectors import unit
from cse.inference.static import fit_table, sortedness, token_vectors
from cse.publish.card import write_card
from cse.publish.stage import stage
from tests.cases import cases, load
from tests.conftest import WORDS
from tests.refusals import refuses

TEXTS = ["the cat sat", "nonsense moon", "", "  ", "nonsense", "the cat sat " * 20, "a dog ran fast"]


def means(table, ids):
    """The unit mean of each text's tokens (-1 fills); zero for a text without tokens."""
    rows = [table[row[row >= 0]] for row in ids]
    return unit(np.stack([row.mean(0) if len(row) else np.zeros(table.shape[1]) for row in rows]))


@pytest.mark.parametrize("name", cases("static", has="sif"))
def test_every_case_of_the_oracle(name):
    about, data = load("static", name)
    data = {key: array.numpy() for key, array in data.items()}
    dimensions = data["token_vectors"].shape[1] if about["pca"] == "auto" else about["pca"]
    table = fit_table(data["token_vectors"], dimensions=dimensions, sif=about["sif"])
    assert table.shape == data["table"].shape
    vectors = means(table, data["ids"])
    assert np.abs(vectors @ vectors.T - data["cosines"]).max() < 1e-5
    assert np.abs(np.linalg.norm(table, axis=1) - np.linalg.norm(data["table"], axis=1)).max() < 1e-5


def test_weights_by_pencil():
    # 1/2, 1/3 and 1/4 sum to 13/12, so the probabilities are 6/13, 4/13 and 3/13; a is 1/13
    table = fit_table(np.ones((3, 1)), dimensions=None, sif=1 / 13)
    assert table[:, 0].tolist() == pytest.approx([1 / 7, 1 / 5, 1 / 4])
    ranked = fit_table(np.ones((3, 1)), dimensions=None, sif=1 / 13, ranks=np.array([2, 0, 1]))
    assert ranked[:, 0].tolist() == pytest.approx([1 / 4, 1 / 7, 1 / 5])


def test_the_order_of_a_vocabulary():
    counts = np.arange(200)[::-1]
    assert sortedness(counts) == pytest.approx(1)
    assert sortedness(counts[::-1]) == pytest.approx(-1)
    assert abs(sortedness(np.random.default_rng(0).permutation(200) + 1)) < 0.2
    assert sortedness(np.eye(200, dtype=int)[0]) is None  # one token occurs


def test_arguments_out_of_range():
    for wrong, message in (({"dimensions": 0}, "is 0"), ({"sif": 0.0}, "sif is 0")):
        refuses(message, fit_table, np.eye(3), **wrong)


def test_the_command(tiny_bert, tmp_path, capsys):
    out, data = tmp_path / "static", tmp_path / "texts.txt"
    arguments = ["static", tiny_bert, "--out", str(out), "--dimensions", "6"]
    assert main(arguments) == 0
    assert "not sorted by frequency" in capsys.readouterr().out  # 16 words say nothing
    data.write_text("moon moon sun\nmoon the\n")
    assert main([*arguments, "--data", str(data)]) == 0  # the old one is replaced
    assert "warning" not in capsys.readouterr().out

    encoder = Encoder.load(tiny_bert)
    ids = encoder.tokenizer.convert_tokens_to_ids(WORDS)
    order = ["moon", *[w for w in WORDS if w in ("the", "sun")]]
    order += [w for w in WORDS if w not in order]
    ranks = np.array([order.index(w) for w in WORDS])
    table = fit_table(token_vectors(encoder, ids), dimensions=6, ranks=ranks)
    at = {word: i for i, word in enumerate(WORDS)}
    texts = ["the cat sat", "sat the cat", "moon nonsense", "nonsense", ""]
    rows = [[at[w] for w in text.split() if w in at] for text in texts]
    want = means(table, np.array([row + [-1] * (3 - len(row)) for row in rows]))
    found = SentenceTransformer(str(out), device="cpu").encode(texts)
    assert np.abs(found - want).max() < 1e-6
    assert not found[3:].any()  # an unknown word, and no word, have no direction


# As a checkpoint
def save_static(tokenizer, folder, *, dense=0, normalize=False, **options):
    """A StaticEmbedding of random vectors, special tokens too, as sentence-transformers saves one; returns both."""
    rust = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    table = torch.randn(max(rust.get_vocab().values()) + 1, 6, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    modules = [StaticEmbedding(rust, embedding_weights=table)]
    modules += [Dense(6, dense)] if dense else []
    modules += [Normalize()] if normalize else []
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save(str(folder), create_model_card=False)
    return model, table


@pytest.fixture(scope="module")
def static(tiny_bert, tmp_path_factory):
    """What `cse static` writes."""
    folder = tmp_path_factory.mktemp("static") / "static"
    static_checkpoint(tiny_bert, folder, device="cpu")
    return folder


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"dense": 4, "normalize": True}, {"truncate_dim": 3}])
def test_vectors_are_those_of_sentence_transformers_also_when_saved_again(tiny_bert, tmp_path, options):
    model, _ = save_static(tiny_bert, tmp_path / "one", prompts={"query": "the dog "}, **options)
    encoder = Encoder.load(str(tmp_path / "one"))
    want = model.encode(TEXTS)
    assert np.abs(encoder.encode(TEXTS) - want).max() < 1e-6
    assert np.abs(encoder.encode(TEXTS, prompt_name="query") - model.encode(TEXTS, prompt_name="query")).max() < 1e-6
    encoder.save(tmp_path / "two")
    assert np.abs(SentenceTransformer(str(tmp_path / "two"), device="cpu").encode(TEXTS) - want).max() < 1e-6
    assert np.array_equal(Encoder.load(str(tmp_path / "two")).encode(TEXTS), encoder.encode(TEXTS))
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_no_text_is_too_long(tiny_bert, tmp_path):
    _, table = save_static(tiny_bert, tmp_path / "one")
    encoder = Encoder.load(str(tmp_path / "one"))
    ids = encoder.tokenizer.convert_tokens_to_ids(["the", *["moon"] * 1999])
    want = table.double()[ids].mean(0).numpy()
    assert np.abs(encoder.encode(["the" + " moon" * 1999])[0] - want).max() < 1e-6


def test_tokens_of_model2vec_may_share_vectors_and_have_weights(tiny_bert, tmp_path):
    model, _ = save_static(tiny_bert, tmp_path / "one")
    rng = np.random.default_rng(0)
    size = model[0].num_embeddings
    table, mapping, weights = rng.normal(size=(5, 3)), rng.integers(0, 5, size), rng.random(size)
    state = {"embeddings": table, "mapping": mapping, "weights": weights}
    save_file({name: torch.tensor(value) for name, value in state.items()}, tmp_path / "one" / "model.safetensors")
    encoder = Encoder.load(str(tmp_path / "one"))
    ids = encoder.tokenizer.convert_tokens_to_ids(["moon", "sun"])
    want = np.mean([weights[i] * table[mapping[i]] for i in ids], axis=0)
    assert np.abs(encoder.encode(["moon sun"])[0] - want).max() < 1e-6


def test_a_tokenizer_that_cuts_texts_still_does(tiny_bert, tmp_path):
    save_static(tiny_bert, tmp_path / "one")
    content = json.loads((tmp_path / "one" / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "one" / "tokenizer.json").write_text(json.dumps(content))
    encoder = Encoder.load(str(tmp_path / "one"))
    assert encoder.max_length == 2
    want = SentenceTransformer(str(tmp_path / "one"), device="cpu").encode(TEXTS)
    assert np.abs(encoder.encode(TEXTS) - want).max() < 1e-6


def test_every_command_reads_it(static, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat sat\na dog ran fast\nblue moon\n")
    want = SentenceTransformer(str(static), device="cpu").encode(["the cat sat", "a dog ran fast", "blue moon"])
    assert main(["encode", str(static), str(tmp_path / "a.txt"), "--out", str(tmp_path / "v.npy")]) == 0
    assert np.abs(np.load(tmp_path / "v.npy") - want).max() < 1e-6
    capsys.readouterr()
    assert main(["similarity", str(static), "the cat sat", "a dog ran fast"]) == 0
    assert float(capsys.readouterr().out) == pytest.approx(want[0] @ want[1], abs=1e-4)
    assert main(["diff", "the cat sat", "the dog sat", "--model", str(static), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["words_a"]
    assert [word["score"] for word in first] == pytest.approx([0, first[1]["score"], 0], abs=1e-6)
    assert first[1]["score"] > 0.01
    rows = ["score\tsentence1\tsentence2", "0.9\tthe cat\ta cat", "0.5\tthe sun\tred house", "0.1\tblue moon\ta dog"]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows))
    results = ["--out", str(tmp_path / "results.json"), "--device", "cpu"]
    assert main(["eval", str(static), "--data", str(tmp_path / "pairs.tsv"), *results]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["model"]
    assert (found["loader"], found["max_length"]) == ("cse", None)
    white = tmp_path / "white"
    lines = [f"{a} {b} {c}" for a in WORDS for b in WORDS[:4] for c in WORDS[5:9]]
    (tmp_path / "many.txt").write_text("\n".join(lines))
    assert main(["whiten", str(static), "--data", str(tmp_path / "many.txt"), "--k", "3", "--out", str(white)]) == 0
    found = Encoder.load(str(white)).encode(lines)
    assert np.abs(SentenceTransformer(str(white), device="cpu").encode(lines) - found).max() < 1e-5
    assert found.shape == (len(lines), 3)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "simcse-sup", "--encoder", "{}"], "holds static vectors, which have no layers to train"),
        (["train", "lora-domain", "--encoder", "{}"], "holds static vectors, which have no layers to train"),
        (["static", "{}", "--out", "{}-again"], "holds static vectors already"),
        (["diff", "a", "b", "--model", "{}", "--method", "mask"], "holds static vectors, and method mask needs layers"),
        (["push", "{}", "me/it", "--adapter", "--dry-run"], "has no adapter/"),
    ],
)
def test_what_needs_layers_is_refused(static, capsys, command, said):
    assert main([word.replace("{}", str(static)) for word in command]) == 2
    assert said in capsys.readouterr().err


def test_training_it_by_a_recipe_of_ones_own_is_refused(static, tmp_path):
    """Without sections for kinds of models, whose choice refuses it first."""
    parts = {"data": cse.Texts(["the cat", "a dog"] * 8), "collator": cse.TextViews(max_length=8)}
    parts |= {"objective": cse.SimCSE(temperature=0.05), "overrides": {"trainer.batch_size": 4}, "steps": 1}
    recipe = {"encoder": {"class_path": "cse.encoder.Encoder", "init_args": {"backbone": str(static)}}}
    with pytest.raises(UserError, match="holds static vectors, which have no layers to train"):
        cse.train(recipe, run_dir=tmp_path / "run", **parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["no table", "no weights", "no tokenizer", "a short table"])
def test_a_damaged_folder_is_named(static, tmp_path, damage):
    folder = shutil.copytree(static, tmp_path / "static")
    (folder / "checkpoint.sha256").unlink()
    weights, tokenizer = (next(folder.rglob(name)) for name in ("model.safetensors", "tokenizer.json"))
    short = {"embedding.weight": load_file(weights)["embedding.weight"][:4]}
    {
        "no table": lambda: save_file({"other": torch.zeros(1)}, weights),
        "no weights": weights.unlink,
        "no tokenizer": tokenizer.unlink,
        "a short table": lambda: save_file(short, weights),
    }[damage]()
    assert "None" not in refuses(str(folder), Encoder.load, str(folder))


def test_the_notices_of_its_model_stay_with_it(tiny_bert, tmp_path):
    source = shutil.copytree(tiny_bert, tmp_path / "source")
    (source / "LICENSE").write_text("MIT License")
    static_checkpoint(str(source), tmp_path / "static", device="cpu")
    stage(tmp_path / "static", tmp_path / "staged")
    assert (tmp_path / "staged" / "LICENSE").read_text() == "MIT License"
    assert Layout.read(tmp_path / "staged").modules[0].type == "sentence_transformers.models.StaticEmbedding"
    write_card(tmp_path / "staged", "me/small", run=None, results=None, license=None, previous=None)
    card = (tmp_path / "staged" / "README.md").read_text()
    said = ["license: mit", "| longest text | any |", "The order of words does not"]
    assert [part for part in said if part not in card] == []
    assert [part for part in ("Texts are cut", "AutoModel") if part in card] == []


@pytest.mark.slow
def test_it_is_exported(static, tmp_path):
    pytest.importorskip("onnxruntime")
    from cse.inference.export import OnnxEncoder

    assert main(["export", str(static), "--out", str(tmp_path / "onnx")]) == 0
    found = OnnxEncoder(tmp_path / "onnx").encode(TEXTS)
    assert np.abs(found - Encoder.load(str(static)).encode(TEXTS)).max() < 1e-6


@pytest.mark.slow
def test_it_is_published(static, capsys):
    assert main(["push", str(static), "me/small", "--dry-run", "--license", "mit"]) == 0
    said = capsys.readouterr().out
    assert "in sentence-transformers (within" in said
    assert "model.safetensors" in said
