"""The rows of a retrieval set: queries, a corpus, and judgments (qrels) of which documents are relevant for a query.

They are read from a folder in the layout of BEIR (corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv), from a data set on
the Hub with the configurations `corpus`, `queries` and `qrels` or `default`, or from the three given apart: a mapping,
rows in memory, or a file, with the column names in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

from cse.assets.hub import HubError
from cse.data.reading.memory import open_source
from cse.data.reading.rows import Column, Reader, number_in
from cse.errors import UserError
from cse.evaluation.evaluator import rows_hash

Source = str | Path | Sized
IDS = ("_id", "id", "query-id", "query_id", "qid", "corpus-id", "corpus_id", "doc_id", "docid", "pid")
TEXTS = ("text", "query", "question", "document", "passage", "content", "contents")
QUERIES = ("query-id", "query_id", "qid", "query")
DOCUMENTS = ("corpus-id", "corpus_id", "doc_id", "docid", "pid", "document")
SCORES = ("score", "relevance", "label")
FIX = "give a folder with corpus.jsonl, queries.jsonl and qrels/, a Hub id, or queries, corpus and qrels"


@dataclass(frozen=True)
class RetrievalRows:
    """A retrieval set, without what cannot be scored."""

    name: str  # a short name
    where: str  # the place that it was read from
    queries: Mapping[str, str]  # the text of each query that has a relevant document, by id
    documents: Mapping[str, str]  # the text of each document, by id; a title is put before its text
    # the relevance of documents by query, 0 for not relevant; every id is known
    judged: Mapping[str, Mapping[str, int]]
    # counts of what was left out: queries without a relevant document, judgments of unknown ids ...
    left_out: Mapping[str, int]
    sha256: str  # hash of all this


def read_folder(folder: Path, split: str, name: str | None = None) -> RetrievalRows:
    """A folder in the layout of BEIR."""
    parts = [folder / "queries.jsonl", folder / "corpus.jsonl", folder / "qrels" / f"{split}.tsv"]
    missing = [part.relative_to(folder).as_posix() for part in parts if not part.is_file()]
    if missing:
        splits = ", ".join(sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))) or "none"
        hint = f"name one of its splits ({splits}): split" if missing == [f"qrels/{split}.tsv"] else FIX
        raise UserError(f"evaluator.data: the folder {folder} has no {missing[0]}\nfix: {hint}")
    return gather(*map(str, parts), where=str(folder), name=name or folder.resolve().name)


def read_hub(path: str, split: str, name: str | None = None, *, parts: str | None = None) -> RetrievalRows:
    """A data set on the Hub, with a configuration for each part; judgments may be in `default`, as mteb's are.

    `split` is that of the judgments, and `parts` that of all parts, if they are not named `corpus` and `queries`.
    """
    repo, at, revision = path.partition("@")
    places = {part: f"{repo}:{part}{at}{revision}" for part in ("queries", "corpus", "qrels", "default")}
    queries = open_source(places["queries"], parts or "queries")
    corpus = open_source(places["corpus"], parts or "corpus")
    try:
        qrels = open_source(places["qrels"], parts or split)
    except HubError:
        raise
    except UserError:
        qrels = open_source(places["default"], parts or split)
    return _gathered(queries, corpus, qrels, where=f"Hub {path}", name=name or repo.rpartition("/")[2])


def gather(queries: Source, corpus: Source, qrels: Source, *, where: str, name: str) -> RetrievalRows:
    """Queries, corpus and judgments that are given apart.

    Args:
        queries: Texts by id: a mapping, tuples (id, text), dicts or a frame with columns for the two, or a file.
        corpus: The same, where a column `title` is put before the text.
        qrels: Judgments: a mapping from query ids to relevant ids or to {id: relevance}, tuples (query id, document id)
            or (query id, document id, relevance), dicts or a frame with columns for them, or a file.
        where: The place of the rows, for messages and results.
        name: A short name.

    Raises:
        UserError: An id occurs twice or is missing, a relevance is not an integer, or nothing is left to score.
    """
    texts, documents = (open_source(_listed(source)) for source in (queries, corpus))
    return _gathered(texts, documents, open_source(_pairs(qrels)), where=where, name=name)


def _gathered(queries: Reader, corpus: Reader, qrels: Reader, *, where: str, name: str) -> RetrievalRows:
    texts, documents = _texts(queries, "queries"), _texts(corpus, "corpus")
    if not documents:
        raise UserError(f"evaluator.corpus: {where} has no documents\nfix: give a corpus of one or more documents")
    left_out, judged = Counter[str](), dict[str, dict[str, int]]()
    for query, document, relevance in _judgments(qrels):
        if query not in texts:
            left_out["judgments_of_unknown_queries"] += 1
        elif document not in documents:
            left_out["judgments_of_unknown_documents"] += 1
        elif judged.setdefault(query, {}).setdefault(document, relevance) != relevance:
            raise UserError(
                f"evaluator.qrels: query {query!r} and document {document!r} have the relevances "
                f"{judged[query][document]} and {relevance}\nfix: remove one of the two judgments"
            )
    kept = {}
    for query, text in texts.items():
        if not text:
            left_out["blank_queries"] += 1
        elif max(judged.get(query, {}).values(), default=0) < 1:
            left_out["queries_without_relevant_document"] += 1
        else:
            kept[query] = text
    if not kept:
        counts = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in left_out.items()) or "no queries"
        raise UserError(
            f"evaluator.qrels: no query of {where} has a relevant document ({counts})\n"
            "fix: give judgments whose ids are those of the queries and of the corpus"
        )
    scored = {query: judged[query] for query in kept}
    rows = [*kept.items(), ("corpus", ""), *documents.items()]
    rows += [(query, f"{d}\t{r}") for query, found in scored.items() for d, r in found.items()]
    return RetrievalRows(name, where, kept, documents, scored, dict(left_out), rows_hash(rows))


def _listed(source: Source) -> Source:
    """A mapping of texts, or of documents with a title, as a list of dicts; any other source as it is."""
    if not isinstance(source, Mapping):
        return source
    return [{"_id": key, **(v if isinstance(v, Mapping) else {"text": v})} for key, v in source.items()]


def _pairs(source: Source) -> Source:
    """A mapping of judgments, or tuples with or without relevance, as a list of tuples of three."""
    if isinstance(source, list) and source and all(isinstance(row, list | tuple) and len(row) == 2 for row in source):
        return [(*row, 1) for row in source]
    if not isinstance(source, Mapping):
        return source
    return [
        (str(query), str(document), relevance)
        for query, judged in source.items()
        for document, relevance in (judged.items() if isinstance(judged, Mapping) else ((d, 1) for d in judged))
    ]


def _texts(source: Reader, option: str) -> dict[str, str]:
    """Texts by id."""
    names = source.names()
    columns = [_column(names, IDS, option, "_id"), _column(names, TEXTS, option, "text")]
    columns += [Column(f"evaluator.{option}", "title")] if names is not None and "title" in names else []
    found: dict[str, str] = {}
    for row in source.read(columns):
        identity, text, *title = (cell.strip() if cell is not None else "" for cell in row.cells)
        if not identity and not text:
            continue  # a blank line
        if not identity:
            raise UserError(f"evaluator.{option}: {row.place} has no id\nfix: give each row an id, in a column _id")
        if identity in found:
            raise UserError(
                f"evaluator.{option}: the id {identity!r} occurs twice, the second time in {row.place}\n"
                "fix: give each row an id of its own"
            )
        found[identity] = " ".join(filter(None, [*title, text]))
    return found


def _judgments(source: Reader) -> Iterator[tuple[str, str, int]]:
    """Query id, document id and relevance of each judgment."""
    names = source.names()
    columns = [_column(names, QUERIES, "qrels", "query-id"), _column(names, DOCUMENTS, "qrels", "corpus-id")]
    if names is None or any(name in SCORES for name in names):
        columns.append(_column(names, SCORES, "qrels", "score"))
    for row in source.read(columns):
        query, document, *given = ((cell or "").strip() for cell in row.cells)
        if not query and not document:
            continue  # a blank line
        relevance = number_in(given[0]) if given else 1.0
        if not relevance.is_integer():
            raise UserError(
                f"evaluator.qrels: {row.place} has the relevance {given[0]!r}, which must be an integer\n"
                "fix: write 1 for a relevant document, 0 for another one, or grades 0, 1, 2, ..."
            )
        yield query, document, int(relevance)


def _column(names: Sequence[str] | None, known: Sequence[str], option: str, otherwise: str) -> Column:
    """The column with one of the known names; for tuples, any name stands for the next cell."""
    found = next((name for name in known if name in (names or ())), None)
    if found is None and names is not None:
        raise UserError(
            f"evaluator.{option}: none of the columns {', '.join(names[:12]) or '(none)'} is {otherwise!r}\n"
            f"fix: name it {otherwise}, or {', '.join(name for name in known if name != otherwise)}"
        )
    return Column(f"evaluator.{option}", found or otherwise)
