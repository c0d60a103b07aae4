"""Retrieval: are the documents nearest to a query those that answer it?"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.reading.sources import HUB_ID
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.job import CHUNK, cached_vectors
from cse.encoder.model import Encoder
from cse.encoder.vectors import unit
from cse.errors import UserError, require_package
from cse.evaluation.encoding import comparison, cosine, device_of, embedder, is_changing, resolve_precision
from cse.evaluation.evaluator import MEAN, EvalResult, RowEvaluator
from cse.evaluation.evaluators import retrieval_rows
from cse.evaluation.evaluators.retrieval_rows import RetrievalRows
from cse.evaluation.loading import load_model
from cse.interfaces import SentenceEncoder
from cse.mining.neighbors import Exact, Found

QUERIES = 256  # queries that are searched at once: 256 x 16,384 cosines
LIBRARY = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit": "success"}
MEASURE = re.compile(rf"(?P<name>{'|'.join([*LIBRARY, 'mrr'])})@(?P<k>[1-9]\d*)")
MEASURES = ("ndcg@10", "mrr@10", "recall@100", "map@100")
QUERY_PROMPTS = ("query",)  # names of prompts that models have for a role, as sentence-transformers looks for them
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
HUB = "sentence-transformers/NanoBEIR-en"
PARTS = ("corpus", "queries", "qrels")
SETS = (
    "ArguAna",
    "ClimateFEVER",
    "DBPedia",
    "FEVER",
    "FiQA2018",
    "HotpotQA",
    "MSMARCO",
    "NFCorpus",
    "NQ",
    "QuoraRetrieval",
    "SCIDOCS",
    "SciFact",
    "Touche2020",
)


@dataclass(eq=False, repr=False)
class Retrieval(RowEvaluator):
    """Measures x 100 of the documents that are nearest to each query, among all documents of a corpus.

    Documents are compared by cosine, or by distance if the model is compared by distance.

    Args:
        data: A folder in the layout of BEIR, or a Hub id such as `mteb/scifact`. None: the next three are given.
        queries: The queries: a mapping of texts by id, rows (id, text), or a file; see `retrieval_rows`.
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
        documents: The checkpoint that encodes documents, where the one that is scored encodes queries alone (LEAF,
            arXiv:2509.12539): its teacher, in whose space it has its vectors. None: one encodes both.
        name: The name of the rows in results. None: that of the folder.

    Raises:
        UserError: The rows cannot be read, an id occurs twice, or no query has a relevant document.

    Source:
        BEIR (arXiv:2104.08663); the measures are those of pytrec_eval, as in BEIR and mteb.

    Deviations:
        Judgments of documents that the corpus lacks are left out and counted, where mteb lowers the recall.
    """

    data: str | Path | None = None
    _: KW_ONLY
    queries: str | Path | Sized | None = None
    corpus: str | Path | Sized | None = None
    qrels: str | Path | Sized | None = None
    split: str = "test"
    measures: Sequence[str] = MEASURES
    skip_same_id: bool = False
    query_prompt: str | None = None
    document_prompt: str | None = None
    precision: str = "auto"
    documents: str | None = None
    name: str | None = None  # type: ignore[assignment]  # a text once the rows are read

    def __post_init__(self) -> None:
        require_package("pytrec_eval", extra="retrieval", user="cse.evaluation.Retrieval")
        parse_measures(self.measures)
        self._rows = self._read()
        self.name, self.primary = self._rows.name, self.measures[0]
        self._texts = list(self._rows.queries.values())  # documents may be trained on
        self._of_documents = None if self.documents is None else load_model(self.documents).encoder

    def _read(self) -> RetrievalRows:
        data, split, name = self.data, self.split, self.name
        parts = {"queries": self.queries, "corpus": self.corpus, "qrels": self.qrels}
        given = {part: source for part, source in parts.items() if source is not None}
        if data is None and len(given) == len(parts):
            paths = [str(source) for source in given.values() if isinstance(source, str | Path)]
            where = ", ".join(paths) or "rows in memory"
            return retrieval_rows.gather(**given, where=where, name=name or "retrieval")
        if data is None or given:
            named = [*([] if data is None else ["data"]), *given]
            raise UserError(
                "evaluator.data is the whole set, and queries, corpus and qrels are its three parts; "
                f"given are {', '.join(named) or 'none of them'}\nfix: give data, or all three parts"
            )
        if Path(data).expanduser().exists():
            return retrieval_rows.read_folder(Path(data).expanduser(), split, name)
        if HUB_ID.fullmatch(str(data)) is None:
            raise UserError(f"evaluator.data: the folder {data} does not exist\nfix: {retrieval_rows.FIX}")
        return retrieval_rows.read_hub(str(data), split, name)

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        other, skips = self._of_documents or encoder, self.skip_same_id
        asked = role_prompts(encoder, self.query_prompt)[0], role_prompts(other, document=self.document_prompt)[1]
        return [score_rows(encoder, self._rows, self.measures, asked, self.precision, other, skip_same_id=skips)]

    def describe(self) -> str:
        rows = self._rows
        counts = "".join(f"; {count:,} {what.replace('_', ' ')} left out" for what, count in rows.left_out.items())
        return f"retrieval {self.name}, {len(rows.queries):,} queries, {len(rows.documents):,} documents{counts}"


def role_prompt(encoder: Any, wanted: str | None, known: Sequence[str]) -> str | None:
    """The name of the prompt for a role: the one that is asked for, or the model's own; None: its default prompt."""
    prompts: Mapping[str, str] = getattr(encoder, "prompts", None) or {}
    return wanted or next((name for name in known if prompts.get(name)), None)


def role_prompts(encoder: Any, query: str | None = None, document: str | None = None) -> tuple[str | None, str | None]:
    """The names of the prompts of queries and of documents."""
    return role_prompt(encoder, query, QUERY_PROMPTS), role_prompt(encoder, document, DOCUMENT_PROMPTS)


def score_rows(
    encoder: Any,
    rows: RetrievalRows,
    measures: Sequence[str],
    prompts: tuple[str | None, str | None],
    precision: str = "auto",
    documents: Any = None,
    *,
    skip_same_id: bool = False,
) -> EvalResult:
    """Rank the documents for each query and measure the rankings.

    `prompts` are the names of those of queries and documents; the first of the measures is primary. `documents` is the
    encoder of documents, if it is another one.
    """
    ids, place = list(rows.documents), {key: i for i, key in enumerate(rows.documents)}
    depth = min(len(ids), max(k for _, k in parse_measures(measures).values()))
    asked = embedder(encoder, precision, prompt=prompts[0])(list(rows.queries.values()))
    banned = np.array([[place.get(key, -1) if skip_same_id else -1] for key in rows.queries], dtype=np.int64)
    with corpus_vectors(documents or encoder, list(rows.documents.values()), precision, prompts[1]) as corpus:
        queries = searchable(encoder, asked, of_queries=True)
        if queries.shape[1] != corpus.shape[1]:
            raise UserError(
                f"evaluator.documents makes vectors of {corpus.shape[1]} numbers, and the encoder of queries "
                f"{queries.shape[1]}\nfix: give its teacher, whose space it was trained to share"
            )
        found, similarity = nearest(queries, corpus, depth, banned, str(device_of(encoder)))  # (Q, depth)
    ranked = {
        query: {ids[i]: float(score) for i, score in zip(at, of, strict=True) if i >= 0}
        for query, at, of in zip(rows.queries, found, similarity, strict=True)
    }
    return EvalResult.of(
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


@dataclass(eq=False, repr=False)
class NanoBEIR(RowEvaluator):
    """Measures x 100 of each set, and the mean over sets; see `Retrieval`.

    Args:
        sets: Names of sets, such as `MSMARCO`. None: all thirteen.
        data: The Hub id, whose splits are `NanoMSMARCO` ... in each of corpus, queries and qrels; or a folder: a copy
            of it, or one with a folder `NanoMSMARCO` ... in the layout of BEIR for each set.
        measures: Names of measures. The mean of the first one selects checkpoints.
        query_prompt: See `Retrieval` for this and the next two.
        document_prompt: The name of the prompt for documents.
        precision: fp32, bf16 or auto.

    Raises:
        UserError: A set is unknown, or cannot be read.
    """

    name = "NanoBEIR"

    sets: Sequence[str] | None = None
    _: KW_ONLY
    data: str | Path = HUB
    measures: Sequence[str] = MEASURES
    query_prompt: str | None = None
    document_prompt: str | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        require_package("pytrec_eval", extra="retrieval", user="cse.evaluation.NanoBEIR")
        parse_measures(self.measures)
        known = {name.lower(): name for name in SETS}
        wanted = SETS if self.sets is None else self.sets
        other = [name for name in wanted if name.lower().removeprefix("nano") not in known]
        if other or not wanted:
            raise UserError(
                f"evaluator.sets has {', '.join(map(repr, other)) or 'no name'}, which is not a set of NanoBEIR\n"
                f"fix: give some of {', '.join(SETS)}"
            )
        names = dict.fromkeys(f"Nano{known[name.lower().removeprefix('nano')]}" for name in wanted)
        self._rows = [_read_set(self.data, name) for name in names]
        self.primary = self.measures[0] if len(self._rows) == 1 else MEAN

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        prompts = role_prompts(encoder, self.query_prompt, self.document_prompt)
        return [score_rows(encoder, rows, self.measures, prompts, self.precision) for rows in self._rows]

    def texts(self, data: str | None = None) -> dict[str, list[tuple[str, ...]]]:
        return {rows.name: [(text,) for text in rows.queries.values()] for rows in self._rows}

    def describe(self) -> str:
        return f"NanoBEIR, {len(self._rows)} sets, {sum(len(rows.queries) for rows in self._rows):,} queries"


def is_nano(folder: Path) -> bool:
    """Tell whether a folder holds sets of NanoBEIR."""
    return bool([*folder.glob("Nano*/corpus.jsonl"), *(folder / "corpus").glob("Nano*")])


def _read_set(data: str | Path, name: str) -> RetrievalRows:
    folder = Path(data).expanduser()
    if not folder.exists():
        return retrieval_rows.read_hub(str(data), name, name, parts=name)
    if (folder / name).is_dir():
        splits = [path.stem for path in sorted((folder / name / "qrels").glob("*.tsv"))]
        return retrieval_rows.read_folder(folder / name, splits[0] if len(splits) == 1 else "test", name)
    files = {part: sorted((folder / part).glob(f"{name}[-.]*")) for part in PARTS}
    for part, found in files.items():
        if len(found) != 1:
            what = f"{len(found)} files {part}/{name}.*" if found else f"no folder {name} and no file {part}/{name}.*"
            raise UserError(f"evaluator.data: {folder} has {what}\nfix: give a copy of {HUB}, or other sets")
    paths = {part: str(found[0]) for part, found in files.items()}
    return retrieval_rows.gather(paths["queries"], paths["corpus"], paths["qrels"], where=str(folder), name=name)


def parse_measures(names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """The measure and its cut-off, by name: `ndcg@10` is ("ndcg", 10)."""
    found = {name: MEASURE.fullmatch(name) for name in names}
    wrong = next((name for name, match in found.items() if match is None), None)
    if wrong is not None or not found:
        raise UserError(
            f"evaluator.measures is {list(names)!r}, in which {wrong!r} is unknown\n"
            f"fix: give some of {', '.join(f'{name}@K' for name in [*LIBRARY, 'mrr'])}, such as ndcg@10"
        )
    return {name: (match["name"], int(match["k"])) for name, match in found.items() if match is not None}


def measure_rankings(
    judged: Mapping[str, Mapping[str, int]], ranked: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> dict[str, list[float]]:
    """The measures of each query, in [0, 1], in the order of `ranked`.

    MRR@k is the reciprocal rank of the first relevant document, and 0 if the rank exceeds k. Documents of equal scores
    are ranked by their ids, as in trec_eval.

    Source:
        `pytrec_eval`, which is trec_eval: the gain of nDCG is the relevance itself.
    """
    library = require_package("pytrec_eval", extra="retrieval", user="cse.evaluation.Retrieval")
    wanted = parse_measures(names)
    asked = {f"{LIBRARY[name]}.{k}" if name in LIBRARY else "recip_rank" for name, k in wanted.values()}
    scores = library.RelevanceEvaluator({q: dict(d) for q, d in judged.items()}, asked).evaluate(
        {query: dict(documents) for query, documents in ranked.items()}
    )
    found: dict[str, list[float]] = {}
    for measure, (name, k) in wanted.items():
        if name in LIBRARY:
            found[measure] = [scores[query][f"{LIBRARY[name]}_{k}"] for query in ranked]
        else:
            first = [scores[query]["recip_rank"] for query in ranked]
            found[measure] = [value if value * (k + 0.5) > 1 else 0.0 for value in first]
    return found


def searchable(encoder: Any, vectors: NDArray[np.floating], *, of_queries: bool = False) -> NDArray[np.float32]:
    """Vectors (n, D) whose inner products rank documents as the encoder's similarity does.

    For cosines they have unit length. For distances they have one more component: -|d|²/2 of a document and 1 of a
    query, since q·d - |d|²/2 = (|q|² - |q - d|²) / 2.
    """
    if comparison(encoder) is cosine:
        return unit(np.asarray(vectors, dtype=np.float32))
    last = np.ones(len(vectors)) if of_queries else -np.square(vectors).sum(1) / 2
    return np.column_stack([vectors, last]).astype(np.float32)


@contextmanager
def corpus_vectors(
    encoder: Any, texts: Sequence[str], precision: str, prompt: str | None
) -> Iterator[NDArray[np.float32]]:
    """The vectors (N, D) of a corpus to search; those of a large one are on the disk, and in memory block by block.

    They stay in the cache, under the hash of the model, except for an encoder in training, one that is not of cse, or
    one that is compared by distance: they are deleted in the end.
    """
    embed = embedder(encoder, precision, prompt=prompt)
    if len(texts) <= CHUNK:
        yield searchable(encoder, embed(list(texts)))
    elif isinstance(encoder, Encoder) and comparison(encoder) is cosine and not is_changing():
        resolved: Any = resolve_precision(encoder, precision)
        yield cached_vectors(encoder, model_hash(encoder), texts, resolved, encoder.prompt_text(prompt))
    else:
        with tempfile.TemporaryDirectory(prefix="cse-corpus-") as scratch:
            shape = (len(texts), searchable(encoder, embed([texts[0]])).shape[1])
            vectors = np.memmap(Path(scratch, "corpus"), dtype=np.float32, mode="w+", shape=shape)
            for start in range(0, len(texts), CHUNK):
                part = searchable(encoder, embed(list(texts[start : start + CHUNK])))
                vectors[start : start + len(part)] = part
            yield vectors
            del vectors  # Windows cannot delete a file that is mapped


def nearest(
    queries: NDArray[np.float32],
    corpus: NDArray[np.float32],
    depth: int,
    banned: NDArray[np.int64],
    device: str = "cpu",
) -> Found:
    """The `depth` best rows of the corpus (N, D) for each query (Q, D), and their inner products, both (Q, depth).

    The corpus may be on the disk; see `searchable` for it and the queries. Rows (Q, E) that are banned are not found.
    """
    pool, parts = Exact(corpus, device), []
    for start in range(0, len(queries), QUERIES):
        place = slice(start, start + QUERIES)
        parts.append(pool.search(queries[place], depth, banned[place]))
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([cosine for _, cosine in parts])
