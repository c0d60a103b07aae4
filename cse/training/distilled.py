"""What distillation kept and saved: teacher and student at the end of a run, and the teacher's share of its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import chain, islice
from typing import Any

from torch import nn

from cse.console import say
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.files import write_json
from cse.interfaces import Objective, Teacher
from cse.objectives.feature_distillation import FeatureDistillation
from cse.teachers.frozen import FrozenEncoder
from cse.training.run import Callback, Run

TABLE = "distilled.json"
TEXTS = 512  # texts of the data on which the speed is measured
ROUNDS = 3  # of which the fastest counts, since other work on the machine only slows it down


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
            found = compare(run, teacher)
        except UserError as error:  # the run is complete, with or without its table
            say("warning", f"teacher and student cannot be compared: {error}")
            return
        write_json(run.folder / TABLE, found)
        for name in ("teacher", "student"):
            side = found[name]
            score = f"dev {side['dev']:.2f}   " if side["dev"] is not None else ""
            say(name, f"{score}{side['megabytes']:.1f} MB   {side['sentences_per_s']:,.0f} sentences/s   {side['name']}")
        kept = f"{100 * found['kept']:.1f}% of the teacher's score, " if found["kept"] is not None else ""
        say("distilled", f"{kept}{found['smaller']:.2f} times smaller, {found['faster']:.2f} times faster")


def compare(run: Run, teacher: FrozenEncoder) -> dict[str, Any]:
    """The dev scores, sizes and speeds of a run's best checkpoint and its teacher, and their ratios."""
    device = run.encoder.device
    encoders = {
        "teacher": Encoder.load(teacher.source, pooler=teacher.pooler).to(device),
        "student": Encoder.load(str(run.folder / "best")).to(device),
    }
    texts = list(islice(chain.from_iterable(e.texts for e in run.data), TEXTS))
    rounds = [{name: _seconds(encoder, texts) for name, encoder in encoders.items()} for _ in range(ROUNDS)]
    seconds = {name: min(each[name] for each in rounds) for name in encoders}
    sides = {
        name: {
            "name": teacher.source if name == "teacher" else str(run.folder / "best"),
            "dev": None if run.evaluator is None else float(run.evaluator(encoder)[run.evaluator.primary]),
            "megabytes": sum(p.numel() for p in encoder.parameters()) * 4 / 1e6,
            "layers": encoder.depth,
            "dimensions": encoder.dim,
            "sentences_per_s": len(texts) / seconds[name],
        }
        for name, encoder in encoders.items()
    }
    old, new = sides["teacher"], sides["student"]
    return {
        **sides,
        "kept": new["dev"] / old["dev"] if new["dev"] is not None and old["dev"] else None,
        "smaller": old["megabytes"] / new["megabytes"],
        "faster": new["sentences_per_s"] / old["sentences_per_s"],
        "texts": len(texts),
    }


def _seconds(encoder: Encoder, texts: list[str]) -> float:
    start = time.perf_counter()
    encoder.encode(texts, precision="fp32")
    return time.perf_counter() - start


class TeacherTime:
    """Measures how long the teachers of objectives take.

    Args:
        objectives: The objectives, after their `setup`.
    """

    def __init__(self, objectives: Iterable[Objective]) -> None:
        modules = dict.fromkeys(chain.from_iterable(objective.modules() for objective in objectives))
        self._teachers = [module for module in modules if isinstance(module, Teacher)]
        self._seconds = 0.0
        for teacher in self._teachers:
            nn.Module.__setattr__(teacher, "embed", self._timed(teacher.embed))

    def share(self, seconds: float) -> dict[str, float]:
        """`teacher_share` of the seconds since the last call; empty without a teacher."""
        spent, self._seconds = self._seconds, 0.0
        return {"teacher_share": spent / seconds} if self._teachers else {}

    def _timed(self, embed: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(embed)
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return embed(*arguments)
            finally:
                self._seconds += time.perf_counter() - start

        return timed
