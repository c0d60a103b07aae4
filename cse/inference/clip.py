"""Outlier dimensions of a backbone: finding them by a robust rule, and setting them to 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cse.encoder.device import inference
from cse.encoder.heads import Dense, Normalize
from cse.errors import UserError

if TYPE_CHECKING:
    from cse.encoder.model import Encoder

SIGMA = 1.4826  # times the median distance from the median is the standard deviation of normal values
ROBUST = 9.0  # such deviations
BLOCK = 256  # texts whose states are held at once


def outliers(means: NDArray[np.floating]) -> NDArray[np.intp]:
    """The dimensions whose mean stands out in more than half of the layers, in their order.

        |m_lj - median_j m_l| > 9 * 1.4826 MAD_j m_l    for more than half of the layers l

    They dominate the cosine of untrained BERT and RoBERTa (Luo et al., ACL 2021, arXiv:2011.04393), whose
    authors name them by hand: this rule is ours. Mean and standard deviation would not do, because in narrow models
    two outliers hide each other from them.

    Args:
        means: (N, H) the mean of the states of each layer over tokens.
    """
    apart = np.abs(means - np.median(means, axis=1, keepdims=True))  # (N, H)
    spread = SIGMA * np.median(apart, axis=1, keepdims=True)
    return np.flatnonzero((apart > ROBUST * spread).mean(0) > 0.5)


def fit_clip(means: NDArray[np.floating]) -> Dense:
    """Set the `outliers` among the dimensions to 0, as a linear layer; a mean over tokens is clipped as its tokens are.

    Args:
        means: (N, H) the mean of the states of each layer over tokens.

    Returns:
        A layer H -> H whose weight is I without the rows of the outliers, and whose bias is 0.

    Raises:
        UserError: No dimension is an outlier.
    """
    found = outliers(means)
    if not len(found):
        raise UserError(
            f"none of the {means.shape[1]} dimensions is an outlier in more than half of the layers: nothing to clip\n"
            "fix: take the checkpoint as it is, or another --method"
        )
    kept = np.eye(means.shape[1])
    kept[found, found] = 0
    return Dense.of(kept, np.zeros(len(kept)))


def layer_means(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float64]:
    """(N + 1, H) the mean of the states of the embeddings and of each layer, over all tokens of texts.

    Raises:
        UserError: The encoder's vectors are not means of its states.
    """
    changed = [type(module).__name__ for module in encoder.post if not isinstance(module, Normalize)]
    if changed or encoder.pooler != "mean":
        what = f"a {changed[0]} after pooling" if changed else f"the pooler {encoder.pooler}"
        raise UserError(
            f"--method clip needs vectors that are means of the backbone's states, and the checkpoint has {what}\n"
            "fix: give a plain model with --pooler mean, or another --method"
        )
    total, tokens = np.zeros((encoder.depth + 1, encoder.hidden_size)), 0
    with inference(encoder, "fp32", encoder.device):
        for start in range(0, len(texts), BLOCK):
            ids, mask = encoder.pad(encoder.tokenize(texts[start : start + BLOCK], encoder.prompt_text()))
            mask = mask.to(encoder.device)
            states = encoder.states(ids.to(encoder.device), mask).hidden  # N + 1 of (n, L, H)
            total += np.stack([(s.double() * mask[..., None]).sum((0, 1)).cpu().numpy() for s in states])
            tokens += int(mask.sum())
    return total / tokens
