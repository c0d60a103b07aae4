"""What tests of mining share: a tiny checkpoint, pairs, a reranker, and vectors of a random space."""

import numpy as np
import pytest

from cse import Encoder
from cse.seeding import seed_dropout
from tests.runs import write_texts

ROWS = 30


@pytest.fixture(scope="session")
def checkpoint(tiny_bert, tmp_path_factory):
    """A tiny encoder whose sentences are not all alike, saved."""
    seed_dropout("mine")
    encoder = Encoder(tiny_bert, pooler="mean")
    for weight in encoder.parameters():
        weight.data *= 4
    folder = tmp_path_factory.mktemp("mine") / "model"
    encoder.save(folder)
    return str(folder)


@pytest.fixture
def rows(tmp_path):
    """Pairs in which two anchors are one in plain words, and one text is a positive twice."""
    texts = write_texts(tmp_path, 40).read_text().splitlines()
    pairs = [texts[i : i + 2] for i in range(0, 40, 2)]
    pairs[3][0] = pairs[2][0].upper().replace(" ", ", ")
    pairs[5][1] = pairs[6][1]
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tp\n" + "\n".join("\t".join(pair) for pair in pairs))
    return str(path), [tuple(pair) for pair in pairs]


@pytest.fixture(scope="session")
def save_reranker(tiny_bert, tmp_path_factory):
    """A function that saves a random cross-encoder whose scores differ."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    def save(labels=1):
        folder = tmp_path_factory.mktemp("reranker")
        torch.manual_seed(3)
        config = AutoConfig.from_pretrained(tiny_bert, num_labels=labels)
        model = BertForSequenceClassification(config)
        for weight in model.parameters():
            weight.data *= 8
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Texts, and a vector for each: of a random space, whose neighbors a loop finds."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path, ROWS)
    np.save("graph.npy", np.random.default_rng(4).normal(size=(ROWS, 5)))
    return tmp_path
