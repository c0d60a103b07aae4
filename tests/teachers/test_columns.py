"""What teachers say of rows: against models that are asked one pair or one text at a time."""

import json

import numpy as np
import pytest

import cse
from cse import Encoder, Pairs, Texts, Triplets, UserError, cli
from cse.teachers import columns
from tests.mining.conftest import save_reranker  # noqa: F401
from tests.refusals import refuses
from tests.runs import write_texts

FP32 = ["--precision", "fp32"]


@pytest.fixture(scope="module")
def encoder(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "model"
    Encoder(tiny_bert, pooler="mean").save(folder)
    return str(folder)


@pytest.fixture
def triplets(tmp_path):
    """Rows of anchor, positive and two negatives, of which one lacks the second."""
    texts = write_texts(tmp_path, 40).read_text().splitlines()
    rows = [
        dict(zip(("anchor", "positive", "negative_1", "negative_2"), texts[i : i + 4], strict=True))
        for i in range(0, 40, 4)
    ]
    rows[3]["negative_2"] = None
    (tmp_path / "triplets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "triplets.jsonl"), [tuple(filter(None, row.values())) for row in rows]


def teach(*arguments):
    assert cli.main(["teach", *map(str, arguments), *FP32]) == 0


def table(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_cross_encoder_gives_logits_of_every_pair(triplets, save_reranker, tmp_path):  # noqa: F811
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    path, rows = triplets
    judge, out = save_reranker(), tmp_path / "out.jsonl"
    teach(path, "--model", judge, "--out", out)
    model, options = CrossEncoder(judge), {"activation_fn": Identity(), "show_progress_bar": False}
    for got, texts in zip(table(out), rows, strict=True):
        want = [float(model.predict([(texts[0], text)], **options)[0]) for text in texts[1:]]
        assert got["teacher"][: len(want)] == pytest.approx(want, abs=1e-4)
        assert got["teacher"][len(want) :] == [None] * (3 - len(want))
        assert [got["anchor"], got["positive"], got["negative_1"]] == list(texts[:3])
    manifest = json.loads((tmp_path / "out.json").read_text())
    assert manifest["settings"]["models"][0] | {"sha256": ""} == {
        "name": judge,
        "sha256": "",
        "gives": "logits",
        "numbers": 3,
    }


def test_several_logits_and_several_models(encoder, save_reranker, tmp_path):  # noqa: F811
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    pairs = [(f"the cat {i}", f"a dog {i} ran") for i in range(7)]
    three, out = save_reranker(3), tmp_path / "out.parquet"
    data = cse.teach([three, encoder], pairs, out, precision="fp32")
    assert isinstance(data, Pairs)
    assert data.teacher_columns == ["teacher_1", "teacher_2"]
    want = CrossEncoder(three).predict(pairs, activation_fn=Identity(), show_progress_bar=False)
    u, v = (Encoder.load(encoder).encode([pair[side] for pair in pairs]) for side in (0, 1))
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    got = np.array([row.teacher for row in data])
    assert np.allclose(got, np.c_[want, cosine], atol=1e-4)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_vectors_are_those_of_the_encoder(encoder, tmp_path, suffix):
    texts = write_texts(tmp_path, 20).read_text().splitlines()
    want = Encoder.load(encoder).encode(texts)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    out = tmp_path / f"out.{suffix}"
    teach(tmp_path / "texts.txt", "--model", encoder, "--out", out)
    got = np.array([row.teacher for row in Texts(out, teacher_columns=["teacher"])])
    assert np.allclose(got, want, atol=1e-5)
    pairs = cse.teach(encoder, list(zip(texts[::2], texts[1::2], strict=True)), out, vectors=True, precision="fp32")
    assert np.allclose([row.teacher for row in pairs], want.reshape(10, -1), atol=1e-5)


def test_a_killed_command_resumes_and_writes_the_same_file(triplets, save_reranker, tmp_path, monkeypatch):  # noqa: F811
    path, _ = triplets
    judge, whole, out = save_reranker(), tmp_path / "whole.parquet", tmp_path / "out.parquet"
    monkeypatch.setattr(columns, "ROWS", 3)
    teach(path, "--model", judge, "--out", whole)
    seen, ask = [], columns._numbers

    def killed(judge, rows):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(rows)
        return ask(judge, rows)

    monkeypatch.setattr(columns, "_numbers", killed)
    assert cli.main(["teach", path, "--model", judge, "--out", str(out), *FP32]) == 130
    assert not out.exists()
    with pytest.raises(UserError, match="unfinished run with different settings: model was"):
        columns.teach_rows([save_reranker()], Triplets(path), out, precision="fp32")
    monkeypatch.setattr(columns, "_numbers", lambda judge, rows: seen.append(rows) or ask(judge, rows))
    teach(path, "--model", judge, "--out", out)
    assert len(seen) == 4  # of ten rows in blocks of three
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out.json", "out.parquet"]


def test_what_does_not_fit_is_refused_before_any_work(triplets, encoder, save_reranker, tmp_path):  # noqa: F811
    path, _ = triplets
    texts, out = write_texts(tmp_path, 8), tmp_path / "out.parquet"
    for source, models, options, named in (
        (texts, [save_reranker()], {}, "reads two texts, and rows have one"),
        (path, [save_reranker(3)], {}, "has 3 logits of a pair, and rows have 4 texts"),
        (path, [encoder], {"vectors": True}, "rows of unequal numbers of texts"),
        (path, [encoder, encoder], {}, "each once"),
        (path, [], {}, "--model is empty"),
        (path, [encoder], {"prompt": "nonesuch"}, "--prompt"),
        (path, [encoder], {"precision": "fp8"}, "fp8"),
    ):
        refuses(named, cse.teach, models, str(source), out, **options)
    taught = Pairs([("a", "b", 1.0), ("c", "d", 2.0)], columns=["x", "y"], teacher_columns=["t"])
    refuses("numbers of a teacher already", cse.teach, encoder, taught, out)
    assert not list(tmp_path.glob("out*"))
