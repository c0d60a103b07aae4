"""`python -m eval pretraining`: pre-training on documents and then contrast, against contrast alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cse
from cse.evaluation.reporting import report

BACKBONE = "asset:mini"
BASELINE, SHORT = "simcse", "simcse, fewer steps"
DELETION = {"class_path": "cse.augment.WordDeletion", "init_args": {"probability": 0.3}}
VIEWS = {"class_path": "cse.data.AugmentedViews", "init_args": {"augmentations": [DELETION], "max_length": 64}}
SPANS = {"class_path": "cse.data.TextViews", "init_args": {"max_length": 128, "sample": 1}}
MASKED = {"class_path": "cse.data.Masked", "init_args": {"probability": 0.3, "whole_words": True, "views": SPANS}}
PRETRAINED: dict[str, dict[str, Any]] = {  # by the method's name: what takes the place of parts of pretrain-cotmae
    "cotmae, then simcse": {},
    "masked LM, then simcse": {"collator": MASKED, "objective": "cse.objectives.masked_lm.MaskedLM"},
}
RATES = {"pretrain": 5e-4, "contrast": 3e-4}
BATCHES = {"pretrain": 8, "contrast": 32}  # both encode about 1,000 tokens: 16 spans, or 64 views of sentences


def measure(
    data: str, sts: str | None, steps: tuple[int, int], seeds: Sequence[int], runs: Path, out: Path, note: str = ""
) -> None:
    """Train and score each method with each seed, and write the table of methods; runs that exist are resumed.

    Args:
        data: Documents, whose lines are texts as well.
        sts: The folder with the rows of STS; None: CSE_DATA, then the Hub.
        steps: Steps of pre-training, and of contrast after it. Contrast alone has the sum of them, or the second.
        seeds: The seeds.
        runs: The folder of the runs.
        out: The JSON file to write.
        note: Text about the conditions.
    """
    before, after = steps
    for seed in seeds:
        plans: list[tuple[str, str | Path, int]] = [(BASELINE, BACKBONE, before + after), (SHORT, BACKBONE, after)]
        for method, parts in PRETRAINED.items():
            first = cse.train(
                "pretrain-cotmae",
                data=data,
                encoder=BACKBONE,
                seed=seed,
                run_dir=runs / "stages" / f"{method.partition(',')[0]}-s{seed}",
                resumes=True,
                overrides=["--data.words=40", *_budget("pretrain", before)],
                **parts,
            )
            plans.append((method, first.best, after))
        for method, start, count in plans:
            run = cse.train(
                "simcse-unsup",
                data=data,
                encoder=start,
                collator=VIEWS,
                seed=seed,
                run_dir=runs / method / f"run-s{seed}",
                resumes=True,
                overrides=[*_budget("contrast", count), *CONTRAST],
            )
            scores = run.folder / "results.json"
            if not scores.is_file():
                cse.evaluate(run, "STSB-dev", data=sts, out=scores)
    report(runs, baseline=BASELINE, summary=out, note=note)


CONTRAST = [
    "--data.min_words=4",
    "--data.max_words=16",
    "--encoder.pooler=cls",
    "--encoder.head=none",
    "--encoder.dropout.attention=0.1",
    "--encoder.dropout.hidden=0.1",
    "--trainer.compare_initial=never",
]


def _budget(stage: str, steps: int) -> list[str]:
    """The options of a run of a stage: its size, its rate, and no choice of a checkpoint."""
    settings = {"batch_size": BATCHES[stage], "max_steps": steps, "learning_rate": RATES[stage], "eval_every": steps}
    return [*(f"--trainer.{name}={value}" for name, value in settings.items()), "--evaluator=null"]
