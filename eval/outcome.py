"""What a fine-tune brings: `cse adapt` beside the documented recipe of sentence-transformers, scored by neither.

Both get the same start, pairs and number of pairs to train on. The vectors of both are those of
`SentenceTransformer`, and nDCG@10 is computed here.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cse
from cse.console import say
from cse.evaluation.before_after import general_search
from cse.evaluation.statistic import bootstrap, interval
from cse.files import read_json, write_json

BATCH, RATE = 64, 2e-5  # of sentence-transformers' examples for this loss
DEPTH = 10  # ranks that count


def measure(data: Path, encoder: str, steps: int, out: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Adapt and fine-tune for each seed, score on the test split, and write outcome.json.

    Args:
        data: A folder in the layout of BEIR, with qrels/train.tsv and qrels/test.tsv.
        encoder: The start: a folder that sentence-transformers loads.
        steps: The budget: steps of 64 pairs.
        out: The folder to write. What it has already is not done again.
        seeds: The seeds.
    """
    texts = {name: _texts(data / f"{name}.jsonl") for name in ("queries", "corpus")}
    pairs = [(texts["queries"][q], texts["corpus"][d]) for q, d in _judged(data / "qrels" / "train.tsv")]
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"question": a, "answer": b}) + "\n" for a, b in pairs)
    (out / "pairs.jsonl").write_text(lines, encoding="utf-8")
    rows = [_row("start", 0, 0.0, encoder, texts, data, None)]
    for seed in seeds:
        for name, train in (("cse adapt", _adapt), ("sentence-transformers", _fine_tune)):
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            if not (folder / "model.json").is_file():
                start = time.process_time()
                model = train(pairs, out / "pairs.jsonl", encoder, steps, folder, seed)
                write_json(folder / "model.json", {"model": model, "seconds": round(time.process_time() - start, 1)})
            about = read_json(folder / "model.json")
            rows.append(_row(name, seed, about["seconds"], about["model"], texts, data, rows[0]))
            del rows[-1]["each"]
    del rows[0]["each"]
    write_json(out / "outcome.json", {"data": str(data), "encoder": encoder, "steps": steps, "rows": rows})
    return rows


def _adapt(pairs: Sequence[Any], path: Path, encoder: str, steps: int, folder: Path, seed: int) -> str:
    found = cse.adapt(str(path), encoder=encoder, budget=f"{steps}steps", out=folder, seed=seed)
    return encoder if found.model is None else str(found.model)


def _fine_tune(pairs: Sequence[tuple[str, str]], path: Path, encoder: str, steps: int, folder: Path, seed: int) -> str:
    """MultipleNegativesRankingLoss with its no-duplicates sampler, a tenth of warm-up, bf16 where it is native."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    from cse.evaluation.encoding import resolve_precision

    model = SentenceTransformer(encoder)
    rows = datasets.Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=min(steps, 3 * len(pairs) // BATCH),
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        warmup_ratio=0.1,
        bf16=resolve_precision(model, "auto") == "bf16",
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.save(str(folder / "best"))
    return str(folder / "best")


def _row(
    name: str, seed: int, seconds: float, model: str, texts: dict[str, Any], data: Path, start: dict[str, Any] | None
) -> dict[str, Any]:
    """The scores of a model, with the interval of its gain over the start."""
    from sentence_transformers import SentenceTransformer

    each = ndcg(SentenceTransformer(model), texts, _judged(data / "qrels" / "test.tsv"))
    general = cse.evaluate(model, ["sts-mini", general_search()]).results["tasks"]
    row = {"name": name, "seed": seed, "seconds": seconds, "ndcg@10": float(each.mean()), "each": each}
    row |= {task: about["value"] for task, about in general.items()}
    if start is not None:
        drawn = bootstrap("mean", [[each - start["each"]]], "outcome")[0]
        row["gain"], row["interval"] = float((each - start["each"]).mean()), list(interval(drawn))
    shown = "".join(f"   {key} {value:.2f}" for key, value in row.items() if isinstance(value, float))
    say("outcome", f"{name}, seed {seed}{shown}   {row.get('interval', '')}")
    return row


def ndcg(model: Any, texts: dict[str, dict[str, str]], judged: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """nDCG@10 x 100 (Q,) of each query among all documents of the corpus, where a judged document is relevant."""
    relevant: dict[str, set[str]] = {}
    for query, document in judged:
        relevant.setdefault(query, set()).add(document)
    documents = list(texts["corpus"])
    d = model.encode([texts["corpus"][key] for key in documents], normalize_embeddings=True)
    q = model.encode([texts["queries"][key] for key in relevant], normalize_embeddings=True)
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    found = []
    for vector, wanted in zip(q, relevant.values(), strict=True):
        scores = d @ vector  # (N,)
        nearest = np.argsort(-scores, kind="stable")[:DEPTH]
        gains = np.array([documents[i] in wanted for i in nearest], dtype=float)
        found.append(100 * (gains * discounts[: len(gains)]).sum() / discounts[: len(wanted)].sum())
    return np.array(found)


def _texts(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {str(row["_id"]): " ".join(filter(None, [row.get("title", ""), row["text"]])) for row in rows}


def _judged(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (query, document) for query, document, score in list(csv.reader(file, delimiter="\t"))[1:] if int(score)
        ]
