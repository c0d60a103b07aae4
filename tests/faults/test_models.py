"""Checkpoints, vectors, shards and calls on models that are damaged or a stranger's: one error, and none in silence."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cse
from cse import Encoder, cli
from cse.mining.given import Vectors
from tests.refusals import refuses

WEIGHTS, SETTINGS, ABOUT = "model.safetensors", "sentence_bert_config.json", "config_sentence_transformers.json"
ENCODE = ["encode", "D", "t12.txt", "--out", "out.npy"]


# What is done to D, a copy of ck/last
def removed(*names):
    def damage(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def holding(name, content):
    return lambda folder: (folder / name).write_text(content)


def changed(name, **values):
    """Some keys of a JSON file have other values."""

    def damage(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **values}))

    return damage


def second_module(**values):
    def damage(folder):
        entries = json.loads((folder / "modules.json").read_text())
        entries[1] |= values
        (folder / "modules.json").write_text(json.dumps(entries))

    return damage


def weights(change):
    """Each tensor is changed, or left out if it becomes None."""

    def damage(folder):
        tensors = {name: change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


zeros = weights(lambda name, tensor: torch.zeros_like(tensor))


def one(change):
    """One tensor of the second layer is changed."""
    return weights(lambda name, tensor: change(tensor) if name.endswith("layer.1.output.dense.weight") else tensor)


def vocabulary(change):
    def damage(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["vocab"] = change(content["model"]["vocab"])
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return damage


def fewer_words(words):
    return dict(sorted(words.items(), key=lambda each: each[1])[:2000])


def shuffled(words):
    return dict(zip(words, reversed(words.values()), strict=True))


def cut(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def elsewhere(folder):
    shutil.move(folder / WEIGHTS, folder.parent / "outside.safetensors")
    names = dict.fromkeys(load_file(folder.parent / "outside.safetensors"), "../outside.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


class Foreign:
    """What a pickle may hold, and cse does not read."""


def pickled(write):
    """The weights are a pickle, as large as weights are."""

    def damage(folder):
        (folder / WEIGHTS).unlink()
        write([Foreign(), b"0" * 4_000_000], folder / "pytorch_model.bin")

    return damage


FOREIGN = {  # a model without a manifest, as strangers have it; what is said of it
    "S6": (zeros, "model 'D': 'a' has the vector 0"),
    "S12": (weights(lambda name, tensor: tensor.to(torch.int8)), "are of type I8, and weights are fractions"),
    "S14": (vocabulary(fewer_words), "its tokenizer has 2000 tokens, the last of which is 1999, and the model embeds"),
    "S16": (changed(SETTINGS, max_seq_length=1), "max_length is 1, and what the tokenizer adds takes 2 of it"),
    "S16, 2": (changed(SETTINGS, max_seq_length=2), "max_length is 2, and what the tokenizer adds takes 2 of it"),
    "S17": (
        changed(ABOUT, prompts={"q": {"a": 1}}, default_prompt_name="q"),
        f"prompts in {ABOUT} has \"{{'a': 1}}\" for 'q', not a text",
    ),
    "S18": (elsewhere, "model.safetensors.index.json names ../outside.safetensors, which is outside of the folder"),
    "hidden_size as text": (changed("config.json", hidden_size="256"), "hidden_size in config.json is '256', which is"),
    "no number of layers": (changed("config.json", num_hidden_layers=None), "num_hidden_layers in its config.json is"),
    "too many layers": (changed("config.json", num_hidden_layers=10**9), "is 1000000000, and its weights are"),
    "too many words": (changed("config.json", vocab_size=10**9), "they have other sizes than its config.json says"),
    "ids above the embedding": (
        vocabulary(lambda words: {word: i + 100_000 for word, i in words.items()}),
        "the last of which is 109999, and the model embeds 10000",
    ),
    "a pickle": (pickled(lambda content, file: file.write_bytes(pickle.dumps(content))), "a pickle that holds"),
    "a pickle in a zip": (pickled(torch.save), "a pickle that holds more than tensors, which could run code"),
    "truncate_dim -3": (changed(ABOUT, truncate_dim=-3), f"truncate_dim in {ABOUT} is '-3', which is not an integer"),
    "truncate_dim 0": (changed(ABOUT, truncate_dim=0), f"truncate_dim in {ABOUT} is '0', which is not an integer"),
    "no tokenizer": (removed("tokenizer.json", "tokenizer_config.json"), "has no tokenizer"),
    "a tokenizer that is not JSON": (holding("tokenizer.json", "{"), "cannot be loaded"),
    "a tokenizer that is null": (holding("tokenizer.json", "null"), "its settings or its tokenizer are damaged"),
    "no weights": (removed(WEIGHTS), "it has no weights"),
    "weights cut": (cut, "cannot be loaded"),
    "weights of nan": (one(lambda tensor: tensor * float("nan")), "hold nan or infinity"),
    "weights of infinity": (one(lambda tensor: tensor + float("inf")), "hold nan or infinity"),
    "weights that overflow": (one(lambda tensor: tensor.fill_(3e38)), "'a' has a vector with nan or infinity"),
    "a tensor missing": (one(lambda tensor: None), "lacks the weights"),
    "no config.json": (removed("config.json"), "has no config.json"),
    "a config.json that is a list": (holding("config.json", "[]"), "config.json is not a mapping"),
    "a config.json of other sizes": (changed("config.json", intermediate_size=17), "other sizes"),
    "an unknown architecture": (changed("config.json", model_type="nonesuch"), "'nonesuch'"),
    "code of its own": (changed("config.json", auto_map={"AutoModel": "x.Y"}), "code of its own"),
    "heads that do not divide": (changed("config.json", num_attention_heads=7), "is not a multiple of the number of"),
    "a forward pass that fails": (changed("config.json", chunk_size_feed_forward=7), "cannot be loaded"),
    "a modules.json that is not JSON": (holding("modules.json", '{"a": 1'), "is damaged"),
    "a modules.json that is a mapping": (holding("modules.json", '{"a": 1}'), "is not a list of modules"),
    "an empty modules.json": (holding("modules.json", "[]"), "lists no module"),
    "a module in a folder that does not exist": (second_module(path="nowhere"), "nowhere"),
    "a module outside of the folder": (second_module(path="../elsewhere"), "outside of the folder"),
    "a module that is a function": (second_module(type="os.system"), "Transformer + system"),
    "no folder of the pooling": (removed("1_Pooling"), "1_Pooling"),
    "pooling without a mode": (holding("1_Pooling/config.json", "{}"), "is not one of cls, mean, last"),
    "an unknown pooling": (holding("1_Pooling/config.json", '{"pooling_mode": "most"}'), "is not one of"),
    "settings that are a list": (holding(SETTINGS, "[]"), "is not a mapping"),
    "a negative length": (changed(SETTINGS, max_seq_length=-3), "max_seq_length in sentence_bert_config.json is '-3'"),
    "prompts that are a number": (holding(ABOUT, "5"), "is not a mapping"),
}
OWN = {  # a checkpoint of cse, whose manifest has a sum of each file
    "S14": (vocabulary(fewer_words), "tokenizer.json is damaged or changed: its sha256 is"),
    "S15": (vocabulary(shuffled), "tokenizer.json is damaged or changed: its sha256 is"),
    "other weights": (one(lambda tensor: tensor + 0.1), "model.safetensors is damaged or changed: its sha256 is"),
    "no weights": (removed(WEIGHTS), "lacks model.safetensors, which its checkpoint.sha256 names"),
    "another length": (changed(SETTINGS, max_seq_length=5), "sentence_bert_config.json is damaged or changed"),
    "a damaged manifest": (holding("checkpoint.sha256", "nonsense"), "its checkpoint.sha256 is damaged"),
}
COMMANDS = {  # that refuse what no vector can be made of
    "S6": ["similarity", "D", "The cat", "The dog"],
    "S7": ["feedback", "score", "--model", "encoder:D", "--data", "scored.csv", "--columns", "text_a", "text_b"],
    "S8": ["mine", "D", "--data", "texts.txt"],
    "S9": ["teach", "texts.txt", "--model", "D"],
    "S10": ["export", "D"],
    "S11": [*ENCODE, "--normalize"],
    "whiten Z": ["whiten", "D", "--data", "texts.txt"],
    "push": ["push", "D", "me/name", "--dry-run"],
    "eval": ["eval", "D", "--tasks", "sts-mini-dev"],
    "train": ["train", "simcse-unsup", "--encoder", "D", "--data", "texts.txt"],
}
OUT = {"feedback": "out.jsonl", "mine": "out.jsonl", "teach": "out.parquet", "export": "out", "whiten": "out"}


@pytest.fixture
def model(made, place) -> Path:
    """D in the working folder, a copy of ck/last with its manifest."""
    return Path(shutil.copytree(made / "ck" / "last", place / "D"))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock")


@pytest.mark.parametrize("row", FOREIGN)
def test_a_strangers_model(row, model, place, refused):
    damage, said = FOREIGN[row]
    (model / "checkpoint.sha256").unlink()
    damage(model)
    before = names(place)
    error = refused(*ENCODE)
    assert said in error.partition("\nfix: ")[0]
    assert len(error.strip().splitlines()) <= 5
    assert names(place) == before


@pytest.mark.parametrize("row", OWN)
def test_a_checkpoint_with_its_manifest(row, model, place, refused):
    damage, said = OWN[row]
    damage(model)
    assert said in refused(*ENCODE)
    assert not (place / "out.npy").exists()
    refuses("sha256", Encoder.load, str(model))


@pytest.mark.parametrize("row", COMMANDS)
def test_a_model_of_zeros(row, model, place, refused):
    (model / "checkpoint.sha256").unlink()
    zeros(model)
    before, line = names(place), COMMANDS[row]
    out = ["--out", OUT[line[0]]] if line[0] in OUT else []
    assert "D': 'a' has the vector 0, which is near to nothing" in refused(*line, *out)
    assert names(place) == before


def test_a_manifest_of_the_weights_alone(model):
    """As cse 0.1.0 wrote it: `weights.sha256`."""
    lines = (model / "checkpoint.sha256").read_text().splitlines(keepends=True)
    (model / "checkpoint.sha256").unlink()
    (model / "weights.sha256").write_text("".join(line for line in lines if "safetensors" in line))
    changed(SETTINGS, max_seq_length=20)(model)
    assert Encoder.load(str(model)).max_length == 20
    one(lambda tensor: tensor + 0.1)(model)
    refuses(r"and weights\.sha256 says", Encoder.load, str(model))


def test_static_vectors_of_an_unknown_word_are_zero(made, place):
    """As in model2vec and sentence-transformers; a table of zeros is none."""
    assert cli.main(["static", "ck/last", "--out", "static"]) == 0
    encoder = Encoder.load("static")
    assert not encoder.encode([""]).any()
    assert encoder.encode(["the cat"]).any()
    (place / "static" / "checkpoint.sha256").unlink()
    zeros(place / "static")
    refuses("its static vectors are all 0", Encoder.load, "static")


# Vectors on disk
SHARDS = ["encode", "ck/last", "texts.txt", "--out", "sh", "--shards", "4", "--save-every", "50"]
MINE = ["mine", "--vectors", "sh", "--data", "texts.txt", "--out", "m.parquet"]


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[1000:1400] = b"\xff" * 400
    file.write_bytes(bytes(content))


DAMAGED_SHARDS = {
    "S3": lambda shards: shards[2].write_bytes(shards[2].read_bytes()[:500]),
    "S4": lambda shards: spoil(shards[2]),
    "S5": lambda shards: shutil.copy(shards[0], shards[1]),
}


def test_a_damaged_shard_is_refused_and_mended(place, refused, capsys):
    assert cli.main(SHARDS) == 0
    shards = sorted(place.glob("sh/*.npy"))
    whole = [file.read_bytes() for file in shards]
    for row, damage in DAMAGED_SHARDS.items():
        damage(shards)
        error, _, fix = refused(*MINE).partition("\nfix: ")
        assert "is damaged or changed: its sha256 is not the one in" in error, row
        assert "run the cse encode that wrote it again" in fix
        assert cli.main(SHARDS) == 0
        assert "; it is encoded again" in capsys.readouterr().out
        assert [file.read_bytes() for file in shards] == whole, row
    (place / "sh" / "index.json").write_text((place / "sh" / "index.json").read_text().replace("400", "300"))
    assert "index.json cannot be read: its content is not the one that was written" in refused(*MINE)


# Calls
MINED = ["mine", "ck/last", "--data", "texts.txt", "--out", "m.jsonl"]
LINES = {
    "no index": ([*MINED, "--index", "foo"], "400 vectors of 256 dimensions: could not parse index string foo"),
    "nowhere": (["encode", "ck/last", "t12.txt", "--out", "/proc/nonesuch/x.npy"], "/proc/nonesuch/x.npy cannot be"),
    "whiten": (["whiten", "ck/last", "--data", "same.txt", "--out", "w"], "40 sentences, and all have one vector"),
    "surrogate": (["diff", "caf\udcc3", "cafe", "--model", "ck/last"], "texts has 'caf\\udcc3', which contains half"),
}


@pytest.mark.parametrize("row", LINES)
def test_a_command(row, place, refused):
    if "--index" in LINES[row][0]:
        pytest.importorskip("faiss")
    (place / "same.txt").write_text("the cat sat\n" * 40)
    line, said = LINES[row]
    error, _, fix = refused(*line).partition("\nfix: ")
    assert said in error
    assert "free some space" not in fix
    assert "::" not in error  # the names of C++


def nan() -> np.ndarray:
    return np.full((3, 8), np.nan, dtype=np.float32)


CALLS = {
    "S13": (lambda: cse.mine(Vectors("zeros.npy"), "t12.txt"), "zeros.npy: row 0, counted from 0, has the vector 0"),
    "S27": (lambda: cse.quantize(nan(), "binary"), "vector 0, counted from 0, has a vector with nan or infinity"),
    "S27, int8": (lambda: cse.Calibration.of(nan()), "vector 0, counted from 0, has a vector with nan or infinity"),
    "S28": (lambda: cse.evaluate("ck/last", tasks="sts-mini-dev", folds=-1), "evaluation.folds is -1"),
    "surrogate": (lambda: Encoder.load("ck/last").encode(["bad \ud800 text"]), "texts has 'bad \\ud800 text', which"),
    "surrogate, mine": (lambda: cse.mine("ck/last", ["bad \ud800 text", "a", "b"]), "row 1, column 'text' contains"),
    "resume(None)": (lambda: cse.resume(None), "run_dir is 'None', of type NoneType"),
    "encode(out=None)": (lambda: cse.encode("ck/last", "texts.txt", None), "out is 'None', of type NoneType"),
    "compare({})": (lambda: cse.compare("ck/last", {"a": 1}), "model is \"{'a': 1}\", of type dict"),
    "Encoder.load(3)": (lambda: cse.Encoder.load(3), "model is '3', of type int"),
    "mine(k='3')": (lambda: cse.mine("ck/last", "t12.txt", k="3"), "--k is 3\n"),
}


@pytest.mark.parametrize("row", CALLS)
def test_a_call(row, place):
    np.save("zeros.npy", np.zeros((12, 8), dtype=np.float32))
    call, said = CALLS[row]
    assert said in refuses("", call)


def test_a_state_with_a_foreign_class_is_not_run(own_run, refused):
    from cse.files import read_sealed, sha256_file, write_sealed

    state = own_run / "ck" / "state"
    torch.save({"learner": Foreign()}, state / "state.pt")
    about = read_sealed(state / "state.json")
    write_sealed(state / "state.json", about | {"sha256": sha256_file(state / "state.pt")})
    assert "state.pt holds more than tensors" in refused("train", "--resume", "ck")


def test_a_secret_is_named_where_it_stands(model, refused):
    changed(ABOUT, prompts={"q": f"hf_{'a' * 34}"})(model)
    (model / "checkpoint.sha256").unlink()
    assert refused("push", "D", "me/name", "--dry-run").startswith(f"cse: {ABOUT}:")


def test_closed_streams_do_not_fail(place):
    command = f"{sys.executable} -m cse encode ck/last t12.txt --out out.npy >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(Path(cse.__file__).parents[1])}
    assert subprocess.run(["bash", "-c", command], cwd=place, env=environment, check=False).returncode == 0
    assert np.load(place / "out.npy").shape == (12, 256)
