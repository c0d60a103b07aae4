"""What several tests of evaluation make: a finding, an evaluator of a user, and a small collection to search in."""

import json
from types import SimpleNamespace

import numpy as np

from cse import Evaluator, STSEvaluator
from cse.evaluation.evaluator import EvalResult
from cse.evaluation.evaluators.sts import score_all
from cse.evaluation.scoring import describe

GRADED = [(i % 6, f"a {i} common {'word ' * (i % 3)}", f"a {i * 7 % 11} common") for i in range(40)]


class Numbers(Evaluator):
    """An evaluator of a user, who wrote no more than the interface asks for."""

    primary = "words"

    def __call__(self, encoder):
        return {"words": 3.0, "letters": 15.0}


def finding(name="A", values=(1.0, 0.0, 1.0, 1.0), **changes):
    options = {
        "kind": "triplets",
        "measures": {"accuracy": ("mean", "correct")},
        "arrays": {"correct": values},
        "primary": "accuracy",
        "unit": "triplets",
        "sha256": "0",
        "where": "a list",
    }
    return EvalResult.of(name, **options | changes)


def collection(seed, queries=6, documents=40):
    """Queries, a corpus and judgments, each by its ids."""
    rng = np.random.default_rng(seed)
    words = ["cat", "dog", "moon", "sun", "tree", "river", "house", "bread"]
    made = [f"{' '.join(rng.choice(words, 5))} {i}" for i in range(queries + documents)]
    return (
        {f"q{i}": text for i, text in enumerate(made[:queries])},
        {f"d{i}": text for i, text in enumerate(made[queries:])},
        {f"q{i}": {f"d{j}": 1 for j in rng.permutation(documents)[:3]} for i in range(queries)},
    )


def tables(queries, corpus, qrels):
    """A collection as the rows of the Hub's data sets."""
    return {
        "queries": [{"_id": k, "text": v} for k, v in queries.items()],
        "corpus": [{"_id": k, "text": v} for k, v in corpus.items()],
        "qrels": [{"query-id": q, "corpus-id": d} for q, found in qrels.items() for d in found],
    }


def write_beir(folder, queries, corpus, qrels, split="test", title=None):
    """A folder in the layout of BEIR."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("queries", queries), ("corpus", corpus)):
        extra = {} if title is None or name == "queries" else {"title": title}
        lines = [json.dumps({"_id": key, **extra, "text": text}) for key, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{r}" for q, found in qrels.items() for d, r in found.items())]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def score_pairs(subsets, embed, name="task"):
    """The score of one task."""
    return score_all({name: subsets}, embed).tasks[name]


def score_sts(encoder, tasks, data=None, check=True):
    """What an evaluator of STS tasks says: scores by task, findings, average, missing; and results, a function."""
    evaluator = STSEvaluator.of_found(tasks, data, check=check)
    answer, missing = evaluator.answer(encoder), evaluator.missing

    def results(name, resamples=50):
        about = {"precision": "fp32", "requested": tasks, "missing": missing}
        return describe([answer], model={"name": name}, resamples=resamples, **about)

    average = None if missing else answer.scores["dev"]
    scores = evaluator.score(encoder).tasks
    return SimpleNamespace(scores=scores, findings=answer.findings, average=average, missing=missing, results=results)
