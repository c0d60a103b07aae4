"""When a run scores its encoder, where the recipe leaves it to the run."""

from __future__ import annotations

import math

from cse.training.run import Run

SHARE = 0.1  # of a run's cost that evaluations may have
EVALUATIONS = 10  # after the first one; more of them find no better checkpoint
SAMPLE = 2048  # rows whose letters are counted
TRAINED = 3  # the cost of a text that is trained in that of one that is encoded: a backward pass is twice a forward one


def spacing(run: Run, letters: int) -> tuple[int, str]:
    """The steps between evaluations that cost a tenth of the run at most, and what to say of them.

    Costs are counted in letters that are encoded, so that equal runs are scored at equal steps on any machine.

    Args:
        run: The run, of which `max_steps` is known.
        letters: The letters that one evaluation encodes.
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
