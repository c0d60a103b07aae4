import json

import pandas as pd
import pytest

from cse.errors import UserError
from cse.evaluation import NanoBEIR, Retrieval
from cse.evaluation.evaluators.retrieval import HUB, SETS
from tests.evaluation.helpers import collection, tables, write_beir


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
    with pytest.raises(UserError, match="'Wikipedia', which is not a set of NanoBEIR"):
        NanoBEIR(["Wikipedia"])
    with pytest.raises(UserError, match=r"no folder NanoMSMARCO and no file corpus/NanoMSMARCO\.\*"):
        NanoBEIR(["MSMARCO"], data=nano / "copy")
    (nano / "copy" / "corpus" / "NanoNQ-00001.jsonl").write_text(json.dumps({"_id": "a", "text": "b"}))
    with pytest.raises(UserError, match="2 files corpus/NanoNQ"):
        NanoBEIR(["NQ"], data=nano / "copy")
