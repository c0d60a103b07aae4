"""Retrieval: are the documents nearest to a query those that answer it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from cse.data.reading.sources import HUB_ID
from cse.errors import UserError, require_package
from cse.evaluation import retrieval_rows
from cse.evaluation.encoding import device_of, embedder
from cse.evaluation.finding import Finding, Measuring
from cse.evaluation.ranking import corpus_vectors, measure_rankings, nearest, parse_measures, searchable
from cse.evaluation.retrieval_rows import RetrievalRows
from cse.interfaces import SentenceEncoder

MEASURES = ("ndcg@10", "mrr@10", "recall@100", "map@100")
QUERY_PROMPTS = ("query",)  # names of prompts that models have for a role, as sentence-transformers looks for them
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class Retrieval(Measuring):
    """Measures x 100 of the documents that are nearest to each query, among all documents of a corpus.

    Documents are compared by cosine, or by distance if the model is compared by distance.

    Args:
        data: A folder in the layout of BEIR, or a Hub id such as `mteb/scifact`. None: the next three are given.
        queries: The queries: a mapping of texts by id, rows (id, text), or a file; see `cse.evaluation.retrieval_rows`.
        corpus: The documents, likewise, where a title is put before its text.
        qrels: The judgments: a mapping of ids of documents by that of the query, rows (query id, document id[,
            relevance]), or a file.
        split: The split of the judgments, for `data`.
        measures: Names of measures: `ndcg@K`, `mrr@K`, `recall@K`, `map@K`, `precision@K`, `hit@K`. The first one
            selects checkpoints.
        skip_same_id: Whether a document with the id of the query is never found, as where queries are documents.
        query_prompt: The name of the prompt that is put before queries. None: the model's prompt `query` if it has
            one, else its default prompt.
        document_prompt: The same for documents, where the model's prompt is `document`, `passage` or `corpus`.
        precision: fp32, bf16, or auto: bf16 where native.
        name: The name of the rows in results. None: that of the folder.

    Raises:
        UserError: The rows cannot be read, an id occurs twice, or no query has a relevant document.

    Source:
        BEIR (arXiv:2104.08663); the measures are those of pytrec_eval, as in BEIR and mteb.

    Deviations:
        Judgments of documents that the corpus lacks are left out and counted, where mteb lowers the recall.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        queries: str | Path | Sized | None = None,
        corpus: str | Path | Sized | None = None,
        qrels: str | Path | Sized | None = None,
        split: str = "test",
        measures: Sequence[str] = MEASURES,
        skip_same_id: bool = False,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        precision: str = "auto",
        name: str | None = None,
    ) -> None:
        require_package("pytrec_eval", extra="retrieval", user="cse.evaluation.Retrieval")
        parse_measures(measures)
        self.data, self.queries, self.corpus, self.qrels, self.split = data, queries, corpus, qrels, split
        self.measures, self.skip_same_id, self.precision = tuple(measures), skip_same_id, precision
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        self._rows = _read(data, queries, corpus, qrels, split, name)
        self.name, self.primary = self._rows.name, self.measures[0]
        self._texts = list(self._rows.queries.values())  # documents may be trained on

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """Score an encoder, with the measures of each query."""
        prompts = (
            role_prompt(encoder, self.query_prompt, QUERY_PROMPTS),
            role_prompt(encoder, self.document_prompt, DOCUMENT_PROMPTS),
        )
        return [score_rows(encoder, self._rows, self.measures, prompts, self.precision, skip_same_id=self.skip_same_id)]

    def describe(self) -> str:
        """What is scored, and what was left out."""
        rows = self._rows
        counts = "".join(f"; {count:,} {what.replace('_', ' ')} left out" for what, count in rows.left_out.items())
        return f"retrieval {self.name}, {len(rows.queries):,} queries, {len(rows.documents):,} documents{counts}"


def role_prompt(encoder: Any, wanted: str | None, known: Sequence[str]) -> str | None:
    """The name of the prompt for a role: the one that is asked for, or the model's own; None: its default prompt."""
    prompts: Mapping[str, str] = getattr(encoder, "prompts", None) or {}
    return wanted or next((name for name in known if prompts.get(name)), None)


def score_rows(
    encoder: Any,
    rows: RetrievalRows,
    measures: Sequence[str],
    prompts: tuple[str | None, str | None],
    precision: str = "auto",
    *,
    skip_same_id: bool = False,
) -> Finding:
    """Rank the documents for each query and measure the rankings.

    Args:
        encoder: The encoder.
        rows: The rows.
        measures: Names of measures; the first one is primary.
        prompts: The names of the prompts of queries and documents.
        precision: fp32, bf16 or auto.
        skip_same_id: Whether a document with the id of the query is never found.
    """
    ids, place = list(rows.documents), {key: i for i, key in enumerate(rows.documents)}
    depth = min(len(ids), max(k for _, k in parse_measures(measures).values()))
    asked = embedder(encoder, precision, prompt=prompts[0])(list(rows.queries.values()))
    banned = np.array([[place.get(key, -1) if skip_same_id else -1] for key in rows.queries], dtype=np.int64)
    with corpus_vectors(encoder, list(rows.documents.values()), precision, prompts[1]) as corpus:
        queries = searchable(encoder, asked, of_queries=True)
        found, similarity = nearest(queries, corpus, depth, banned, str(device_of(encoder)))  # (Q, depth)
    ranked = {
        query: {ids[i]: float(score) for i, score in zip(at, of, strict=True) if i >= 0}
        for query, at, of in zip(rows.queries, found, similarity, strict=True)
    }
    return Finding.of(
        rows.name,
        kind="retrieval",
        measures={name: ("mean", name) for name in measures},
        arrays=measure_rankings(rows.judged, ranked, measures),
        primary=measures[0],
        unit="queries",
        sha256=rows.sha256,
        where=rows.where,
        about={
            "documents": len(ids),
            "judgments": sum(map(len, rows.judged.values())),
            "left_out": dict(rows.left_out),
            "query_prompt": prompts[0],
            "document_prompt": prompts[1],
            "skip_same_id": skip_same_id,
        },
    )


def _read(
    data: str | Path | None,
    queries: str | Path | Sized | None,
    corpus: str | Path | Sized | None,
    qrels: str | Path | Sized | None,
    split: str,
    name: str | None,
) -> RetrievalRows:
    parts = (queries, corpus, qrels)
    if data is None and queries is not None and corpus is not None and qrels is not None:
        paths = [str(part) for part in parts if isinstance(part, str | Path)]
        where = ", ".join(paths) or "rows in memory"
        return retrieval_rows.gather(queries, corpus, qrels, where=where, name=name or "retrieval")
    if data is None or any(part is not None for part in parts):
        raise UserError(
            "evaluator.data is the whole set, and queries, corpus and qrels are its three parts; "
            f"given are {', '.join(_given(data, *parts)) or 'none of them'}\nfix: give data, or all three parts"
        )
    if Path(data).expanduser().exists():
        return retrieval_rows.read_folder(Path(data).expanduser(), split, name)
    if HUB_ID.fullmatch(str(data)) is None:
        raise UserError(f"evaluator.data: the folder {data} does not exist\nfix: {retrieval_rows.FIX}")
    return retrieval_rows.read_hub(str(data), split, name)


def _given(*parts: object) -> list[str]:
    names = ("data", "queries", "corpus", "qrels")
    return [name for name, part in zip(names, parts, strict=True) if part is not None]
