"""Static vectors: the oracle, pencil, and the way through sentence-transformers and cse."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cse.cli import main
from cse.encoder.model import Encoder
from cse.encoder.vectors import unit
from cse.errors import UserError
from cse.inference.static import fit_table, sortedness, static_checkpoint, token_vectors
from tests.conftest import WORDS


def means(table, ids):
    """The unit mean of each text's tokens (-1 fills); zero for a text without tokens."""
    rows = [table[row[row >= 0]] for row in ids]
    return unit(np.stack([row.mean(0) if len(row) else np.zeros(table.shape[1]) for row in rows]))


def test_every_case_of_the_oracle(oracles):
    cases = {n: c for n, c in json.loads((oracles / "static.json").read_text()).items() if isinstance(c, dict)}
    assert cases
    for name, case in cases.items():
        data = np.load(oracles / f"static_{name}.npz")
        dimensions = data["token_vectors"].shape[1] if case["pca"] == "auto" else case["pca"]
        table = fit_table(data["token_vectors"], dimensions=dimensions, sif=case["sif"])
        assert table.shape == data["table"].shape
        vectors = means(table, data["ids"])
        assert np.abs(vectors @ vectors.T - data["cosines"]).max() < 1e-5
        assert np.abs(np.linalg.norm(table, axis=1) - np.linalg.norm(data["table"], axis=1)).max() < 1e-5


def test_weights_by_pencil():
    # 1/2, 1/3 and 1/4 sum to 13/12, so the probabilities are 6/13, 4/13 and 3/13; a is 1/13
    table = fit_table(np.ones((3, 1)), dimensions=None, sif=1 / 13)
    assert table[:, 0].tolist() == pytest.approx([1 / 7, 1 / 5, 1 / 4])
    ranked = fit_table(np.ones((3, 1)), dimensions=None, sif=1 / 13, ranks=np.array([2, 0, 1]))
    assert ranked[:, 0].tolist() == pytest.approx([1 / 4, 1 / 7, 1 / 5])


def test_the_order_of_a_vocabulary():
    counts = np.arange(200)[::-1]
    assert sortedness(counts) == pytest.approx(1)
    assert sortedness(counts[::-1]) == pytest.approx(-1)
    assert abs(sortedness(np.random.default_rng(0).permutation(200) + 1)) < 0.2
    assert sortedness(np.eye(200, dtype=int)[0]) is None  # one token occurs


def test_arguments_out_of_range():
    for wrong, message in (({"dimensions": 0}, "is 0"), ({"dimensions": 4}, "is 4"), ({"sif": 0.0}, "sif is 0")):
        with pytest.raises(UserError, match=message):
            fit_table(np.eye(3), **wrong)


def test_a_token_has_the_vector_of_a_text_of_it_alone(tiny_bert):
    encoder = Encoder.load(tiny_bert)
    ids = encoder.tokenizer.convert_tokens_to_ids(WORDS[:4])
    assert np.abs(token_vectors(encoder, ids) - encoder.encode(WORDS[:4])).max() < 1e-6


def test_the_command(tiny_bert, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    out, data = tmp_path / "static", tmp_path / "texts.txt"
    arguments = ["static", tiny_bert, "--out", str(out), "--dimensions", "6"]
    assert main(arguments) == 0
    assert "not sorted by frequency" in capsys.readouterr().out  # 16 words say nothing
    data.write_text("moon moon sun\nmoon the\n")
    assert main([*arguments, "--data", str(data)]) == 0  # the old one is replaced
    assert "warning" not in capsys.readouterr().out

    encoder = Encoder.load(tiny_bert)
    ids = encoder.tokenizer.convert_tokens_to_ids(WORDS)
    order = ["moon", *[w for w in WORDS if w in ("the", "sun")]]
    order += [w for w in WORDS if w not in order]
    ranks = np.array([order.index(w) for w in WORDS])
    table = fit_table(token_vectors(encoder, ids), dimensions=6, ranks=ranks)
    at = {word: i for i, word in enumerate(WORDS)}
    texts = ["the cat sat", "sat the cat", "moon nonsense", "nonsense", ""]
    rows = [[at[w] for w in text.split() if w in at] for text in texts]
    want = means(table, np.array([row + [-1] * (3 - len(row)) for row in rows]))
    found = SentenceTransformer(str(out), device="cpu").encode(texts)
    assert np.abs(found - want).max() < 1e-6
    assert not found[3:].any()  # an unknown word, and no word, have no direction


def test_cse_scores_it(tiny_bert, tmp_path, capsys):
    out = tmp_path / "static"
    static_checkpoint(tiny_bert, out)
    results = tmp_path / "r.json"
    data = tmp_path / "pairs.tsv"
    lines = [
        f"{score}\t{a} {b}\t{b} {c}" for score, (a, b, c) in enumerate(zip(WORDS, WORDS[1:], WORDS[2:], strict=False))
    ]
    data.write_text("score\tsentence1\tsentence2\n" + "\n".join(lines))
    assert main(["eval", str(out), "--data", str(data), "--out", str(results), "--device", "cpu"]) == 0
    found = json.loads(results.read_text())
    assert found["model"]["loader"] == "sentence-transformers"
    assert found["model"]["max_length"] is None
