"""cse similarity: print the similarity of two sentences, or of the texts of two files.

It is the cosine, or for a model that was trained by distance the negative Euclidean distance, as in
sentence-transformers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cse.commands import add_hardware, two_texts
from cse.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HELP = "print the similarity of two sentences, or of the texts of two files: cosines, or negative distances"
ROWS = 1024  # texts of A that are compared with all of B at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="a folder, asset:NAME or Hub id")
    add("a", help="a sentence, or a file of texts as for `cse encode`")
    add("b", help="the same")
    add("--top-k", type=int, metavar="K", help="with two files: print the K most similar texts of B for each text of A")
    add("--column", default="text", help="column of a table (default: %(default)s)")
    add("--prompt", metavar="NAME", help="prompt of the checkpoint (default: its default prompt)")
    add("--prompt-b", metavar="NAME", help="prompt of the checkpoint for b (default: the same as for a)")
    add_hardware(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    by_line = ", or --top-k 3 for the most similar texts" if arguments.top_k is None else None
    files, texts = two_texts(arguments.a, arguments.b, arguments.column, by_line=by_line)
    if arguments.top_k is not None and not (files and arguments.top_k >= 1):
        raise UserError(
            f"--top-k is {arguments.top_k}\nfix: give an integer >= 1, and two files instead of two sentences"
        )
    import numpy as np

    from cse.console import quiet

    quiet()
    prompts = {"--prompt": arguments.prompt, "--prompt-b": arguments.prompt_b or arguments.prompt}
    (a, b), distance = _encode(arguments.checkpoint, texts, prompts, arguments.device, arguments.precision)
    name = "negative_distance" if distance else "cosine"
    if arguments.top_k is None:
        found = -np.linalg.norm(a - b, axis=1) if distance else (a * b).sum(1)  # (n,)
        if files:
            _show((name, "a", "b"), zip(found, *texts, strict=True))
        else:
            print(f"{found[0]:.4f}")  # noqa: T201
    else:
        _show(("row", "rank", name, "a", "b"), top_k(a, b, texts, arguments.top_k, distance=distance))
    return 0


def top_k(
    a: NDArray[np.float32], b: NDArray[np.float32], texts: Sequence[Sequence[str]], k: int, *, distance: bool = False
) -> Iterable[tuple[Any, ...]]:
    """The k most similar rows of b (m, D) for each row of a (n, D), most similar first.

    All rows are unit vectors, unless they are compared by distance.
    """
    import numpy as np
    from scipy.spatial.distance import cdist

    k = min(k, len(b))
    for start in range(0, len(a), ROWS):
        part = a[start : start + ROWS]
        found = -cdist(part, b) if distance else part @ b.T  # (rows, m)
        best = np.argpartition(-found, k - 1, axis=1)[:, :k]  # (rows, k) in no order
        for i, columns in enumerate(best):
            for rank, j in enumerate(sorted(columns, key=lambda j: (-found[i, j], j)), 1):
                yield start + i + 1, rank, found[i, j], texts[0][start + i], texts[1][j]


def _encode(
    checkpoint: str, texts: Sequence[list[str]], prompts: Mapping[str, str | None], device: Any, precision: Any
) -> tuple[list[NDArray[np.float32]], bool]:
    """The vectors (n, D) of each list of texts, behind the prompt that its option names.

    Returns:
        The vectors, and whether they are compared by distance; if not, they have unit length.
    """
    from cse.encoder.device import choose
    from cse.encoder.model import Encoder
    from cse.encoder.prompts import choose_prompt
    from cse.encoder.vectors import unit

    encoder = Encoder.load(checkpoint).to(choose(device))
    own, default = encoder.prompts, encoder.default_prompt_name
    chosen = [choose_prompt(own, default, name, option=option) for option, name in prompts.items()]
    vectors = [encoder.encode(rows, precision=precision, prompt=p) for rows, p in zip(texts, chosen, strict=True)]
    distance = encoder.similarity == "euclidean"
    return vectors if distance else [unit(rows) for rows in vectors], distance


def _show(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on a terminal, tab-separated lines elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = ([f"{cell:.4f}" if hasattr(cell, "dtype") else str(cell) for cell in row] for row in rows)
    if not sys.stdout.isatty():
        for cells in [list(columns), *shown]:
            print("\t".join(" ".join(cell.split()) for cell in cells))  # noqa: T201
        return
    table = Table(*columns)
    for cells in shown:
        table.add_row(*map(Text, cells))
    Console().print(table)
