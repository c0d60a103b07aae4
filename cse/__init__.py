"""Train sentence embeddings: every published contrastive method is one recipe away.

    run = cse.train("simcse-unsup", data=texts)        # cse.resume(run) continues it after a kill or Ctrl-C
    cse.evaluate(run), cse.compare(run, other)         # scores with intervals; a paired test
    cse.encode(run, file, vectors), cse.mine(run, rows), run.push("me/name")

The classes are those that a recipe names: data sets, collators, samplers, augmentations, encoders, objectives, miners,
evaluators; and those that a method of one's own is made of. Everything is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.api.models import compare, encode, evaluate, mine
    from cse.api.trained import TrainedRun
    from cse.api.training import resume, train
    from cse.augment.characters import CharacterNoise
    from cse.augment.compose import InOrder, OneOf, Sometimes
    from cse.augment.spans import Crop, SentenceShuffle, SpanDeletion, SpanReordering
    from cse.augment.synonyms import SynonymSubstitution
    from cse.augment.words import WordDeletion, WordReordering, WordRepetition
    from cse.batch import Batch, EncoderOutput, Example, LossOutput, Views
    from cse.data.collators import AugmentedViews, Masked, TextViews
    from cse.data.datasets import Dataset, Pairs, ScoredPairs, Texts, Triplets
    from cse.data.samplers import ClusterBatches, LabelBatches, NoDuplicates
    from cse.encoder.dropout import Dropout
    from cse.encoder.lora import Lora
    from cse.encoder.model import Encoder
    from cse.encoder.soft_prompts import SoftPrompts
    from cse.errors import UserError
    from cse.evaluation.evaluator import STSEvaluator
    from cse.interfaces import (
        Augmentation,
        Collator,
        Evaluator,
        Objective,
        RowSource,
        Sampler,
        StepContext,
        Teacher,
    )
    from cse.mining.miners import Miner, TopK
    from cse.mining.refresh import RefreshNegatives
    from cse.objectives.claif import CLAIF
    from cse.objectives.clhaif import CLHAIF
    from cse.objectives.cosent import CoSENT
    from cse.objectives.dclr import DCLR
    from cse.objectives.diffcse import DiffCSE
    from cse.objectives.masked_lm import MaskedLM
    from cse.objectives.promcse import PromCSE
    from cse.objectives.simcse import SimCSE
    from cse.objectives.weighted_sum import WeightedSum
    from cse.objectives.whitenedcse import WhitenedCSE
    from cse.publish.hub import push
    from cse.teachers.frozen import FrozenEncoder
    from cse.training.run import Callback, Run
    from cse.training.settings import Settings
    from cse.training.trainer import Trainer

__version__ = "0.1.0"

_HOMES = {
    "Augmentation": "interfaces",
    "AugmentedViews": "data.collators",
    "Batch": "batch",
    "CLAIF": "objectives.claif",
    "CLHAIF": "objectives.clhaif",
    "Callback": "training.run",
    "CharacterNoise": "augment.characters",
    "ClusterBatches": "data.samplers",
    "CoSENT": "objectives.cosent",
    "Collator": "interfaces",
    "Crop": "augment.spans",
    "DCLR": "objectives.dclr",
    "Dataset": "data.datasets",
    "DiffCSE": "objectives.diffcse",
    "Dropout": "encoder.dropout",
    "Encoder": "encoder.model",
    "EncoderOutput": "batch",
    "Evaluator": "interfaces",
    "Example": "batch",
    "FrozenEncoder": "teachers.frozen",
    "InOrder": "augment.compose",
    "LabelBatches": "data.samplers",
    "Lora": "encoder.lora",
    "LossOutput": "batch",
    "Masked": "data.collators",
    "MaskedLM": "objectives.masked_lm",
    "Miner": "mining.miners",
    "NoDuplicates": "data.samplers",
    "Objective": "interfaces",
    "OneOf": "augment.compose",
    "Pairs": "data.datasets",
    "PromCSE": "objectives.promcse",
    "RefreshNegatives": "mining.refresh",
    "RowSource": "interfaces",
    "Run": "training.run",
    "STSEvaluator": "evaluation.evaluator",
    "Sampler": "interfaces",
    "ScoredPairs": "data.datasets",
    "SentenceShuffle": "augment.spans",
    "Settings": "training.settings",
    "SimCSE": "objectives.simcse",
    "SoftPrompts": "encoder.soft_prompts",
    "Sometimes": "augment.compose",
    "SpanDeletion": "augment.spans",
    "SpanReordering": "augment.spans",
    "StepContext": "interfaces",
    "SynonymSubstitution": "augment.synonyms",
    "Teacher": "interfaces",
    "TextViews": "data.collators",
    "Texts": "data.datasets",
    "TopK": "mining.miners",
    "TrainedRun": "api.trained",
    "Trainer": "training.trainer",
    "Triplets": "data.datasets",
    "UserError": "errors",
    "Views": "batch",
    "WeightedSum": "objectives.weighted_sum",
    "WhitenedCSE": "objectives.whitenedcse",
    "WordDeletion": "augment.words",
    "WordReordering": "augment.words",
    "WordRepetition": "augment.words",
    "compare": "api.models",
    "encode": "api.models",
    "evaluate": "api.models",
    "mine": "api.models",
    "push": "publish.hub",
    "resume": "api.training",
    "train": "api.training",
}
__all__ = [
    "CLAIF",
    "CLHAIF",
    "DCLR",
    "Augmentation",
    "AugmentedViews",
    "Batch",
    "Callback",
    "CharacterNoise",
    "ClusterBatches",
    "CoSENT",
    "Collator",
    "Crop",
    "Dataset",
    "DiffCSE",
    "Dropout",
    "Encoder",
    "EncoderOutput",
    "Evaluator",
    "Example",
    "FrozenEncoder",
    "InOrder",
    "LabelBatches",
    "Lora",
    "LossOutput",
    "Masked",
    "MaskedLM",
    "Miner",
    "NoDuplicates",
    "Objective",
    "OneOf",
    "Pairs",
    "PromCSE",
    "RefreshNegatives",
    "RowSource",
    "Run",
    "STSEvaluator",
    "Sampler",
    "ScoredPairs",
    "SentenceShuffle",
    "Settings",
    "SimCSE",
    "SoftPrompts",
    "Sometimes",
    "SpanDeletion",
    "SpanReordering",
    "StepContext",
    "SynonymSubstitution",
    "Teacher",
    "TextViews",
    "Texts",
    "TopK",
    "TrainedRun",
    "Trainer",
    "Triplets",
    "UserError",
    "Views",
    "WeightedSum",
    "WhitenedCSE",
    "WordDeletion",
    "WordReordering",
    "WordRepetition",
    "compare",
    "encode",
    "evaluate",
    "mine",
    "push",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `cse --help` does not pay for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cse' has no attribute {name!r}")
    return getattr(import_module(f"cse.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The names that `__getattr__` finds, for completion."""
    return [*globals(), *__all__]
