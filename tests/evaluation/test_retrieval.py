"""Retrieval: measures by pencil and against mteb's, blocks and files on the disk, prompts, every way to give rows."""

import json
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

from cse import Encoder
from cse.encoder.vectors import unit
from cse.evaluation import NanoBEIR, Retrieval
from cse.evaluation.encoding import changing
from cse.evaluation.evaluators import retrieval as ranking
from cse.evaluation.evaluators.retrieval import HUB, SETS, measure_rankings, nearest, role_prompt
from tests.evaluation.helpers import collection, tables, write_beir
from tests.refusals import refuses

MEASURES = [f"{name}@{k}" for name in ("ndcg", "mrr", "recall", "map", "precision", "hit") for k in (1, 3, 10)]


class Angles:
    """Texts are numbers: the angles of their vectors, in degrees."""

    def encode(self, texts, *, batch_size=64):
        angles = np.radians([float(text.split()[-1]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


QUERIES = {"q1": "0", "q2": "90"}
CORPUS = {"a": "1", "b": "5", "c": "10", "d": "89"}
QRELS = {"q1": {"b": 1, "c": 2}, "q2": ["d"]}


def retrieval(**options):
    return Retrieval(queries=QUERIES, corpus=CORPUS, qrels=QRELS, **options)


def test_measures_by_pencil():
    # q1 ranks a, b, c, d with relevances 0, 1, 2, 0; q2 ranks d first.
    found = retrieval(measures=MEASURES)(Angles())
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    gained = 1 / np.log2(3) + 2 / np.log2(4)
    assert found["ndcg@10"] == pytest.approx(50 * (gained / ideal + 1))
    assert found["mrr@10"] == pytest.approx(50 * (1 / 2 + 1))
    assert found["map@10"] == pytest.approx(50 * ((1 / 2 + 2 / 3) / 2 + 1))
    assert found["recall@3"] == pytest.approx(100)
    assert found["recall@1"] == found["mrr@1"] == found["hit@1"] == found["precision@1"] == pytest.approx(50)
    assert found["precision@3"] == pytest.approx(50 * (2 / 3 + 1 / 3))


def test_documents_of_another_encoder_by_hand(tiny_bert, tmp_path):
    """A small encoder asks, and a large one has encoded the documents; vectors of two sizes are refused."""
    for name, seed in {"small": 1, "large": 2}.items():
        torch.manual_seed(seed)
        Encoder(tiny_bert, head="mlp", export_head=True).save(tmp_path / name)
    small, large = (Encoder.load(str(tmp_path / name)) for name in ("small", "large"))
    texts = ["the cat sat", "a dog ran", "on a mat", "the dog sat", "a cat ran on", "mat the"]
    documents, queries = dict(zip("abcdef", texts, strict=True)), {"q": "the cat ran", "r": "a mat"}
    judged = {"q": ["a"], "r": ["c"]}
    scored = Retrieval(queries=queries, corpus=documents, qrels=judged, documents=str(tmp_path / "large"))(small)
    of_documents, of_queries = unit(large.encode(texts)), unit(small.encode(list(queries.values())))
    ranks = (-of_queries @ of_documents.T).argsort(1).argsort(1)[[0, 1], [0, 2]]
    assert scored["ndcg@10"] == pytest.approx(100 * np.mean(1 / np.log2(ranks + 2)))
    small.truncate(4)
    other = Retrieval(queries=queries, corpus=documents, qrels=judged, documents=str(tmp_path / "large"))
    refuses("makes vectors of 16 numbers, and the encoder of queries 4", other, small)


def big(seed, queries=40, documents=300, dim=6):
    rng = np.random.default_rng(seed)
    judged = {
        f"q{i}": {f"d{d}": int(rng.integers(0, 4)) for d in rng.permutation(documents)[:8]} for i in range(queries)
    }
    judged = {query: found for query, found in judged.items() if max(found.values()) > 0}
    draw = lambda n: rng.normal(size=(n, dim)).astype(np.float32)  # noqa: E731
    return judged, ranking.unit(draw(len(judged))), ranking.unit(draw(documents))


def test_measures_equal_mtebs(monkeypatch):
    """mteb rounds its means, so the values of its queries are compared."""
    retrieval_metrics = pytest.importorskip("mteb._evaluators.retrieval_metrics")
    judged, queries, corpus = big(0)
    cosines = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    slow = {query: {f"d{d}": float(c) for d, c in enumerate(row)} for query, row in zip(judged, cosines, strict=True)}
    found, score = nearest(queries, corpus, 10, np.full((len(judged), 1), -1))
    ranked = {
        query: {f"d{d}": float(c) for d, c in zip(*row, strict=True)}
        for query, *row in zip(judged, found, score, strict=True)
    }
    ours = measure_rankings(judged, ranked, MEASURES)
    theirs = retrieval_metrics.calculate_retrieval_scores(slow, judged, [1, 3, 10])
    names = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit": "success"}
    mrr = retrieval_metrics.mrr(judged, slow, [1, 3, 10])
    for measure, values in ours.items():
        name, k = measure.split("@")
        wanted = mrr[f"MRR@{k}"] if name == "mrr" else [theirs.all_scores[q][f"{names[name]}_{k}"] for q in judged]
        np.testing.assert_allclose(values, wanted, atol=1e-6, err_msg=measure)


def test_blocks_do_not_matter(monkeypatch):
    _, queries, corpus = big(1)
    nothing = np.full((len(queries), 1), -1)
    whole = nearest(queries, corpus, 20, nothing)
    monkeypatch.setattr(ranking, "QUERIES", 7)
    monkeypatch.setattr("cse.mining.neighbors.BLOCK", 32)
    rows, cosines = nearest(queries, corpus, 20, nothing)
    np.testing.assert_array_equal(rows, whole[0])
    np.testing.assert_allclose(cosines, whole[1], atol=1e-6)


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert, pooler="mean")


@pytest.mark.parametrize("kept", [True, False], ids=["in the cache", "for once"])
def test_a_large_corpus_lies_on_the_disk(encoder, tmp_path, monkeypatch, kept):
    queries, corpus, qrels = collection(0)
    evaluator = Retrieval(queries=queries, corpus=corpus, qrels=qrels, precision="fp32")
    whole = evaluator(encoder)
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    monkeypatch.setattr(ranking, "CHUNK", 16)
    opened, read, encode = [], [], Encoder.encode_read
    exact = ranking.Exact
    monkeypatch.setattr(ranking, "Exact", lambda pool, device: opened.append(pool) or exact(pool, device))
    with nullcontext() if kept else changing():
        assert evaluator(encoder) == pytest.approx(whole)
    assert all(isinstance(pool, np.memmap) for pool in opened)
    assert bool(list(tmp_path.rglob("*.npy"))) == kept
    if kept:
        monkeypatch.setattr(
            Encoder, "encode_read", lambda self, one, **more: read.append(one.texts) or encode(self, one, **more)
        )
        assert evaluator(encoder) == pytest.approx(whole)
        assert sum(read) <= len(queries) + 1  # the corpus was read back; one text more may set up threads


def test_prompts_by_role(tiny_bert):
    named = Encoder(tiny_bert, pooler="mean", prompts={"query": "ask: ", "passage": "read: ", "other": "x "})
    queries, corpus, qrels = collection(1)
    parts = {"corpus": corpus, "qrels": qrels, "precision": "fp32"}
    found = Retrieval(queries=queries, **parts).measure(named)[0]
    assert (found.about["query_prompt"], found.about["document_prompt"]) == ("query", "passage")
    plain = Encoder(tiny_bert, pooler="mean")
    plain.load_state_dict(named.state_dict())
    asked, read = ({k: f"{word}: {v}" for k, v in rows.items()} for word, rows in (("ask", queries), ("read", corpus)))
    by_hand = Retrieval(queries=asked, corpus=read, qrels=qrels, precision="fp32")
    for name, array in by_hand.measure(plain)[0].arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, atol=1e-6)
    assert role_prompt(named, "other", ("query",)) == "other"
    refuses("prompt_name is 'absent'", lambda: Retrieval(queries=queries, query_prompt="absent", **parts)(named))


def test_documents_with_the_id_of_the_query_are_skipped():
    rows = {"x": "0", "y": "1", "z": "50"}
    options = {"queries": {"x": "0"}, "corpus": rows, "qrels": {"x": ["y"]}, "measures": ["mrr@10"]}
    assert Retrieval(**options)(Angles())["mrr@10"] == pytest.approx(50)
    assert Retrieval(skip_same_id=True, **options)(Angles())["mrr@10"] == pytest.approx(100)


def test_every_way_to_give_the_rows(encoder, tmp_path):
    queries, corpus, qrels = collection(2)
    folder = write_beir(tmp_path / "set", queries, corpus, qrels)
    judged = [(q, d, r) for q, found in qrels.items() for d, r in found.items()]
    frame = pd.DataFrame(judged, columns=["query-id", "corpus-id", "score"])
    ways = [
        {"data": str(folder)},
        {"data": folder},
        {"queries": queries, "corpus": corpus, "qrels": qrels},
        {"queries": list(queries.items()), "corpus": list(corpus.items()), "qrels": judged},
        {"queries": queries, "corpus": corpus, "qrels": [pair[:2] for pair in judged]},
        {"queries": queries, "corpus": corpus, "qrels": frame},
        {"queries": [{"id": k, "text": v} for k, v in queries.items()], "corpus": corpus, "qrels": qrels},
        {name: folder / f"{name}.jsonl" for name in ("queries", "corpus")} | {"qrels": str(folder / "qrels/test.tsv")},
    ]
    found = [Retrieval(precision="fp32", **way).measure(encoder)[0] for way in ways]
    assert len({one.sha256 for one in found}) == 1
    assert len({one.value for one in found}) == 1
    assert [found[0].name, found[2].name] == ["set", "retrieval"]


def test_a_title_comes_before_the_text(tmp_path):
    folder = write_beir(tmp_path / "set", QUERIES, CORPUS, {"q1": {"b": 1}}, title="On angles")
    assert Retrieval(folder)._rows.documents["b"] == "On angles 5"
    assert Retrieval(
        queries=QUERIES, corpus={"b": {"title": "T", "text": "5"}}, qrels={"q1": ["b"]}
    )._rows.documents == {"b": "T 5"}


@pytest.mark.parametrize("judgments", ["default", "qrels"])
def test_hub(monkeypatch, encoder, judgments):
    import datasets

    from cse.assets import hub

    queries, corpus, qrels = collection(3)
    parts = tables(queries, corpus, qrels)
    held = {(part, part): parts[part] for part in ("corpus", "queries")}
    held[judgments, "dev"] = [row | {"score": 1} for row in parts["qrels"]]

    def load(path, config, *, split, revision=None):
        assert (path, revision) == ("org/set", "v1")
        if (config, split) not in held:
            raise ValueError(f"BuilderConfig '{config}' not found. Available: ['corpus', 'queries']")
        return datasets.Dataset.from_list(held[config, split])

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    found = Retrieval("org/set@v1", split="dev", precision="fp32").measure(encoder)[0]
    own = Retrieval(queries=queries, corpus=corpus, qrels=qrels, precision="fp32").measure(encoder)[0]
    assert (found.name, found.where, found.sha256, found.value) == ("set", "Hub org/set@v1", own.sha256, own.value)
    del held["corpus", "corpus"]
    refuses("needs the name of a configuration", Retrieval, "org/set@v1", split="dev")


def test_what_cannot_be_scored_is_counted(encoder):
    qrels = [
        ("q1", "b", 1), ("q1", "b", 1), ("q1", "gone", 1), ("nobody", "a", 1), ("q2", "a", 0), ("q4", "a", 1),
    ]  # fmt: skip
    evaluator = Retrieval(queries=QUERIES | {"q3": "7", "q4": "  "}, corpus=CORPUS, qrels=qrels)
    unknown = {"judgments_of_unknown_documents": 1, "judgments_of_unknown_queries": 1}
    assert evaluator._rows.left_out == unknown | {"queries_without_relevant_document": 2, "blank_queries": 1}
    found = evaluator.measure(Angles())[0]
    assert (found.n, found.about["left_out"]) == (1, evaluator._rows.left_out)


NOTHING = dict.fromkeys(("queries", "corpus", "qrels"))
BAD = {
    "a corpus with an id twice": ({"corpus": [("a", "1"), ("a", "2")]}, "'a' occurs twice, the second time in row 2"),
    "queries with an id twice": ({"queries": [("q1", "1"), ("q1", "1")]}, "queries: the id 'q1' occurs twice"),
    "an empty corpus": ({"corpus": {}}, "has no documents"),
    "no queries": ({"queries": {}}, "no query of rows in memory has a relevant document"),
    "no judgments": ({"qrels": {}}, "2 queries without relevant document"),
    "only judgments of 0": ({"qrels": [("q1", "a", 0)]}, "no query of rows in memory has a relevant document"),
    "only unknown ids": ({"qrels": {"x": ["a"]}}, "1 judgments of unknown queries"),
    "a relevance that is a word": ({"qrels": [("q1", "a", "yes")]}, "row 1 has the relevance 'yes'"),
    "a relevance of one half": ({"qrels": [("q1", "a", 0.5)]}, "which must be an integer"),
    "two relevances": ({"qrels": [("q1", "a", 1), ("q1", "a", 2)]}, "have the relevances 1 and 2"),
    "a missing id": ({"corpus": [{"_id": "a", "text": "1"}, {"_id": None, "text": "2"}]}, "row 2 has no id"),
    "no column of ids": ({"corpus": [{"key": "a", "text": "1"}]}, "none of the columns key, text is '_id'"),
    "no column of texts": ({"queries": [{"_id": "a", "words": "1"}]}, "none of the columns _id, words is 'text'"),
    "no column of documents": ({"qrels": [{"query-id": "q1", "doc": "a"}]}, "is 'corpus-id'"),
    "tuples of three for texts": ({"corpus": [("a", "1", "2")]}, "row 1 has 3 cells"),
    "texts that are numbers": ({"queries": [("q1", [1])]}, "has a list instead of a text"),
    "a part that is missing": ({"qrels": None}, "given are queries, corpus"),
    "both a folder and parts": ({"data": "folder"}, "given are data, queries, corpus, qrels"),
    "nothing": (NOTHING, "given are none of them"),
    "a folder that does not exist": ({"data": "a/b/c", **NOTHING}, "does not exist"),
    "an unknown measure": ({"measures": ["ndcg"]}, r"\['ndcg'\], in which 'ndcg' is unknown"),
    "a measure at 0": ({"measures": ["ndcg@0"]}, "is unknown"),
    "no measure": ({"measures": []}, "evaluator.measures"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(case):
    options, message = BAD[case]
    refuses(message, Retrieval, **{"queries": QUERIES, "corpus": CORPUS, "qrels": QRELS} | options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "corpus.jsonl").unlink(), "has no corpus.jsonl"),
        (lambda folder: (folder / "qrels/test.tsv").rename(folder / "qrels/dev.tsv"), r"its splits \(dev\)"),
        (lambda folder: (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\n"), "has 2 cells"),
    ],
)  # fmt: skip
def test_bad_folders(tmp_path, change, message):
    folder = write_beir(tmp_path / "set", QUERIES, CORPUS, {"q1": {"b": 1}})
    change(folder)
    refuses(message, Retrieval, folder)


@pytest.fixture
def nano(tmp_path):
    """Two sets, each as a folder in the layout of BEIR, and both as a copy of the Hub's data set."""
    for number, name in enumerate(("NanoNQ", "NanoFEVER")):
        queries, corpus, qrels = collection(number)
        write_beir(tmp_path / "folders" / name, queries, corpus, qrels, split="train")
        for part, rows in tables(queries, corpus, qrels).items():
            (tmp_path / "copy" / part).mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_parquet(tmp_path / "copy" / part / f"{name}-00000-of-00001.parquet")
    return tmp_path


@pytest.mark.parametrize("layout", ["folders", "copy"])
def test_the_mean_over_sets(nano, hash_encoder, layout):
    evaluator = NanoBEIR(["NQ", "nanofever"], data=nano / layout)
    found, findings = evaluator.answer(hash_encoder())[:2]
    alone = [
        Retrieval(nano / "folders" / name, split="train")(hash_encoder())["ndcg@10"] for name in ("NanoNQ", "NanoFEVER")
    ]
    assert [f.name for f in findings] == ["NanoNQ", "NanoFEVER"]
    assert found[evaluator.primary] == found["mean"] == pytest.approx(sum(alone) / 2)
    assert [found["NanoNQ/ndcg@10"], found["NanoFEVER/ndcg@10"]] == pytest.approx(alone)
    one = NanoBEIR(["NQ"], data=nano / layout)
    assert one(hash_encoder())[one.primary] == pytest.approx(alone[0])


def test_the_hub(monkeypatch, hash_encoder):
    import datasets

    from cse.assets import hub

    asked, parts = [], tables(*collection(2))

    def load(path, config, *, split):
        asked.append((path, config, split))
        return datasets.Dataset.from_list(parts[config])

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    evaluator = NanoBEIR()
    assert set(asked) == {(HUB, part, f"Nano{name}") for part in ("corpus", "queries", "qrels") for name in SETS}
    assert evaluator(hash_encoder())["mean"] > 0
    assert len(evaluator.texts()) == 13


def test_what_is_missing(nano):
    refuses("'Wikipedia', which is not a set of NanoBEIR", NanoBEIR, ["Wikipedia"])
    refuses(r"no folder NanoMSMARCO and no file corpus/NanoMSMARCO\.\*", NanoBEIR, ["MSMARCO"], data=nano / "copy")
    (nano / "copy" / "corpus" / "NanoNQ-00001.jsonl").write_text(json.dumps({"_id": "a", "text": "b"}))
    refuses("2 files corpus/NanoNQ", NanoBEIR, ["NQ"], data=nano / "copy")
