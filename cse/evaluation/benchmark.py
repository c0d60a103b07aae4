"""bench-model.json: a checkpoint beside cheaper variants of it. `SCHEMA` says its version.

    schema              1
    model               as in results.json
    metrics.<TASK>      the metric of its score; `missing.<TASK>` is why it has none
    rows                [{name, scores {TASK: value}, average or null, megabytes, megabytes_per_million,
                        sentences_per_s, times_as_fast, note}], the checkpoint itself first
    speed               texts {from, n}, seconds, rounds, threads, device, clock: `wall`, or on one thread `processor`
    ranges              texts {from, n} on which the ranges of 8-bit vectors were measured; null if there are none
    precision, versions {...}, created

Scores are times 100. `megabytes` is the size of the files that encoding needs, and `megabytes_per_million` that of a
million vectors. A variant that the checkpoint cannot have has no scores and no numbers, and its `note` says why; so
does that of vectors whose similarities are all equal, which have no scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cse.errors import UserError
from cse.evaluation.reports.table import AVERAGE, Table, make_console, title
from cse.evaluation.results import has_scores, is_of_run
from cse.evaluation.speed import Speed
from cse.files import DAMAGED, read_json
from cse.inference.variants import megabytes

SCHEMA = 1
FILE = "bench-model.json"
FULL = "full"
NOTE = "note"
FIGURES = ("MB", "MB of a million vectors", "sentences/s", "times as fast")


@dataclass(frozen=True, slots=True)
class Measured:
    """A checkpoint or a variant of it; see the module for the fields, which are None for one that does not exist."""

    name: str
    scores: Mapping[str, float] = field(default_factory=dict)
    average: float | None = None
    megabytes: float | None = None
    megabytes_per_million: float | None = None
    sentences_per_s: float | None = None
    times_as_fast: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What `cse.bench_model` returns.

    Attributes:
        rows: The checkpoint, then its variants.
        about: The rest of bench-model.json, as this module describes it.
    """

    rows: list[Measured]
    about: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The content of bench-model.json."""
        return {**self.about, "rows": [asdict(row) for row in self.rows]}


def of_width(width: int) -> str:
    """The name of the row of the first dimensions."""
    return f"{width} dimensions"


def of_kind(kind: str) -> str:
    """The name of the row of quantized vectors."""
    return f"{kind} vectors"


def reduced(scored: Mapping[str, Any], widths: Sequence[int], dim: int, folder: Path) -> list[Measured]:
    """The rows of a checkpoint and of what is made of its vectors, of which a whole one has `dim` numbers."""
    whole = row(FULL, scored, folder, 4 * dim)
    cuts = {e["width"]: e for e in scored.get("dimensions", [])}
    entries = [(of_width(width), 4 * width, cuts[width]) for width in widths]
    codes = [e for e in scored.get("quantized", []) if e["kind"] != "float32"]
    entries += [(of_kind(e["kind"]), e["bytes"], e) for e in codes]
    return [whole] + [
        replace(
            whole,
            name=name,
            scores=_scores(e),
            average=e["average"],
            megabytes_per_million=size,
            note=e.get("undefined", ""),
        )
        for name, size, e in entries
    ]


def row(name: str, scored: Mapping[str, Any], folder: Path, size: int, note: str = "") -> Measured:
    """The row of a model that was scored; `size` is the bytes of a vector, so the MB of a million of them."""
    tasks = {task: about["value"] for task, about in scored["tasks"].items()}
    accuracies = {task: about["accuracy"] for task, about in scored.get("transfer", {}).items()}
    average = scored["average"]["value"] if tasks else None
    return Measured(name, tasks | accuracies, average, megabytes(folder), size, note=note)


def _scores(entry: Mapping[str, Any]) -> dict[str, float]:
    return {**entry["tasks"], **entry.get("transfer", {})}


def require_scores(scored: Mapping[str, Any]) -> None:
    """Refuse results of which no task has a score."""
    if not has_scores(scored):
        missing = {**scored["missing"], **scored.get("transfer_average", {}).get("missing", {})}
        task, why = next(iter(missing.items()))
        raise UserError(f"--tasks: {task} cannot be scored: {why[:200]}\nfix: give its rows (--data), or other tasks")


def with_speed(of: Measured, speed: Speed | None) -> Measured:
    """A row with its speed; None for a variant that does not exist."""
    if speed is None:
        return of
    return replace(of, sentences_per_s=speed.sentences_per_s, times_as_fast=speed.times_as_fast)


def describe(scored: Mapping[str, Any], speed: Mapping[str, Any], ranges: Mapping[str, Any] | None) -> dict[str, Any]:
    """All of bench-model.json but the rows, from the results of the whole model and two entries."""
    metrics = {task: entry["metric"] for task, entry in scored["tasks"].items()}
    metrics |= dict.fromkeys(scored.get("transfer", {}), "accuracy")
    missing = {**scored["missing"], **scored.get("transfer_average", {}).get("missing", {})}
    kept = {name: scored[name] for name in ("model", "precision", "versions", "created")}
    return {"schema": SCHEMA, "metrics": metrics, "missing": missing, "speed": speed, "ranges": ranges, **kept}


def table(found: Mapping[str, Any]) -> Table:
    """The table of a bench-model.json; the notes come last, if there are any."""
    rows, tasks = found["rows"], list(found["metrics"])
    averaged = len(tasks) > 1 and any(row["average"] is not None for row in rows)
    noted = any(row["note"] for row in rows)
    lines = []
    for row in rows:
        scores = [row["scores"].get(task) for task in tasks] + ([row["average"]] if averaged else [])
        figures = [(row["megabytes"], ",.1f"), (row["megabytes_per_million"], ",.0f")]
        figures += [(row["sentences_per_s"], ",.0f"), (row["times_as_fast"], ",.2f")]
        shown = [(score, ".2f") for score in scores] + figures
        line = [row["name"], *("-" if value is None else format(value, form) for value, form in shown)]
        lines.append(line + ([row["note"]] if noted else []))
    heads = ["variant", *tasks, *([AVERAGE] if averaged else []), *FIGURES, *([NOTE] if noted else [])]
    return Table(heads, lines, ("variant", NOTE), found["model"]["name"], wrap=True)


def show(found: Mapping[str, Any]) -> None:
    """Print the table of a bench-model.json, and below it what the numbers depend on."""
    console = make_console()
    console.print(table(found).terminal())
    console.print(conditions(found), highlight=False, markup=False)
    for name, reason in found["missing"].items():
        console.print(f"{name} is missing: {reason}", highlight=False, markup=False)


def markdown(found: Mapping[str, Any]) -> str:
    """The table of a bench-model.json for a page, and below it what the numbers depend on."""
    return f"{table(found).markdown()}\n{conditions(found)}\n"


def conditions(found: Mapping[str, Any]) -> str:
    """What the numbers of a bench-model.json are and depend on, in a few sentences."""
    speed, ranges = found["speed"], found["ranges"]
    threads = f"{speed['threads']} thread{'s' if speed['threads'] > 1 else ''}"
    threads += ", processor time" if speed["clock"] == "processor" else ""
    said = (
        f"Scores are {title(found['metrics'].values())}. Speed: {speed['device']}, {threads}, {found['precision']}, "
        f"{_texts(speed['texts'])}, median of {speed['rounds']} rounds."
    )
    return said if ranges is None else f"{said} Ranges of 8-bit vectors: {_texts(ranges)}."


def _texts(about: Mapping[str, Any]) -> str:
    return f"{about['n']:,} texts of {about['from']}"


def read(path: Path) -> dict[str, Any]:
    """Read a bench-model.json.

    Raises:
        UserError: The file cannot be read, or is damaged.
    """
    try:
        found: dict[str, Any] = read_json(path)
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema is {found['schema']!r}")
        markdown(found)
        str(found["model"]["sha256"])
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} cannot be read as a benchmark: {reason}\nfix: run `cse bench-model` again, or remove the file"
        ) from None
    return found


def file_of(checkpoint: str | Path) -> Path | None:
    """Where the benchmark of a checkpoint lies: in its run, or None if it does not belong to a run."""
    folder = Path(checkpoint)
    name = FILE if folder.name == "best" else f"{Path(FILE).stem}-{folder.name}.json"
    return folder.parent / name if is_of_run(folder) else None
