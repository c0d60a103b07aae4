"""The typed parts of an encoder in recipes and on the command line, and the layout that a checkpoint is read by."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cse
from cse import Encoder, Lora, SoftPrompts, UserError
from cse import recipe as recipes


@pytest.fixture
def build(tiny_bert):
    """The encoder of `simcse-unsup` with options on top."""

    def build(*options):
        plain = (f"--encoder.backbone={tiny_bert}", "--encoder.layers=null", "--encoder.template=null")
        recipe = recipes.load("simcse-unsup", [*plain, *options])
        return recipe.config.encoder.make()

    return build


def test_an_adapter_is_an_option(build):
    lora = build(
        "--encoder.adapter=cse.encoder.Lora", "--encoder.adapter.rank=3", "--encoder.adapter.targets=[query]"
    ).adapter
    assert isinstance(lora, Lora)
    assert (lora.rank, lora.alpha, lora.targets) == (3, 3.0, ["query"])
    whole = build("--encoder.adapter=null")
    assert whole.adapter is None
    assert all(parameter.requires_grad for parameter in whole.parameters())
    prompts = build("--encoder.adapter=cse.encoder.SoftPrompts", "--encoder.adapter.length=4").adapter
    assert isinstance(prompts, SoftPrompts)
    assert prompts.prompts.weight.shape[0] == 4


def test_dropout_is_an_option(build):
    encoder = build("--encoder.adapter=null", "--encoder.dropout.attention=0.25", "--encoder.dropout.token_cutoff=0.5")
    assert encoder.backbone.config.attention_probs_dropout_prob == 0.25
    assert encoder.backbone.config.hidden_dropout_prob == 0.1  # the backbone's own
    assert encoder.dropout.token_cutoff == 0.5


def test_soft_prompts_of_two_encoders_are_two_parts(tiny_bert):
    prompts = SoftPrompts()
    Encoder(tiny_bert, adapter=prompts)
    with pytest.raises(UserError, match="belong to another encoder"):
        Encoder(tiny_bert, adapter=prompts)


def test_reading_a_layout_needs_no_model_code(tiny_bert, tmp_path):
    Encoder(tiny_bert, adapter=SoftPrompts(length=3)).save(tmp_path / "model")
    script = f"""
import sys
from pathlib import Path
from cse.encoder.checkpoint.layout import Layout
assert Layout.read(Path({str(tmp_path / "model")!r})).reference.backbone == {tiny_bert!r}
assert not {{"torch", "transformers", "peft", "sentence_transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["cse.prefix_module.PrefixTransformer", "elsewhere.PrefixTransformer"])
def test_the_last_name_of_a_module_decides(tiny_bert, tmp_path, name):
    encoder = Encoder(tiny_bert, adapter=SoftPrompts(length=3)).eval()
    encoder.save(tmp_path / "model")
    path = tmp_path / "model" / "modules.json"
    modules = json.loads(path.read_text())
    modules[0]["type"] = name
    path.write_text(json.dumps(modules))
    (tmp_path / "model" / "checkpoint.sha256").unlink()
    again = Encoder.load(str(tmp_path / "model"))
    assert np.array_equal(again.encode(["the cat"]), encoder.encode(["the cat"]))


def test_no_other_file_reads_the_layout():
    """`prefix_module.py` runs without cse; the others only list the names of files."""
    names = ("modules.json", "sentence_bert_config", "config_sentence_transformers", "1_Pooling")
    for path in Path(cse.__file__).parent.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            reads = any(call in line for call in ("json.loads", "read_json", "read_text"))
            assert not (reads and any(name in line for name in names)), path


def test_a_missing_model_is_one_short_error_without_a_wait(tmp_path):
    """With a Hub that nothing listens at, as on a machine without a network: as a backbone and as a generator."""
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE" and "proxy" not in k.lower()}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    script = """
import time
def wait(seconds): raise SystemExit(f"it waits {seconds} s to try again")
time.sleep = wait
from cse.encoder.language_models import load_masked_lm
from cse.encoder.model import Encoder
from cse.errors import UserError
for make in (Encoder, lambda name: load_masked_lm(name, option="model")):
    try:
        make("nobody/nothing")
    except UserError as error:
        print(error, end="\\n\\n")
"""
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    *answers, after = done.stdout.split("\n\n")
    assert (len(answers), after) == (2, "")
    for said in answers:
        assert said.startswith("model 'nobody/nothing' cannot be loaded: ")
        assert len(said.splitlines()) <= 3
    assert done.stderr == ""
