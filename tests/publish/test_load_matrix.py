"""Every kind of checkpoint, as published, in everything that loads one: the same vectors."""

from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cse import Encoder
from cse.publish.card.usage import read_published, transformers_code
from cse.publish.stage import stage
from tests.publish.helpers import KINDS, PROMPTED, make
from tests.refusals import refuses

TEXTS = ["the cat sat on a mat", "dog", "the red house " * 30, "a blue tree ran fast", 'the "sun" on a moon']


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
    }
    if kind not in PROMPTED:
        by_card = {}
        exec(transformers_code(read_published(folder / "staged"), str(folder / "staged"), local=True), by_card)
        found["transformers, as the card shows it"] = by_card["encode"](TEXTS).numpy()
    apart = {name: float(np.abs(vectors - want).max()) for name, vectors in found.items()}
    assert apart == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-6)
    assert theirs.max_seq_length == encoder.max_length
    code = sorted(path.name for path in (folder / "staged").glob("*.py"))  # it travels where it is needed alone
    assert code == (["prefix.py", "prefix_module.py"] if kind in PROMPTED else [])


def test_no_kind_is_another(published):
    """Or the matrix would compare a thing with itself."""
    vectors = {kind: want for kind, (_, want, _) in published.items()}
    pairs = [(a, b) for a, b in combinations(vectors, 2) if vectors[a].shape == vectors[b].shape]
    assert len(pairs) > 50
    assert [(a, b) for a, b in pairs if np.abs(vectors[a] - vectors[b]).max() < 1e-3] == []


def test_layers_averaged_otherwise_are_refused(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="first_last_embeddings").save(tmp_path / "model")
    path = tmp_path / "model" / "1_WeightedLayerPooling" / "model.safetensors"
    save_file({"layer_weights": torch.tensor([1.0, 0.0, 3.0])}, path)
    refuses("averaged as no pooler of cse does", Encoder.load, str(tmp_path / "model"))
