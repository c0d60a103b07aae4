"""HyDE: search with the passages that a language model wrote for a query (Gao et al., ACL 2023, arXiv:2212.10496)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cse.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cse.encoder.model import Encoder


def hyde(
    encoder: Encoder,
    query: str,
    passages: Sequence[str],
    *,
    prompt: str | None = None,
    passage_prompt: str | None = None,
) -> NDArray[np.float32]:
    """The vector to search with for a query and N passages that could answer it: (f(q) + sum_k f(d_k)) / (N + 1).

    The paper has a language model write N = 8 passages at temperature 0.7. The mean is taken of the vectors as they
    are. It is shorter than 1 even if they have length 1, which changes no ranking; scale it for a threshold of cosines.

    Args:
        encoder: What encodes.
        query: The query.
        passages: N passages that a language model wrote in answer; without any, the vector is that of the query.
        prompt: The name of the prompt that is put before the query. None: the default prompt, if it exists.
        passage_prompt: The name of the prompt before the passages. None: the default prompt.

    Returns:
        (D,) float32.

    Raises:
        UserError: `passages` is a single text, or the encoder has no prompt of this name.

    Source: texttron/hyde, src/hyde/hyde.py:21-29.
    """
    if isinstance(passages, str):
        raise UserError(f"passages is {passages[:60]!r}, one text\nfix: give a list of texts")
    first = encoder.encode([query], prompt_name=prompt)
    rest = encoder.encode(passages, prompt_name=passage_prompt) if len(passages) else first[:0]
    found: NDArray[np.float32] = np.concatenate([first, rest]).mean(0, dtype=np.float32)
    return found
