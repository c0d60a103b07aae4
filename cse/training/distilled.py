"""Tell what distillation kept and saved: teacher and student at the end of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice

from cse.console import say
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.evaluation import speed
from cse.files import write_json
from cse.interfaces import Callback
from cse.objectives.feature_distillation import FeatureDistillation
from cse.teachers.frozen import FrozenEncoder
from cse.training.run import Run

TABLE = "distilled.json"
TEXTS = 512  # texts of the data on which the speed is measured


@dataclass(frozen=True, slots=True)
class Side:
    """The teacher or the student.

    Attributes:
        name: The checkpoint.
        dev: The score by which the run selects; None without an evaluator.
        megabytes: The size of the weights in float32.
        layers: N.
        dimensions: D.
        sentences_per_s: The speed of `encode` in float32.
    """

    name: str
    dev: float | None
    megabytes: float
    layers: int
    dimensions: int
    sentences_per_s: float

    def __str__(self) -> str:
        score = "" if self.dev is None else f"dev {self.dev:.2f}   "
        return f"{score}{self.megabytes:.1f} MB   {self.sentences_per_s:,.0f} sentences/s   {self.name}"


class Distilled(Callback):
    """Compares the student of `FeatureDistillation` with its teacher: dev score, size, and sentences per second.

    distilled.json in the folder of the run has the same numbers. Both encode the same texts, in turn, by the same code.
    """

    def on_end(self, run: Run) -> None:
        """Write the table, unless the run is not over or has it already."""
        teacher = getattr(run.objective, "teacher", None)
        if not isinstance(run.objective, FeatureDistillation) or not isinstance(teacher, FrozenEncoder):
            return
        if run.interrupted or (run.folder / TABLE).is_file():
            return
        try:
            old, new = compare(run, teacher)
        except UserError as error:  # the run is complete, with or without its table
            say("warning", f"teacher and student cannot be compared: {error}")
            return
        ratios = {"smaller": old.megabytes / new.megabytes, "faster": new.sentences_per_s / old.sentences_per_s}
        said = "{smaller:.2f} times smaller, {faster:.2f} times faster".format(**ratios)
        if new.dev is not None and old.dev:
            ratios["kept"] = new.dev / old.dev
            said = f"{ratios['kept']:.1%} of the teacher's score, {said}"
        write_json(run.folder / TABLE, {"teacher": asdict(old), "student": asdict(new), **ratios})
        say("teacher", str(old))
        say("student", str(new))
        say("distilled", said)


def compare(run: Run, teacher: FrozenEncoder) -> tuple[Side, Side]:
    """The teacher of a run and its best checkpoint."""
    best = str(run.folder / "best")
    encoders = {teacher.source or run.encoder.source: teacher.loaded(), best: Encoder.load(best)}
    texts = list(islice(chain.from_iterable(example.texts for example in run.data), TEXTS))
    for encoder in encoders.values():
        encoder.to(run.encoder.device)
    encode = {name: partial(encoder.encode, precision="fp32") for name, encoder in encoders.items()}
    speeds = speed.measure(encode, {}, texts, seconds=0)
    old, new = (
        Side(
            name=name,
            dev=None if run.evaluator is None else float(run.evaluator(encoder)[run.evaluator.primary]),
            megabytes=sum(p.numel() for p in encoder.parameters()) * 4 / 1e6,
            layers=encoder.depth,
            dimensions=encoder.dim,
            sentences_per_s=speeds[name].sentences_per_s,
        )
        for name, encoder in encoders.items()
    )
    return old, new
