"""Whitening after training: the oracle, pencil, limits, and the way through a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cse.cli import main
from cse.encoder.heads import Normalize
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.inference.whiten import fit_whitening, whiten
from cse.objectives.functional import cosine_matrix
from tests.conftest import WORDS


def applied(dense, x):
    with torch.no_grad():
        return dense(torch.tensor(np.asarray(x), dtype=torch.float32))


def sentences(count=60):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 8))) for _ in range(count)]


def test_every_case_of_the_oracle(oracles):
    names = [n for n, c in json.loads((oracles / "bert_whitening.json").read_text()).items() if isinstance(c, dict)]
    assert names
    for name in names:
        data = np.load(oracles / f"bert_whitening_{name}.npz")
        y = applied(fit_whitening(data["X"], data["K"].shape[1]), data["X"])
        assert np.abs((y @ y.T).numpy() - data["y"] @ data["y"].T).max() < 1e-4
        block = data["cosine_block"]  # the first rows against the next ones
        n, m = block.shape
        assert np.abs(cosine_matrix(y[:n], y[n : n + m]).numpy() - block).max() < 1e-5


def test_by_pencil():
    # Variances 8/3 x 4 and 8/3: mean (5, 1), and the first component is the first axis
    x = np.array([[5 + 4.0, 1.0], [5 - 4.0, 1.0], [5.0, 1 + 2.0], [5.0, 1 - 2.0]])
    dense = fit_whitening(x, 1)
    variance = 32 / 3
    assert dense.linear.weight.abs().tolist()[0] == pytest.approx([1 / np.sqrt(variance), 0.0], abs=1e-6)
    assert applied(dense, x).abs().flatten().tolist() == pytest.approx([4 / np.sqrt(variance)] * 2 + [0, 0], abs=1e-6)


def test_the_fitted_vectors_are_white_whatever_their_scale():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 6)) @ np.diag([30, 10, 3, 1, 0.3, 0.1]) + 50
    y = applied(fit_whitening(x, 6), x).numpy()
    assert np.abs(y.mean(0)).max() < 1e-3
    assert np.abs(np.cov(y, rowvar=False) - np.eye(6)).max() < 1e-3


def test_fewer_dimensions_are_the_first_ones():
    x = np.random.default_rng(2).normal(size=(50, 5))
    assert torch.allclose(applied(fit_whitening(x, 5), x)[:, :2], applied(fit_whitening(x, 2), x), atol=1e-5)


def test_errors():
    x = np.random.default_rng(3).normal(size=(4, 6))
    for k, message in ((0, "6 dimensions"), (7, "6 dimensions"), (4, "3 directions")):
        with pytest.raises(UserError, match=f"k is {k}.*{message}"):
            fit_whitening(x, k)
    with pytest.raises(UserError, match="1 sentences"):
        fit_whitening(x[:1], 1)


def test_an_encoder_that_is_whitened(tiny_bert):
    texts = sentences()
    plain = Encoder.load(tiny_bert).encode(texts)
    encoder = whiten(Encoder.load(tiny_bert), texts, 4)
    vectors = encoder.encode(texts)
    assert encoder.dim == 4
    assert isinstance(encoder.post[-1], Normalize)
    want = torch.nn.functional.normalize(applied(fit_whitening(plain, 4), plain), dim=-1)
    assert np.abs(vectors - want.numpy()).max() < 1e-5


def test_the_command(tiny_bert, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    texts, data, out = sentences(), tmp_path / "texts.txt", tmp_path / "white"
    data.write_text("\n".join(texts))
    assert main(["whiten", tiny_bert, "--data", str(data), "--k", "4", "--out", str(out), "--pooler", "cls"]) == 0
    assert "60 sentences, 16 -> 4 dimensions" in capsys.readouterr().out
    encoder = Encoder.load(str(out))
    ours = encoder.encode(texts)
    want = whiten(Encoder.load(tiny_bert, pooler="cls"), texts, 4).encode(texts)
    assert np.abs(ours - want).max() < 1e-6
    theirs = SentenceTransformer(str(out), device="cpu").encode(texts)
    assert theirs.shape == (60, 4)
    raw = Encoder.load(tiny_bert, pooler="cls").encode(texts)
    model, states = SentenceTransformer(str(out), device="cpu"), {"sentence_embedding": torch.tensor(raw)}
    before = torch.nn.Sequential(*list(model)[:2])(model.preprocess(texts))["sentence_embedding"]
    assert np.abs(raw - before.detach().numpy()).max() < 1e-6
    for module in list(model)[2:]:  # on the same states: whitening magnifies float32's rounding of them 500 times
        states = module(states)
    assert np.abs(ours - states["sentence_embedding"].detach().numpy()).max() < 1e-5


def test_the_command_reads_columns_and_refuses_to_overwrite(tiny_bert, tmp_path, capsys):
    texts, data = sentences(), tmp_path / "pairs.tsv"
    data.write_text("a\tb\n" + "\n".join("\t".join(pair) for pair in zip(texts[::2], texts[1::2], strict=True)))
    arguments = ["whiten", tiny_bert, "--data", str(data), "--columns", "a", "b", "--k", "4", "--out"]
    assert main([*arguments, str(tmp_path / "white")]) == 0
    assert main([*arguments, str(tmp_path / "white")]) == 0  # a checkpoint is replaced
    assert "60 sentences" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "white"), "--limit", "20"]) == 0
    assert "40 sentences" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "white"), "--limit", "-1"]) == 2
    assert "--limit is -1" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path)]) == 2
    assert "exists and is not a checkpoint" in capsys.readouterr().err
    assert data.exists()
