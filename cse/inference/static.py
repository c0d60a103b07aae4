"""Static vectors: one vector for each token, taken from an encoder once. A text is the mean of its tokens' vectors.

No layer is computed any more, so that encoding is a hundred times as fast, and word order no longer counts. The
result is a StaticEmbedding of sentence-transformers. The way is that of model2vec, whose published models were trained
further.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cse.encoder.device import inference
from cse.encoder.heads import Normalize
from cse.encoder.template import added_ids
from cse.errors import UserError, require_positive
from cse.files import atomic_dir
from cse.inference.whiten import read_texts, require_new

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from cse.encoder.device import Device
    from cse.encoder.model import Encoder
    from cse.encoder.poolers import PoolerName

DIMENSIONS = 256  # model2vec's
SIF = 1e-4  # model2vec's
UNUSED = re.compile(r"\[unused\d+\]")  # entries of BERT's vocabulary that no text has
SORTED = 0.2  # least rank correlation of a sorted vocabulary with counts in text; BERT's has 0.4
ENGLISH, COLUMNS = "asset:triplets-mini", ("premise", "entailment", "contradiction")  # on which the order is judged
BLOCK = 8_192  # texts that are tokenized at once
COUNTED = 100  # tokens that must occur in the text before the order is judged


@dataclass(frozen=True, slots=True)
class Static:
    """Hold what `static_checkpoint` made."""

    tokens: int  # number of tokens that have a vector
    before: int  # the size of the encoder's vectors
    dimensions: int  # the size of the static vectors
    # the rank correlation of the vocabulary's order with counts in text; None if too few tokens occur
    sorted: float | None
    counted: bool  # whether the ranks are those of the counts

    @property
    def doubtful(self) -> bool:
        """Tell whether the weights of tokens are wrong, since nothing says how frequent they are."""
        return not self.counted and (self.sorted is None or self.sorted < SORTED)


def fit_table(
    vectors: NDArray[np.floating],
    *,
    dimensions: int | None = DIMENSIONS,
    sif: float | None = SIF,
    ranks: NDArray[np.integer] | None = None,
) -> NDArray[np.float32]:
    """The static vectors of tokens: principal components of their vectors, and less weight for frequent tokens.

        t_r = a / (a + p_r)  (v_r - mean v) U,        p_r = (r + 2)^{-1} / sum_{s < V} (s + 2)^{-1}

    U has the first principal directions of the V vectors, and r is a token's rank by frequency, from 0. The weight is
    that of SIF (Arora et al., ICLR 2017), with the probabilities of Zipf's law. The columns are unique up to sign.

    Args:
        vectors: (V, H), one for each token.
        dimensions: Number of components to keep. None: the vectors are neither centered nor rotated.
        sif: a, dimensionless, > 0 (model2vec: 1e-4). None: all tokens weigh the same.
        ranks: (V,) the rank of each token, 0 for the most frequent. None: the order of the rows.

    Returns:
        (V, dimensions), computed in float64 and stored in float32.

    Raises:
        UserError: An argument is out of range.

    Source: MinishLab/model2vec, distill/inference.py, post_process_embeddings.
    """
    require_positive("static", sif=sif, dimensions=dimensions)
    x = np.asarray(vectors, dtype=np.float64)
    if dimensions is not None:
        most = min(x.shape)
        if not 1 <= dimensions <= most:
            raise UserError(
                f"--dimensions is {dimensions}, and {len(x):,} tokens have at most {most}\nfix: give 1 to {most}"
            )
        x = x - x.mean(0)
        _, directions = np.linalg.eigh(x.T @ x)  # ascending
        x = x @ directions[:, ::-1][:, :dimensions]
    if sif is not None:
        chance = 1 / np.arange(2, len(x) + 2)  # (V,) by rank
        weight = sif / (sif + chance / chance.sum())
        x = x * (weight if ranks is None else weight[ranks])[:, None]
    return x.astype(np.float32)


def token_vectors(encoder: Encoder, tokens: Sequence[int]) -> NDArray[np.float32]:
    """(V, D) the vectors of single tokens, each between what the tokenizer puts around a text.

    They are the encoder's vectors of texts of one token, but for the scaling to unit length: the length of a token's
    vector says how much it counts in a mean.
    """
    before, after = added_ids(encoder.tokenizer)
    rows = [[*before, token, *after] for token in tokens]
    found: NDArray[np.float32] | None = None
    with inference(encoder, "fp32", encoder.device):
        for part, vectors in encoder.batches(rows, encoder.pad):
            for module in encoder.post:
                vectors = vectors if isinstance(module, Normalize) else module(vectors)
            if found is None:
                found = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
            found[part] = vectors.float().cpu().numpy()
    assert found is not None  # a vocabulary has tokens
    return found


def static_checkpoint(
    checkpoint: str,
    out: Path,
    *,
    dimensions: int | None = None,
    sif: float = SIF,
    data: str | None = None,
    columns: Sequence[str] = ("text",),
    limit: int | None = None,
    device: Device = "auto",
    pooler: PoolerName | None = None,
) -> Static:
    """Write the static vectors of an encoder as a model of sentence-transformers: StaticEmbedding and Normalize.

    Special tokens, and entries that are made to be unused, have zeros: they add nothing to the direction of a mean.

    Args:
        checkpoint: A folder, `asset:NAME` or Hub id.
        out: Folder of the new model, which sentence-transformers and cse load; or another checkpoint to replace.
        dimensions: Principal components to keep. None: 256, or all of fewer.
        sif: Weight of a token: A / (A + its probability); a large number weighs all alike.
        data: Texts whose counts rank the tokens: a file, `asset:NAME` or Hub id; tokens that do not occur follow in the
            order of the vocabulary. None: the order of the vocabulary.
        columns: Columns of a table that hold texts.
        limit: Number of rows to read. None: all.
        device: See `cse.encoder.device`.
        pooler: See `Encoder`.

    Raises:
        UserError: A model or data cannot be read, an argument is out of range, or `out` is not a checkpoint.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize as Unit
    from sentence_transformers.models import StaticEmbedding

    from cse.encoder.checkpoint.layout import Layout
    from cse.encoder.checkpoint.source import fetch
    from cse.encoder.checkpoint.sums import copy_notices, write_sums
    from cse.encoder.device import choose
    from cse.encoder.model import Encoder

    require_new(out, checkpoint)
    require_positive("static", sif=sif, dimensions=dimensions)
    texts = read_texts(ENGLISH, COLUMNS, None) if data is None else read_texts(data, columns, limit)
    source = fetch(checkpoint, option="checkpoint")
    if Layout.read(source).static:
        raise UserError(f"{checkpoint} holds static vectors already\nfix: give the model that they were made of")
    encoder = Encoder.load(checkpoint, pooler=pooler).to(choose(device))
    tokenizer = type(encoder.tokenizer.backend_tokenizer).from_str(encoder.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()  # since a mean of vectors has no longest text
    tokenizer.no_padding()
    tokens = _kept(encoder, tokenizer)
    counts = _counts(tokenizer, texts)[tokens]  # (V,)
    width = min(DIMENSIONS, encoder.dim, len(tokens)) if dimensions is None else dimensions
    ranks = None if data is None else np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    table = np.zeros((_size(tokenizer), width), dtype=np.float32)
    table[tokens] = fit_table(token_vectors(encoder, tokens), dimensions=width, sif=sif, ranks=ranks)
    modules = [StaticEmbedding(tokenizer, embedding_weights=torch.from_numpy(table)), Unit()]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=dict(encoder.prompts) or None)
    model.default_prompt_name = encoder.default_prompt_name
    with atomic_dir(out) as scratch:
        model.save(str(scratch), create_model_card=False)
        copy_notices(source, scratch)
        write_sums(scratch)
    return Static(len(tokens), encoder.dim, width, sortedness(counts), data is not None)


def sortedness(counts: NDArray[np.integer]) -> float | None:
    """Measure how well the order of tokens agrees with their counts (V,): the rank correlation over those that occur.

    It is 1 if the most frequent token is the first, and about 0 if the order says nothing. None: fewer than `COUNTED`
    tokens occur.
    """
    from scipy.stats import spearmanr

    there = np.flatnonzero(counts)
    if len(there) < COUNTED:
        return None
    return float(spearmanr(there, -counts[there]).statistic)


def _size(tokenizer: Tokenizer) -> int:
    """One more than the largest id."""
    return max(tokenizer.get_vocab().values()) + 1


def _kept(encoder: Encoder, tokenizer: Tokenizer) -> list[int]:
    """The ids (V,) that a text can have, without special tokens, in their order."""
    special = set(encoder.tokenizer.all_special_ids)
    special |= {i for i, token in encoder.tokenizer.added_tokens_decoder.items() if token.special}
    known = tokenizer.get_vocab().items()
    return sorted(i for token, i in known if i not in special and not UNUSED.fullmatch(token))


def _counts(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """(largest id + 1,) how often each id occurs in texts."""
    found = np.zeros(_size(tokenizer), dtype=np.int64)
    for start in range(0, len(texts), BLOCK):
        rows = tokenizer.encode_batch(texts[start : start + BLOCK], add_special_tokens=False)
        found += np.bincount([i for row in rows for i in row.ids], minlength=len(found))
    return found
