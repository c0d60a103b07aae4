"""A LoRA run's adapter alone: what a checkpoint keeps of it, and that others load it on its backbone."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants

from cse import Encoder, Lora, push
from cse.encoder.checkpoint.sums import check_sums, write_sums
from cse.encoder.heads import Normalize
from cse.publish.card import write_card
from cse.publish.stage import Adapter, find_adapter, stage_adapter
from cse.publish.verify import verify_adapter
from tests.encoder.helpers import learn
from tests.refusals import refuses

TEXTS = ["the cat sat on a mat", "dog", "the red house " * 30, "a blue tree ran fast"]
BASE, COMMIT = "org/tiny", "0123456789abcdef" * 2 + "01234567"
LORA = {"adapter": Lora(rank=2, alpha=8, targets=["query", "value", "dense"])}
OPTIONS = {"pooler": "first_last_layer1", "template": "the {text} sat on", "max_length": 20, **LORA}


def save(backbone, folder, whole=True, **options):
    """A checkpoint of a LoRA run whose differences have left 0: best/ if it is whole, or last/."""
    torch.manual_seed(0)
    encoder = learn(Encoder(backbone, **options).eval())
    encoder.post.append(Normalize())
    encoder.save(folder, whole=whole)
    (folder / "LICENSE").write_text("Apache License, Version 2.0\n")
    return encoder


@pytest.fixture(scope="module")
def best(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "best"
    save(tiny_bert, folder, **OPTIONS)
    return folder


@pytest.fixture
def cached(tiny_bert, tmp_path, monkeypatch):
    """The backbone in the Hub's cache, as a download of org/tiny leaves it."""
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tiny_bert, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / COMMIT


def named(best, folder, source):
    """The checkpoint, as if its backbone had been given so."""
    shutil.copytree(best, folder)
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": source}))
    write_sums(folder)
    return folder


def test_a_checkpoint_keeps_the_adapter_and_nobody_trips_over_it(best, tiny_bert, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    encoder = save(tiny_bert, tmp_path / "best", **OPTIONS)
    names = {path.name for path in (tmp_path / "best" / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert "adapter/adapter_model.safetensors" in (tmp_path / "best" / "checkpoint.sha256").read_text()
    settings = json.loads((tmp_path / "best" / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["dense", "query", "value"]  # in this order in every process
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (2, 8, "LORA")
    want, folder = encoder.encode(TEXTS), tmp_path / "best"
    assert np.abs(Encoder.load(str(folder)).encode(TEXTS) - want).max() < 1e-6
    assert np.abs(SentenceTransformer(str(folder), device="cpu").encode(TEXTS) - want).max() < 1e-6
    bare = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    assert not any("lora" in name for name in bare.state_dict())
    Encoder.load(str(tmp_path / "best")).save(tmp_path / "again")
    assert not (tmp_path / "again" / "adapter").exists()  # its LoRA is merged away


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_in_a_clean_process_it_gives_the_runs_vectors(tiny_bert, cached, tmp_path, whole):
    """The card's own code, with the backbone that the Hub's cache holds in place of its id; of best/ and of last/."""
    save(tiny_bert, tmp_path / "run", whole=whole, **OPTIONS)
    checkpoint = named(tmp_path / "run", tmp_path / "best", BASE)
    adapter = find_adapter(checkpoint, None)
    assert adapter == Adapter(checkpoint, BASE, COMMIT, cached, known=True)
    stage_adapter(adapter, tmp_path / "staged")
    write_card(tmp_path / "staged", "me/lora", run=None, results=None, license=None, previous=None, adapter=adapter)
    report = verify_adapter(tmp_path / "staged", adapter)
    assert report.difference == {"peft": pytest.approx(0, abs=1e-6)}
    assert report.lines()[-1] == f"needs peft and the backbone {BASE} at commit {COMMIT}"
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(check_sums(tmp_path / "staged"))
    settings = json.loads((tmp_path / "staged" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == (BASE, COMMIT)
    card = ModelCard.load(tmp_path / "staged" / "README.md")
    assert (card.data.library_name, card.data.base_model, card.data.license) == ("peft", BASE, "apache-2.0")
    assert card.data.base_model_relation == "adapter"
    assert f'AutoModel.from_pretrained("{BASE}", revision="{COMMIT}", dtype=torch.float32' in card.text
    assert 'PeftModel.from_pretrained(backbone, "me/lora")' in card.text
    assert "`the {text} sat on`" in card.text
    assert "was not compared" not in card.text
    assert "SentenceTransformer" not in card.text


@pytest.mark.slow  # a process that loads torch and transformers
def test_another_adapter_is_seen(best, tmp_path):
    adapter = find_adapter(best, BASE)
    stage_adapter(adapter, tmp_path / "staged")
    path = tmp_path / "staged" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 7.9}))
    write_sums(path.parent)
    refuses(r"peft does not give the vectors of the run: they differ by", verify_adapter, tmp_path / "staged", adapter)


def test_what_is_published(best, hub, tmp_path, monkeypatch):
    """The adapter in place of the whole model that was there, and the other way round."""
    loaded = {"missing": [], "unexpected": [], "versions": {}}
    monkeypatch.setattr("cse.publish.verify._load_elsewhere", lambda *_: loaded)
    whole = push(best, "me/lora")
    assert "model.safetensors" in whole.files
    assert not [path for path in whole.files if "adapter" in path]
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(whole.left_out)
    alone = push(best, "me/lora", adapter=True, base=BASE)
    expected = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(alone.files) == expected | {"README.md", "LICENSE", "checkpoint.sha256"}
    held = hub.repositories["me/lora"].files()
    assert set(held) == {*alone.files, ".gitattributes"}
    assert held["adapter_model.safetensors"] == (best / "adapter" / "adapter_model.safetensors").read_bytes()
    assert "was not verified" in held["README.md"].decode()
    assert "which was not compared with the model of that name on the Hub" in alone.verified[-1]
    assert set(push(best, "me/lora").removed) == {"adapter_config.json", "adapter_model.safetensors"}


def without(folder, best, *names):
    shutil.copytree(best, folder)
    for name in names:
        shutil.rmtree(folder / name)
    return folder


def test_where_it_cannot_work_for_others(best, tiny_bert, cached, tmp_path):
    """Each is one error with the fix; the merged model can be pushed in every case."""
    save(tiny_bert, tmp_path / "cut", layers=1, **LORA)
    save(tiny_bert, tmp_path / "dense", head="mlp", export_head=True, **LORA)
    Encoder.load(str(best)).save(tmp_path / "merged")
    gone = named(best, tmp_path / "gone", "org/other")
    moved = named(best, tmp_path / "moved", "./moved/bert")
    cases = [
        (best, None, r"has the backbone .*, which other people do not have\n.*, or give .*--base ID"),
        (tmp_path / "cut", BASE, "has only 1 of the 2 layers"),
        (tmp_path / "dense", BASE, "has the Dense layer 2_Dense after pooling, which a LoRA adapter cannot hold"),
        (tmp_path / "merged", BASE, "has no adapter/: .* or its LoRA was merged and discarded"),
        (gone, None, "has the backbone org/other, which is no longer on this machine"),
        (moved, BASE, "has the backbone ./moved/bert, which is no longer on this machine"),
    ]
    for checkpoint, base, reason in cases:
        said = refuses(reason, push, checkpoint, "me/lora", adapter=True, base=base, dry_run=True)
        assert "fix: push without --adapter, since the merged model loads without its backbone" in said
    for base in ("./bert", "a/b/c", tiny_bert):
        refuses(f"--base {base} is not the id of a model on the Hub", find_adapter, best, base)
    refuses("--base org/tiny only applies with --adapter", push, best, "me/lora", base=BASE)
    renamed = find_adapter(named(best, tmp_path / "renamed", BASE), "org/moved-to")
    assert (renamed.base, renamed.revision, renamed.folder, renamed.known) == ("org/moved-to", None, cached, False)


def test_a_damaged_adapter_is_refused(best, tmp_path):
    shutil.copytree(best, tmp_path / "best")
    path = tmp_path / "best" / "adapter" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refuses(r"adapter/adapter_model\.safetensors is damaged", find_adapter, tmp_path / "best", BASE)
