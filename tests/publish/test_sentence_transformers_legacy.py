"""Our checkpoints in sentence-transformers 5.1 on transformers 4, in an environment of their own."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from cse import Encoder, Lora
from cse.publish.card.usage import read_published, transformers_code
from cse.publish.stage import stage
from tests.encoder.helpers import learn
from tests.models import save_tiny
from tests.publish.helpers import KINDS, PROMPTED, make

pytestmark = pytest.mark.slow

PACKAGES = ["sentence-transformers==5.1.2", "transformers<5", "torch"]
TEXTS = ["the cat sat on a mat", "", "dog", "the red house " * 30, "  a blue tree ran fast", 'she said "no" , twice']
LOAD = """
import sys, json, numpy as np, sentence_transformers, transformers
from sentence_transformers import SentenceTransformer
texts, folders, codes = json.loads(sys.argv[1])
for folder in folders:
    model = SentenceTransformer(folder, device="cpu", trust_remote_code=codes.get(folder, "") is None)
    np.save(folder + ".npy", model.encode(texts))
for folder, code in codes.items():
    if code:  # as the card shows it for transformers alone, which does without an empty text
        names = {}
        exec(code, names)
        np.save(folder + ".plain.npy", names["encode"]([text for text in texts if text]).numpy())
print(json.dumps([sentence_transformers.__version__, transformers.__version__]))
"""


@pytest.fixture(scope="module")
def legacy(tmp_path_factory):
    """Vectors of TEXTS by folder, as the old versions make them."""
    folder = tmp_path_factory.mktemp("legacy")
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, timeout=1500)

    def encode(*folders, codes=None):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
        command = [python, "-c", LOAD, json.dumps([TEXTS, list(map(str, folders)), codes or {}])]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600)
        versions = json.loads(done.stdout.splitlines()[-1])
        assert versions[0] == "5.1.2"
        assert versions[1].startswith("4.")
        return [np.load(f"{f}.npy") for f in folders]

    return encode


def test_the_rotary_base_and_a_merged_lora(legacy, tiny_bert, tmp_path):
    rotary = {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}, "max_position_embeddings": 256}
    llama = save_tiny("llama", tiny_bert, tmp_path / "llama", num_hidden_layers=3, initializer_range=0.2, **rotary)
    template = 'This sentence : "{text}" means in one word: "'
    lora = {"adapter": Lora(rank=4, targets=["q_proj", "v_proj"])}
    torch.manual_seed(1)
    options = {"pooler": "last", "template": template, "layers": 2, "max_length": 128}
    encoder, plain = Encoder(llama, **options, **lora), Encoder(llama, **options).eval().encode(TEXTS)
    learn(encoder).save(tmp_path / "prompted")

    # The comparison must see a wrong rotary base, which loads without a word.
    shutil.copytree(tmp_path / "prompted", tmp_path / "wrong")
    config = json.loads((tmp_path / "wrong" / "config.json").read_text())
    assert config.pop("rope_theta") == 100_000.0
    (tmp_path / "wrong" / "config.json").write_text(json.dumps(config))

    found, wrong = legacy(tmp_path / "prompted", tmp_path / "wrong")
    here = Encoder.load(str(tmp_path / "prompted")).encode(TEXTS)
    assert found.shape == here.shape == (len(TEXTS), encoder.dim)
    assert np.abs(found - here).max() < 1e-5
    assert np.abs(encoder.eval().encode(TEXTS) - here).max() < 1e-5
    assert np.abs(found - plain).max() > 1e-2
    assert np.abs(found - wrong).max() > 1e-2


def test_every_kind_as_published(legacy, tiny_bert, tmp_path):
    """The load matrix, in the old libraries; soft prompts by the code that travels with them."""
    codes, wanted, folders = {}, {}, {}
    for number, kind in enumerate((*KINDS, *PROMPTED)):
        (tmp_path / kind).mkdir()
        encoder = make(kind, tiny_bert, tmp_path / kind)
        encoder.save(tmp_path / kind / "best")
        folder = folders[kind] = tmp_path / str(number)
        stage(tmp_path / kind / "best", folder)
        wanted[kind] = encoder.encode(TEXTS)
        codes[str(folder)] = transformers_code(read_published(folder), str(folder), local=True)
    found = dict(zip(folders, legacy(*folders.values(), codes=codes), strict=True))
    assert {kind: float(np.abs(found[kind] - wanted[kind]).max()) for kind in folders} == pytest.approx(
        dict.fromkeys(folders, 0.0), abs=1e-5
    )
    texts = [i for i, text in enumerate(TEXTS) if text]
    for kind, folder in folders.items():
        assert (codes[str(folder)] is None) == (kind in PROMPTED)
        if kind in KINDS:
            assert np.abs(np.load(f"{folder}.plain.npy") - wanted[kind][texts]).max() < 1e-5, kind
