"""A run as its callbacks see it, and its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from cse.data.datasets import Dataset
from cse.data.loader import FixedRows
from cse.encoder.model import Encoder
from cse.evaluation.evaluator import EvalResult
from cse.interfaces import Callback, Collator, Evaluator, Objective, RowSource, Sampler
from cse.recipe.settings import Settings


@dataclass(slots=True)
class Progress:
    """The progress of a run.

    Attributes:
        step: Optimizer steps taken.
        best: The best dev score so far.
        best_step: The step of the best score.
        first: The dev score before training.
        seconds: Time spent on training and evaluation, without interruptions.
        eval_every: Steps between evaluations, where the run chose them.
        log_bytes: Length of metrics.jsonl, which is cut back to it when the run resumes.
        finished: Whether the run is complete.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    first: float | None = None
    seconds: float = 0.0
    eval_every: int | None = None
    log_bytes: int = 0
    finished: bool = False


@dataclass(slots=True)
class Run:
    """Everything about one run.

    Attributes:
        name: The recipe's name.
        folder: The folder that the run writes to.
        seed: The seed of everything random.
        data: The rows to train on.
        collator: Makes batches of rows.
        encoder: The encoder to train.
        objective: The training loss.
        evaluator: Scores the encoder, to select the best checkpoint. None: the last one counts as the best.
        settings: The trainer's settings.
        recipe: The resolved recipe, which all processes must have in common.
        sampler: Chooses which rows share a batch. None: a random order.
        source: Gives the rows where they change during training, such as rows with mined negatives.
        callbacks: Watchers of the run.
        progress: The progress of the run.
        max_steps: Optimizer steps of the whole run; set by the trainer, as are the following.
        findings: What the evaluator found at the last evaluation, with the arrays of its scores.
        scoring: When the encoder is scored, and why, where the run chose that.
        truncated: Distinct texts that are longer than `collator.max_length`.
        hardware: Device, number of processes and precision.
        interrupted: The number of the signal that stopped the run before its end, such as that of Ctrl-C; 0 for none.
        ended: Whether a callback has ended the run, as if the last evaluation were that of its last step.
        head: The masked-LM head that is saved with the backbone, of a run that trains no sentence vectors.
        share: The share of the steps that a source of a mixture is asked to have.
        by_source: The run of each source of a mixture; filled and read by `cse.training.sources`.
    """

    name: str
    folder: Path
    seed: int
    data: Dataset
    collator: Collator
    encoder: Encoder
    objective: Objective
    evaluator: Evaluator | None
    settings: Settings
    recipe: str = ""
    sampler: Sampler | None = None
    source: RowSource = field(default_factory=FixedRows)
    callbacks: Sequence[Callback] = ()
    progress: Progress = field(default_factory=Progress)
    max_steps: int = 0
    findings: Sequence[EvalResult] = ()
    scoring: str = ""
    truncated: int = 0
    hardware: str = ""
    interrupted: int = 0
    ended: bool = False
    head: nn.Module | None = None
    share: float = 1.0
    by_source: dict[str, Run] = field(default_factory=dict, init=False)
