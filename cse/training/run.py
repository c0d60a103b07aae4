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
    """The progress of a run."""

    step: int = 0  # optimizer steps taken
    best: float | None = None  # the best dev score so far
    best_step: int | None = None  # the step of the best score
    first: float | None = None  # the dev score before training
    seconds: float = 0.0  # time spent on training and evaluation, without interruptions
    eval_every: int | None = None  # steps between evaluations, where the run chose them
    log_bytes: int = 0  # length of metrics.jsonl, which is cut back to it when the run resumes
    finished: bool = False  # whether the run is complete


@dataclass(slots=True)
class Run:
    """Everything about one run."""

    name: str  # the recipe's name
    folder: Path  # the folder that the run writes to
    seed: int  # the seed of everything random
    data: Dataset  # the rows to train on
    collator: Collator  # makes batches of rows
    encoder: Encoder  # the encoder to train
    objective: Objective  # the training loss
    # scores the encoder, to select the best checkpoint. None: the last one counts as the best
    evaluator: Evaluator | None
    settings: Settings  # the trainer's settings
    recipe: str = ""  # the resolved recipe, which all processes must have in common
    sampler: Sampler | None = None  # chooses which rows share a batch. None: a random order
    # gives the rows where they change during training, such as rows with mined negatives
    source: RowSource = field(default_factory=FixedRows)
    callbacks: Sequence[Callback] = ()  # watchers of the run
    progress: Progress = field(default_factory=Progress)  # the progress of the run
    max_steps: int = 0  # optimizer steps of the whole run; set by the trainer, as are the following
    # what the evaluator found at the last evaluation, with the arrays of its scores
    findings: Sequence[EvalResult] = ()
    scoring: str = ""  # when the encoder is scored, and why, where the run chose that
    truncated: int = 0  # distinct texts that are longer than `collator.max_length`
    hardware: str = ""  # device, number of processes and precision
    # the number of the signal that stopped the run before its end, such as that of Ctrl-C; 0 for none
    interrupted: int = 0
    ended: bool = False  # whether a callback has ended the run, as if the last evaluation were that of its last step
    # the masked-LM head that is saved with the backbone, of a run that trains no sentence vectors
    head: nn.Module | None = None
    share: float = 1.0  # the share of the steps that a source of a mixture is asked to have
    # the run of each source of a mixture; filled and read by `cse.training.sources`
    by_source: dict[str, Run] = field(default_factory=dict, init=False)
