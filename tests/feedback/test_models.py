"""Raters, which run here: an encoder and a cross-encoder."""

from pathlib import Path

import numpy as np
import pytest

from cse import cli
from tests.feedback.helpers import lines

PAIRS = [("the cat sat", "a dog ran fast"), ("the cat sat", "the cat sat on"), ("red house", "blue moon")]


@pytest.fixture(autouse=True)
def _one_time(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")


@pytest.fixture
def pairs(tmp_path) -> str:
    path = tmp_path / "pairs.tsv"
    path.write_text("sentence1\tsentence2\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    return str(path)


def feedback(folder: Path, task: str, *more: str, out: str = "out") -> int:
    return cli.main(["feedback", task, "--out", str(folder / f"{out}.jsonl"), "--cache", str(folder / "cache"), *more])


@pytest.fixture(scope="session")
def tiny_encoder(tiny_bert, tmp_path_factory):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    body = Transformer(tiny_bert)
    SentenceTransformer(modules=[body, Pooling(16, "mean")], device="cpu").save(str(folder))
    return folder


def test_an_encoder_rates_by_cosine(tmp_path, pairs, tiny_encoder, monkeypatch):
    from sentence_transformers import SentenceTransformer

    rater = ["--model", f"encoder:{tiny_encoder}", "--data", pairs]
    assert feedback(tmp_path, "score", *rater) == 0
    records = lines(tmp_path / "out.jsonl")
    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    for record, (a, b) in zip(records, PAIRS, strict=True):
        u, v = model.encode(a), model.encode(b)
        cosine = float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        assert record["raw_score"] == pytest.approx(cosine, abs=1e-4)
        assert record["score"] == max(0.0, record["raw_score"])
        assert record["model"].startswith(f"{tiny_encoder.name}@")
        assert record["prompt"] is None
    before = (tmp_path / "out.jsonl").read_bytes()
    monkeypatch.setattr("cse.feedback.raters.Rater.ask", None)  # a second time there is nothing to ask
    assert feedback(tmp_path, "score", *rater) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert feedback(tmp_path, "score", "--model", f"encoder:{tiny_encoder}", "--data", pairs, out="other") == 0


def test_an_encoder_that_gives_a_vector_of_0_rates_nothing(tmp_path, pairs, tiny_encoder, monkeypatch, capsys):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr(SentenceTransformer, "encode", lambda self, texts, **_: np.zeros((len(texts), 16)))
    assert feedback(tmp_path, "score", "--model", f"encoder:{tiny_encoder}", "--data", pairs) == 2
    assert f"--model {tiny_encoder}: {PAIRS[0][0]!r} has the vector 0" in capsys.readouterr().err


def test_a_cross_encoder_rates_through_a_sigmoid(tmp_path, pairs, tiny_bert, capsys):
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, set_seed

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    for outputs in (1, 3):
        set_seed(1)
        config = BertConfig.from_pretrained(tiny_bert, num_labels=outputs)
        network = BertForSequenceClassification(config).eval()
        network.save_pretrained(tmp_path / f"cross{outputs}")
        tokenizer.save_pretrained(tmp_path / f"cross{outputs}")
        if outputs == 1:
            with torch.inference_mode():
                inputs = [tokenizer(a, b, return_tensors="pt") for a, b in PAIRS]
                expected = [torch.sigmoid(network(**i).logits).item() for i in inputs]
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{tmp_path / 'cross1'}", "--data", pairs) == 0
    assert [r["score"] for r in lines(tmp_path / "out.jsonl")] == pytest.approx(expected, abs=1e-4)
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{tmp_path / 'cross3'}", "--data", pairs) == 2
    assert "3 outputs" in capsys.readouterr().err
