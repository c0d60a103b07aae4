"""What a fine-tune brings: `cse adapt` beside the documented recipe of sentence-transformers, scored by neither.

Both get the same start, rows and number of steps. The vectors of both are those of `SentenceTransformer`, and nDCG@10
is computed here. Labeled texts are pairs by label for sentence-transformers; a test text searches for those of its
label among the other test texts, none of which was trained on. Of texts alone, sentence-transformers' recipe is
unsupervised SimCSE: each text is its own positive, under dropout.
"""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Rows:
    """The rows of both sides, and the search that scores them.

    Attributes:
        given: The rows of `cse adapt`.
        pairs: The same rows as pairs of texts.
        corpus: The text of each document.
        queries: The text of each query. A query that is a document too does not find itself.
        relevant: The documents that each query has to find.
    """

    given: Sequence[Mapping[str, str]]
    pairs: Sequence[tuple[str, str]]
    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, set[str]]


def measure(
    data: Path, encoder: str, steps: int, out: Path, seeds: Sequence[int], *, texts_only: bool = False
) -> list[dict[str, Any]]:
    """Adapt and fine-tune for each seed, score on the test split, and write outcome.json.

    Args:
        data: A folder in the layout of BEIR, with qrels/train.tsv and qrels/test.tsv; or with the labeled texts
            train.tsv and test.tsv, of the columns label and text.
        encoder: The start: a folder that sentence-transformers loads.
        steps: The budget: steps of 64 pairs.
        out: The folder to write. What it has already is not done again.
        seeds: The seeds.
        texts_only: Train on the documents alone, or on the texts without their labels.
    """
    read = labeled_texts(data) if (data / "train.tsv").is_file() else judged_pairs(data)
    if texts_only:
        texts = list(dict.fromkeys(document for _, document in read.pairs))
        read = replace(read, given=[{"text": text} for text in texts], pairs=[(text, text) for text in texts])
    out.mkdir(parents=True, exist_ok=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in read.given), encoding="utf-8")
    rows = [_row("start", 0, 0.0, encoder, read, {})]
    for seed in seeds:
        for name, train in (("sentence-transformers", _fine_tune), ("cse adapt", _adapt)):
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            if not (folder / "model.json").is_file():
                start = processor_seconds()
                model = train(read.pairs, out / "rows.jsonl", encoder, steps, folder, seed)
                write_json(folder / "model.json", {"model": model, "seconds": round(processor_seconds() - start, 1)})
            made = read_json(folder / "model.json")
            others = {"start": rows[0]} | ({"sentence-transformers": rows[-1]} if name == "cse adapt" else {})
            rows.append(_row(name, seed, made["seconds"], made["model"], read, others))
    for row in rows:
        del row["each"]
    about = {"data": str(data), "texts_only": texts_only, "encoder": encoder, "steps": steps}
    write_json(out / "outcome.json", about | {"rows": rows})
    return rows


def processor_seconds() -> float:
    """Count the seconds of all processors that this process, its threads and its finished children used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _adapt(pairs: Sequence[Any], path: Path, encoder: str, steps: int, folder: Path, seed: int) -> str:
    found = cse.adapt(str(path), encoder=encoder, budget=f"{steps}steps", out=folder, seed=seed)
    return encoder if found.model is None else str(found.model)


def _fine_tune(pairs: Sequence[tuple[str, str]], path: Path, encoder: str, steps: int, folder: Path, seed: int) -> str:
    """MultipleNegativesRankingLoss, without duplicates in a batch, a tenth of warm-up, bf16 where it is native."""
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
        batch_sampler=BatchSamplers.BATCH_SAMPLER if pairs[0][0] == pairs[0][1] else BatchSamplers.NO_DUPLICATES,
        save_strategy="no",
        report_to="none",
        use_cpu=model.device.type == "cpu",
        seed=seed,
    )
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.save(str(folder / "best"))
    return str(folder / "best")


def _row(
    name: str, seed: int, seconds: float, model: str, read: Rows, others: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The scores of a model, with its gain over others, each with the interval over the queries."""
    from sentence_transformers import SentenceTransformer

    each = ndcg(SentenceTransformer(model), read)
    general = cse.evaluate(model, ["sts-mini", general_search()]).results["tasks"]
    row = {"name": name, "seed": seed, "seconds": seconds, "ndcg@10": float(each.mean()), "each": each}
    row |= {task: about["value"] for task, about in general.items()}
    shown = "".join(f"   {key} {value:.2f}" for key, value in row.items() if isinstance(value, float))
    for other, theirs in others.items():
        gain = each - theirs["each"]
        low, high = interval(bootstrap("mean", [[gain / 100]], "outcome")[0])
        row[f"over {other}"] = {"gain": float(gain.mean()), "interval": [low, high]}
        shown += f"   over {other} {gain.mean():+.2f} ({low:+.2f} to {high:+.2f})"
    say("outcome", f"{name}, seed {seed}{shown}")
    return row


def ndcg(model: Any, read: Rows) -> NDArray[np.float64]:
    """nDCG@10 x 100 (Q,) of each query among all documents, where a relevant one gains 1."""
    documents = list(read.corpus)
    places = {key: place for place, key in enumerate(documents)}
    d = model.encode([read.corpus[key] for key in documents], normalize_embeddings=True)
    q = model.encode([read.queries[key] for key in read.relevant], normalize_embeddings=True)
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    found = []
    for vector, (key, wanted) in zip(q, read.relevant.items(), strict=True):
        scores = d @ vector  # (N,)
        if key in places:
            scores[places[key]] = -np.inf
        nearest = np.argsort(-scores, kind="stable")[:DEPTH]
        gains = np.array([documents[i] in wanted for i in nearest], dtype=float)
        found.append(100 * (gains * discounts[: len(gains)]).sum() / discounts[: len(wanted)].sum())
    return np.array(found)


def judged_pairs(data: Path) -> Rows:
    """Read a folder in the layout of BEIR: its training pairs, and its test queries."""
    queries, corpus = _texts(data / "queries.jsonl"), _texts(data / "corpus.jsonl")
    pairs = [(queries[query], corpus[document]) for query, document in _judged(data / "qrels" / "train.tsv")]
    relevant: dict[str, set[str]] = {}
    for query, document in _judged(data / "qrels" / "test.tsv"):
        relevant.setdefault(query, set()).add(document)
    given = [{"question": question, "answer": answer} for question, answer in pairs]
    return Rows(given, pairs, corpus, queries, relevant)


def labeled_texts(data: Path) -> Rows:
    """Read labeled texts: each one for training with another of its label, and a search among those for the test."""
    train, test = (_table(data / f"{name}.tsv")[1:] for name in ("train", "test"))
    texts = {str(place): text for place, (_, text) in enumerate(test)}
    of_label: dict[str, set[str]] = {}
    for place, (label, _) in enumerate(test):
        of_label.setdefault(label, set()).add(str(place))
    others = {str(place): of_label[label] - {str(place)} for place, (label, _) in enumerate(test)}
    relevant = {key: wanted for key, wanted in others.items() if wanted}
    given = [{"label": label, "text": text} for label, text in train]
    return Rows(given, _by_label(train), texts, texts, relevant)


def _by_label(rows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Each text followed by the next one of its label in a drawn order."""
    of_label: dict[str, list[str]] = {}
    for label, text in random.Random(0).sample(rows, len(rows)):
        of_label.setdefault(label, []).append(text)
    circles = [list(zip(texts, texts[1:] + texts[:1], strict=True)) for texts in of_label.values() if len(texts) > 1]
    return [pair for circle in circles for pair in circle]


def _texts(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {str(row["_id"]): " ".join(filter(None, [row.get("title", ""), row["text"]])) for row in rows}


def _judged(path: Path) -> list[tuple[str, str]]:
    return [(query, document) for query, document, score in _table(path)[1:] if int(score)]


def _table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))
