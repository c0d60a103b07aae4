"""Ranks a corpus for queries by cosine, and measures the rankings: exact, in blocks, with bounded memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.job import CHUNK, cached_vectors
from cse.encoder.model import Encoder
from cse.encoder.vectors import unit
from cse.errors import UserError, require_package
from cse.evaluation.encoding import comparison, cosine, embedder, is_changing, resolve_precision
from cse.mining.neighbors import Exact, Found

QUERIES = 256  # queries that are searched at once: 256 x 16,384 cosines
LIBRARY = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit": "success"}
MEASURE = re.compile(rf"(?P<name>{'|'.join([*LIBRARY, 'mrr'])})@(?P<k>[1-9]\d*)")


def parse_measures(names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """The measure and its cut-off, by name: `ndcg@10` is ("ndcg", 10).

    Raises:
        UserError: A name has another form, or there is none.
    """
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

    MRR@k is the reciprocal rank of the first relevant document, and 0 if the rank exceeds k.

    Args:
        judged: The relevance of documents, by query.
        ranked: The scores of the documents that were found, by query. Documents of equal scores are ranked by their
            ids, as in trec_eval.
        names: Names of measures, such as `ndcg@10`.

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

    Args:
        queries: See `searchable`.
        corpus: The same, which may be on the disk.
        depth: Number of rows to find, at most N.
        banned: (Q, E) rows that may not be found; -1 for none.
        device: The device to search on.
    """
    pool, parts = Exact(corpus, device), []
    for start in range(0, len(queries), QUERIES):
        place = slice(start, start + QUERIES)
        parts.append(pool.search(queries[place], depth, banned[place]))
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([cosine for _, cosine in parts])
