"""Post-processing: the oracles, pencil, limits, and the way through a checkpoint."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from cse import Encoder
from cse.cli import main
from cse.inference.whiten import fit_all_but_the_top, fit_clip, fit_whitening, layer_means, outliers, whiten
from cse.objectives.parts.functional import cosine_matrix
from tests.cases import cases, load
from tests.conftest import WORDS
from tests.refusals import refuses


def applied(dense, x):
    with torch.no_grad():
        return dense(torch.tensor(np.asarray(x), dtype=torch.float32))


def sentences(count=60):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 8))) for _ in range(count)]


@pytest.mark.parametrize("name", cases("bert_whitening", has=()))
def test_every_case_of_the_oracle(name):
    data = {key: array.numpy() for key, array in load("bert_whitening", name)[1].items()}
    y = applied(fit_whitening(data["X"], data["K"].shape[1]), data["X"])
    assert np.abs((y @ y.T).numpy() - data["y"] @ data["y"].T).max() < 1e-4
    block = data["cosine_block"]  # the first rows against the next ones
    n, m = block.shape
    assert np.abs(cosine_matrix(y[:n], y[n : n + m]).numpy() - block).max() < 1e-5


def test_errors():
    x = np.random.default_rng(3).normal(size=(4, 6))
    for k, message in ((0, "6 dimensions"), (7, "6 dimensions"), (4, "3 directions")):
        refuses(f"k is {k}.*{message}", fit_whitening, x, k)
    refuses("1 sentences", fit_whitening, x[:1], 1)


def test_the_command(tiny_bert, tmp_path, capsys):
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


def test_the_command_reads_columns(tiny_bert, tmp_path, capsys):
    texts, data = sentences(), tmp_path / "pairs.tsv"
    data.write_text("a\tb\n" + "\n".join("\t".join(pair) for pair in zip(texts[::2], texts[1::2], strict=True)))
    arguments = ["whiten", tiny_bert, "--data", str(data), "--columns", "a", "b", "--k", "4", "--out"]
    assert main([*arguments, str(tmp_path / "white")]) == 0
    assert main([*arguments, str(tmp_path / "white")]) == 0  # a checkpoint is replaced
    assert "60 sentences" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "white"), "--limit", "20"]) == 0
    assert "40 sentences" in capsys.readouterr().out


@pytest.mark.parametrize("name", cases("postprocess", has="remove_components"))
def test_every_case_of_outliers_and_all_but_the_top(name):
    about, data = load("postprocess", name)
    data = {key: array.numpy() for key, array in data.items()}
    means, last = data["layers"].mean(1), data["layers"][-1]
    assert outliers(means).tolist() == data["outliers_robust"].tolist()
    clipped = applied(fit_clip(means), last).numpy()
    kept = np.delete(np.arange(last.shape[1]), data["outliers_robust"])
    assert np.abs(clipped[:, kept] - data["clipped"][:, kept]).max() < 1e-6
    assert not clipped[:, data["outliers_robust"]].any()
    y = applied(fit_all_but_the_top(last, about["remove_components"]), last).numpy()
    assert np.abs(y - data["abtt"]).max() < 1e-4


def test_clipping_twice_is_clipping_once():
    means = np.random.default_rng(0).normal(size=(3, 40))
    means[:2, 7] = 60  # in two of three layers
    means[0, 9] = 60  # in one
    x = np.random.default_rng(1).normal(size=(5, 40))
    once = applied(fit_clip(means), x)
    assert torch.equal(applied(fit_clip(means), once.numpy()), once)
    assert (once == 0).all(0).nonzero().flatten().tolist() == [7]
    refuses("none of the 30 dimensions is an outlier", fit_clip, means[:, 10:])


def test_the_means_of_layers(tiny_bert):
    encoder, texts = Encoder.load(tiny_bert), sentences(5)
    rows = [encoder.pad([row]) for row in encoder.tokenize(texts)]
    every = [torch.cat([encoder.states(*row).hidden[layer][0] for row in rows]) for layer in range(3)]  # (tokens, H)
    want = np.stack([states.mean(0).detach().numpy() for states in every])
    assert np.abs(layer_means(encoder, texts) - want).max() < 1e-6
    refuses("the pooler cls", layer_means, Encoder.load(tiny_bert, pooler="cls"), texts)
    whitened = whiten(encoder, sentences(), 4)
    refuses("a Dense after pooling", layer_means, whitened, texts)


def test_all_but_the_top_through_a_checkpoint(tiny_bert, tmp_path, capsys):
    texts, data, out = sentences(), tmp_path / "texts.txt", tmp_path / "top"
    data.write_text("\n".join(texts))
    arguments = ["whiten", tiny_bert, "--data", str(data), "--out", str(out), "--method", "all-but-the-top"]
    assert main([*arguments, "--components", "2"]) == 0
    assert "all-but-the-top on 60 sentences, 16 -> 16 dimensions" in capsys.readouterr().out
    plain = Encoder.load(tiny_bert).encode(texts).astype(np.float64)
    centered = plain - plain.mean(0)
    top = np.linalg.svd(centered)[2][:2]  # (2, H)
    want = centered - centered @ top.T @ top
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert np.abs(Encoder.load(str(out)).encode(texts) - want).max() < 1e-4
