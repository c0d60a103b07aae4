"""Fit to the data what a recipe leaves open: the length of texts, and when the encoder is scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from cse import distributed
from cse.console import say
from cse.data.mixture import Mixture
from cse.interfaces import Collator
from cse.training.run import Run

MAY_BE_CUT = 0.02  # share of the texts
SAMPLE = 2_048  # rows that are measured, or whose letters are counted
ROUND = 8  # lengths are multiples of it, as batches are padded for the hardware
USUAL = 64  # tokens, with which the cost is compared
SHARE = 0.1  # of a run's cost that evaluations may have
EVALUATIONS = 10  # after the first one; more of them find no better checkpoint
TRAINED = 3  # the cost of a text that is trained in that of one that is encoded: a backward pass is twice a forward one


def fit_lengths(run: Run) -> None:
    """Set the `max_length` of each collator that has none, and print it with its reason and its cost.

    It is the least multiple of 8 that leaves at most 2 % of the texts cut, up to `encoder.max_length`, which is the
    model's own unless the recipe sets it. It depends on data and model alone, so a resumed run has it again.
    """
    parts = [(run.collator, run.data)]
    if isinstance(run.data, Mixture):
        parts = [(source.collator or run.collator, source.data) for source in run.data.sources.values()]
    for collator in dict.fromkeys(collator for collator, _ in parts):
        if not collator.max_length:
            texts = list(chain.from_iterable(_texts(data) for own, data in parts if own is collator))
            _fit(run, collator, texts)


def _texts(data: Any) -> list[str]:
    """The texts of rows at equal distances."""
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), SAMPLE)).astype(int))
    return [text for row in rows.tolist() for text in data[row].texts]


def _fit(run: Run, collator: Collator, texts: Sequence[str]) -> None:
    encoder = run.encoder
    prompts = encoder.prompts_by_role(collator.prompts).values()
    behind = max(
        (len(encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts), default=0
    )
    lengths = np.array([len(ids) + behind for ids in encoder.tokenize(texts)])
    longest = min(encoder.max_length, encoder.max_positions)
    wanted = int(np.quantile(lengths, 1 - MAY_BE_CUT, method="inverted_cdf"))
    length = min(longest, -(-wanted // ROUND) * ROUND)
    cost = np.minimum(lengths, length).sum() / np.minimum(lengths, USUAL).sum()
    whole = float((lengths < longest).mean() if length == longest else (lengths <= length).mean())
    why = "the most that the model reads" if length == longest else "the least that leaves 98 % of the texts whole"
    also = f"; {cost:.1f} times the tokens of {USUAL}" if length > USUAL else ""
    if distributed.is_first():
        say(
            "length",
            f"{length} tokens, {why} ({whole:.1%} of {len(texts):,} measured{also}); collator.max_length sets it",
        )
    inner: Any = collator
    while isinstance(inner, Collator):  # it, and the one that it is around, such as that of `Masked`
        inner.max_length, inner = length, getattr(inner, "views", None)


def spacing(run: Run, letters: int) -> tuple[int, str]:
    """The steps between evaluations that cost a tenth of the run at most, and what to say of them.

    Costs are counted in letters that are encoded, so that equal runs are scored at equal steps on any machine. One
    evaluation encodes as many `letters`.
    """
    rows = [run.data[row].texts for row in range(0, len(run.data), max(1, len(run.data) // SAMPLE))]
    of_row = sum(len(text) for texts in rows for text in texts * (2 if len(texts) == 1 else 1)) / len(rows)
    training = TRAINED * run.max_steps * run.settings.batch_size * of_row
    most = training * SHARE / (1 - SHARE) / letters - 1 if letters else EVALUATIONS  # one is before the first step
    every = math.ceil(run.max_steps / max(1, min(EVALUATIONS, int(most))))
    scoring = letters * (1 + math.ceil(run.max_steps / every))
    share = scoring / (scoring + training)
    few = "; an evaluator with fewer texts takes less" if share > SHARE else ""
    return every, f"every {every:,} steps, about {share:.0%} of the run{few}; trainer.eval_every sets it"
