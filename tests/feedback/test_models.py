"""Raters, which run here: an encoder and a cross-encoder."""

from pathlib import Path

import numpy as np
import pytest

from cse import cli
from tests.feedback.helpers import lines
from tests.mining.conftest import save_reranker  # noqa: F401
from tests.models import save_embedder

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
    return Path(save_embedder(tiny_bert, tmp_path_factory.mktemp("encoder")))


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


def test_a_cross_encoder_rates_through_a_sigmoid(tmp_path, pairs, save_reranker, capsys):  # noqa: F811
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    one, three = save_reranker(), save_reranker(3)
    network, tokenizer = BertForSequenceClassification.from_pretrained(one).eval(), AutoTokenizer.from_pretrained(one)
    with torch.inference_mode():
        expected = [torch.sigmoid(network(**tokenizer(*pair, return_tensors="pt")).logits).item() for pair in PAIRS]
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{one}", "--data", pairs) == 0
    assert [r["score"] for r in lines(tmp_path / "out.jsonl")] == pytest.approx(expected, abs=1e-4)
    assert feedback(tmp_path, "score", "--model", f"cross-encoder:{three}", "--data", pairs) == 2
    assert "3 outputs" in capsys.readouterr().err
