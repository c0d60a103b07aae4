"""Every kind of checkpoint, as published, in everything that loads one: the same vectors."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.publish.stage import stage
from tests.publish.helpers import KINDS, PROMPTED, make

TEXTS = ["the cat sat on a mat", "dog", "the red house " * 30, "a blue tree ran fast", 'the "sun" on a moon']


def by_transformers(folder: Path, encoder: Encoder):
    """By hand, text by text, so that there is no padding: hidden states, pooler, and what follows it."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    vectors = []
    for text in TEXTS:
        tokens = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**tokens, output_hidden_states=True).hidden_states
        pooled = {
            "cls": states[2][0, 0],
            "last": states[2][0, -1],
            "mask": states[2][0, tokens["input_ids"][0] == tokenizer.mask_token_id].mean(0),
            "mean": states[2][0].mean(0),
            "mean_last_two": (states[1] + states[2])[0].mean(0) / 2,
            "first_last_embeddings": (states[0] + states[2])[0].mean(0) / 2,
            "first_last_layer1": (states[1] + states[2])[0].mean(0) / 2,  # of two layers, as the one above
        }[encoder.pooler]
        for module in json.loads((folder / "modules.json").read_text()):
            if module["type"].endswith(".Dense"):
                weights = load_file(folder / module["path"] / "model.safetensors")
                pooled = weights["linear.weight"] @ pooled + weights.get("linear.bias", 0.0)
                config = json.loads((folder / module["path"] / "config.json").read_text())
                pooled = torch.tanh(pooled) if config["activation_function"].endswith("Tanh") else pooled
            elif module["type"].endswith(".Normalize"):
                pooled = pooled / pooled.norm()
        vectors.append(pooled)
    return torch.stack(vectors).numpy()


def by_mteb(model):
    """As mteb's own wrapper of a SentenceTransformer embeds a task's texts."""
    from datasets import Dataset
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
    from mteb.tasks.sts.eng.sts13_sts import STS13STS
    from torch.utils.data import DataLoader

    texts = DataLoader(Dataset.from_dict({"text": TEXTS}), batch_size=2)
    wrapper = SentenceTransformerEncoderWrapper(model)
    options = {"task_metadata": STS13STS.metadata, "hf_split": "test", "hf_subset": "default"}
    return wrapper.encode(texts, **options, show_progress_bar=False)


@pytest.fixture(scope="module")
def published(tiny_bert, tmp_path_factory):
    """Of each kind, the encoder, its vectors, and a folder with best/ and staged/."""
    found = {}
    for kind in (*KINDS, *PROMPTED):
        folder = tmp_path_factory.mktemp("kind")
        encoder = make(kind, tiny_bert, folder)
        encoder.save(folder / "best")
        stage(folder / "best", folder / "staged")
        found[kind] = (encoder, encoder.encode(TEXTS), folder)
    return found


@pytest.mark.parametrize("kind", [*KINDS, *PROMPTED])
def test_the_same_vectors_everywhere(kind, published):
    from sentence_transformers import SentenceTransformer

    encoder, want, folder = published[kind]
    assert want.shape == (len(TEXTS), encoder.dim)
    assert np.abs(want[0] - want[3]).max() > 1e-3  # different texts, or every loader would seem right
    theirs = SentenceTransformer(str(folder / "staged"), trust_remote_code=kind in PROMPTED)
    found = {
        "cse, the run's": Encoder.load(str(folder / "best")).encode(TEXTS),
        "cse, as published": Encoder.load(str(folder / "staged")).encode(TEXTS),
        "sentence-transformers": theirs.encode(TEXTS),
        "mteb": by_mteb(theirs),
    }
    if kind not in PROMPTED:
        found["transformers"] = by_transformers(folder / "staged", encoder)
    apart = {name: float(np.abs(vectors - want).max()) for name, vectors in found.items()}
    assert apart == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-6)
    assert theirs.max_seq_length == encoder.max_length


def test_no_kind_is_another(published):
    """Or the matrix would compare a thing with itself."""
    vectors = {kind: want for kind, (_, want, _) in published.items()}
    pairs = [(a, b) for a, b in combinations(vectors, 2) if vectors[a].shape == vectors[b].shape]
    assert len(pairs) > 50
    assert [(a, b) for a, b in pairs if np.abs(vectors[a] - vectors[b]).max() < 1e-3] == []


@pytest.mark.parametrize("kind", [*KINDS, *PROMPTED])
def test_code_travels_where_it_is_needed_and_nowhere_else(kind, published):
    folder = published[kind][2] / "staged"
    code = sorted(path.name for path in folder.glob("*.py"))
    assert code == (["prefix.py", "prefix_module.py"] if kind in PROMPTED else [])
    kinds = {m["type"] for m in json.loads((folder / "modules.json").read_text())}
    ours = {name for name in kinds if not name.startswith("sentence_transformers.models.")}
    assert ours == ({"prefix_module.PrefixTransformer"} if kind in PROMPTED else set())


def test_layers_averaged_otherwise_are_refused(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="first_last_embeddings").save(tmp_path / "model")
    path = tmp_path / "model" / "1_WeightedLayerPooling" / "model.safetensors"
    save_file({"layer_weights": torch.tensor([1.0, 0.0, 3.0])}, path)
    with pytest.raises(UserError, match="averaged as no pooler of cse does"):
        Encoder.load(str(tmp_path / "model"))
