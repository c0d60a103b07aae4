"""Damaged checkpoints: every command refuses them in a few lines, and writes nothing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cse import cli
from cse.encoder.model import Encoder
from cse.errors import UserError

WEIGHTS = "model.safetensors"


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


def weights(change, *, recorded=False):
    """The weights are changed; without their recorded hash unless it is part of the damage."""

    def damage(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors, next(name for name in tensors if name.endswith("intermediate.dense.weight")))
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        if not recorded:
            (folder / "weights.sha256").unlink()

    return damage


def add(value):
    return lambda tensors, name: tensors.update({name: tensors[name] + value})


def cut(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    (folder / "weights.sha256").unlink()


DAMAGES = {
    "no tokenizer": (removed("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    "no tokenizer.json": (removed("tokenizer.json"), "tokenizer"),
    "a tokenizer that is not JSON": (holding("tokenizer.json", "{"), "cannot be loaded"),
    "no weights": (removed(WEIGHTS), WEIGHTS),
    "weights cut": (cut, "cannot be loaded"),
    "weights cut, with their hash": (holding(WEIGHTS, ""), "sha256"),
    "weights of nan": (weights(add(float("nan"))), "nan"),
    "weights of infinity": (weights(add(float("inf"))), "infinity"),
    "other weights than their hash": (weights(add(0.1), recorded=True), "sha256"),
    "a tensor missing": (weights(lambda tensors, name: tensors.pop(name)), "lacks the weights"),
    "no config.json": (removed("config.json"), "config.json"),
    "a config.json that is a list": (holding("config.json", "[]"), "config.json is not a mapping"),
    "a config.json of other sizes": (changed("config.json", intermediate_size=17), "other sizes"),
    "an unknown architecture": (changed("config.json", model_type="nonesuch"), "'nonesuch'"),
    "code of its own": (changed("config.json", auto_map={"AutoModel": "x.Y"}), "code of its own"),
    "a modules.json that is not JSON": (holding("modules.json", '{"a": 1'), "is damaged"),
    "a modules.json that is a mapping": (holding("modules.json", '{"a": 1}'), "is not a list of modules"),
    "an empty modules.json": (holding("modules.json", "[]"), "lists no module"),
    "a module in a folder that does not exist": (second_module(path="nowhere"), "nowhere"),
    "a module outside of the folder": (second_module(path="../elsewhere"), "outside of the folder"),
    "a module that is a function": (second_module(type="os.system"), "Transformer + system"),
    "no folder of the pooling": (removed("1_Pooling"), "1_Pooling"),
    "pooling without a mode": (holding("1_Pooling/config.json", "{}"), "is not one of cls, mean, last"),
    "an unknown pooling": (holding("1_Pooling/config.json", '{"pooling_mode": "most"}'), "is not one of"),
    "settings that are a list": (holding("sentence_bert_config.json", "[]"), "is not a mapping"),
    "a negative length": (changed("sentence_bert_config.json", max_seq_length=-3), "-3"),
    "prompts that are a number": (holding("config_sentence_transformers.json", "5"), "is not a mapping"),
}
COMMANDS = {
    "encode": ["encode", "CK", "texts.txt", "--out", "out.npy"],
    "similarity": ["similarity", "CK", "a cat", "a dog"],
    "eval": ["eval", "CK", "--tasks", "sts-mini-dev", "--out", "out.json"],
    "mine": ["mine", "CK", "--data", "texts.txt", "--out", "out.parquet"],
    "teach": ["teach", "texts.txt", "--model", "CK", "--out", "out.parquet"],
    "whiten": ["whiten", "CK", "--data", "texts.txt", "--out", "out"],
    "export": ["export", "CK", "--out", "out"],
    "push": ["push", "CK", "me/name", "--dry-run"],
    "feedback": ["feedback", "score", "--model", "encoder:CK", "--data", "pairs.tsv", "--out", "out.jsonl"],
    "train": ["train", "simcse-unsup", "--encoder", "CK", "--data", "texts.txt", "--run-dir", "out"],
}


@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "ck"
    Encoder(tiny_bert, pooler="mean").save(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", DAMAGES)
def test_it_is_refused_and_nothing_is_written(name, command, whole, tmp_path, monkeypatch, capsys):
    damage, said = DAMAGES[name]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "ck")
    (tmp_path / "texts.txt").write_text("the cat sat\na dog ran\nthe sun\nthe moon\n")
    (tmp_path / "pairs.tsv").write_text("anchor\tpositive\nthe cat sat\ta dog ran\n")
    damage(tmp_path / "ck")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert cli.main([word.replace("CK", "ck") for word in COMMANDS[command]]) == 2
    error = capsys.readouterr().err
    lines = error[error.index("cse: ") :].splitlines()
    assert said in lines[0]
    assert any(line.startswith("fix: ") for line in lines)
    assert len(lines) <= 5
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_python_raises_the_same_error(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "ck")
    weights(add(0.1), recorded=True)(tmp_path / "ck")
    with pytest.raises(UserError, match="sha256"):
        Encoder.load(str(tmp_path / "ck"))


def test_a_whole_checkpoint_loads(whole):
    assert torch.isfinite(torch.as_tensor(Encoder.load(str(whole)).encode(["the cat"]))).all()
