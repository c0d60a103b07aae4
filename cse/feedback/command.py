"""`cse feedback`: checks the options, builds the labelers, runs the task, and writes the files."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from cse.console import Interrupt, quiet, say
from cse.data.datasets import label_of
from cse.data.reading.columns import Shape, of_pairs, of_texts, of_triplets
from cse.data.reading.rows import Column, Reader
from cse.data.reading.sources import open_path, read
from cse.environment import is_secret, secret_in
from cse.errors import UserError
from cse.feedback import output
from cse.feedback import prompts as words
from cse.feedback.job import Job, Labeler
from cse.feedback.meter import Limits, Meter
from cse.feedback.store import Store
from cse.feedback.tasks import TASKS, Input, Prompts, Record, Result, Task
from cse.files import cache_dir

TaskName = Literal["score", "fill", "contrast", "write", "propositions", "rate", "queries", "rewrites", "chain"]
KINDS = ("openai", "encoder", "cross-encoder")
RECOGNIZE: dict[int, Callable[[Reader, None], Shape]] = {  # by the number of texts of a row
    1: of_texts,
    2: partial(of_pairs, lists=False),
    3: of_triplets,
}


def feedback(
    task: TaskName,
    *,
    model: str,
    out: str | Path,
    data: str | None = None,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
    split: str = "train",
    limit: int | None = None,
    prompt: Sequence[Path] = (),
    cache: str | Path | None = None,
    rater: str | None = None,
    base_url: str | None = None,
    key_env: str | None = None,
    temperature: float | None = None,
    response_format: Literal["json_schema", "json_object", "text"] = "json_schema",
    extra: str | None = None,
    workers: int = 8,
    seed: int = 42,
    requests_per_minute: int | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    requests: int = 100,
    count: int | None = None,
    topics: Path | None = None,
    genres: Path | None = None,
) -> int:
    """Ask a language model or an encoder about rows, write what it answers as rows to train on, and count these.

    Args:
        task: What to ask for.
        model: The model that answers, as KIND:NAME.
        out: A .jsonl file; manifest and rejects lie beside it.
        data: A file, asset:NAME or Hub id; every task but write needs it.
        columns: Names, or numbers of a table without a header. None: the usual names.
        label_column: Column of labels that queries, rewrites and chain keep. None: recognized by its name.
        split: Split of a data set on the Hub.
        limit: Number of rows to ask about. None: all.
        prompt: Files, each of which replaces the prompt of its name.
        cache: Folder for the answers. None: feedback in CSE_CACHE.
        rater: The model that scores what `fill` wrote, as KIND:NAME. None: `model`.
        base_url: Address of an OpenAI-compatible endpoint. None: that of OpenAI.
        key_env: Environment variable of the key. None: OPENAI_API_KEY, and no key with `base_url`.
        temperature: Sampling temperature. None: that of the prompt.
        response_format: Form in which the endpoint is asked to answer.
        extra: More parameters of a request, as JSON, such as '{"top_p": 0.9}'.
        workers: Number of simultaneous requests.
        seed: Seed for masks and combinations.
        requests_per_minute: Largest rate of requests. None: no limit.
        max_requests: Stop after this number of requests. None: no limit.
        max_cost: Stop at this cost in dollars; needs both prices. None: no limit.
        price_in: Price of a million tokens of questions, in dollars.
        price_out: Price of a million tokens of answers, in dollars.
        requests: Number of requests of the task write.
        count: Number of texts for each request. None: write 10, queries 5, rewrites 3.
        topics: File of the task write with one topic on each line. None: those of cse.
        genres: File of the task write with one genre on each line. None: those of cse.

    Raises:
        UserError: An option is out of range, or the rows cannot be read.
        Stop: No answer came, a cap was reached, or Ctrl-C; all answers are kept, and the same call resumes.
    """
    a = argparse.Namespace(**locals())
    about = TASKS[task]
    a.out = Path(out)
    _check(a, about)
    a.count = about.count if count is None else count
    limits = Limits(**{name: getattr(a, name) for name in Limits.__slots__})
    prompts = words.load(prompt, temperature=temperature)
    output.check(a.out)
    given = _inputs(a, about)
    with Interrupt() as interrupt, _store(Path(cache or cache_dir() / "feedback")) as store:
        meter = Meter(limits)
        models = {"--model": model} | ({"--rater": rater} if rater else {})
        asked = [_labeler(a, option, spec) for option, spec in models.items()]
        jobs = [Job(labeler, store, meter, interrupted=lambda: bool(interrupt.wanted)) for labeler in asked]
        say("model", " · ".join(labeler.model for labeler in asked))
        options = {name: getattr(a, name) for name in about.options}
        result = _run(a, given.rows, prompts, jobs, options)
        result.rejects += given.rejects
        digest = hashlib.sha256(json.dumps([row.texts for row in given.rows]).encode()).hexdigest()
        read_from = {"path": data, "rows": len(given.rows) + len(given.rejects), "sha256": digest}
        read_from |= {"label_column": a.label_column} if a.label_column is not None else {}
        used = sorted({q.question.prompt.name for j in jobs if j.labeler.prompted for q in j.outcomes.values()})
        head = output.about(task, read_from, [prompts[name] for name in used], options)
        manifest = output.save(a.out, result, head, jobs, limits)
    kept = output.keeps(a.out, result)
    _finished(a.out, manifest, kept)
    if not result.records and not kept:
        say("warning", f"no row could be made; {output.rejects_path(a.out)} says why")
    return len(result.records)


def _check(a: argparse.Namespace, task: Task) -> None:
    """Raise a UserError for options that are out of range or cannot be combined."""
    if (a.data is None) != (a.task == "write"):
        what, fix = ("takes no --data", "omit it") if a.data else ("needs texts", "give --data FILE")
        raise UserError(f"cse feedback {a.task} {what}\nfix: {fix}")
    if a.data and Path(a.data).exists() and a.out.exists() and a.out.samefile(a.data):
        raise UserError(f"--out {a.out} is the file of --data, which would be lost\nfix: give another --out")
    if a.rater and a.task != "fill":
        raise UserError(f"--rater is {a.rater}, but {a.task} takes no rater\nfix: omit it; --model answers")
    if a.count is not None and task.count is None:
        raise UserError(f"--count is {a.count}, but {a.task} asks for one answer\nfix: omit it")
    if a.label_column is not None and not task.labels:
        raise UserError(f"--label-column is {a.label_column}, but {a.task} keeps no labels\nfix: omit it")
    if a.columns and len(a.columns) != task.texts:
        raise UserError(
            f"--columns is {' '.join(a.columns)}, but {a.task} needs {task.texts}\nfix: name that number of columns"
        )
    if a.max_cost is not None and (a.price_in is None or a.price_out is None):
        raise UserError("--max-cost needs prices\nfix: give --price-in and --price-out, dollars per million tokens")
    least = {"workers": 1, "requests": 1, "count": 1, "requests_per_minute": 1, "max_requests": 1}
    for name, smallest in (least | {"price_in": 0, "price_out": 0, "max_cost": 0}).items():
        value = getattr(a, name)
        if value is not None and not value >= smallest:
            raise UserError(f"--{name.replace('_', '-')} is {value}\nfix: give {smallest} or more")


def _inputs(a: argparse.Namespace, task: Task) -> Inputs:
    if a.data is None:
        return Inputs()
    columns, source = a.columns, open_path(a.data, a.split)
    if columns is None:
        columns = [str(column.name) for column in RECOGNIZE[task.texts](source, None).texts[: task.texts]]
    if a.label_column is None and task.labels:
        found = label_of(source)
        a.label_column = None if found in columns else found
    if a.label_column is not None:
        say("labels", f"of the column {a.label_column} are kept")
    return load(a.data, columns, limit=a.limit, split=a.split, label_column=a.label_column)


@dataclass(slots=True)
class Inputs:
    """The rows to ask about, and the rows that were set aside."""

    rows: list[Input] = field(default_factory=list)
    rejects: list[Record] = field(default_factory=list)


def load(
    path: str, columns: Sequence[str], *, limit: int | None, split: str = "train", label_column: str | None = None
) -> Inputs:
    """Read the rows of a file, an asset or a Hub data set with these columns, the first `limit` of them."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}\nfix: give 1 or more")
    asked = [Column("--columns", _name(column)) for column in columns]
    asked += [] if label_column is None else [Column("--label-column", _name(label_column))]
    found, seen = Inputs(), dict[tuple[str, ...], int]()
    for number, row in enumerate(read(path, asked, split), 1):
        if limit is not None and number > limit:
            break
        cells = tuple((cell or "").strip() for cell in row.cells)
        given = Input(number, row.place, cells[: len(columns)], None if label_column is None else cells[-1])
        if not all(cells):
            what = "the label" if all(given.texts) else "a text"
            found.rejects.append(given.aside("blank", f"{what} is missing"))
        elif given.texts in seen:
            found.rejects.append(given.aside("duplicate", f"the same as row {seen[given.texts]}"))
        else:
            seen[given.texts] = number
            found.rows.append(given)
    if not found.rows:
        raise UserError(
            f"--data {path} has no usable row ({len(found.rejects)} are blank or repeated)\n"
            "fix: give a file with texts in these columns"
        )
    return found


def _name(column: str) -> str | int:
    return int(column) if column.isdecimal() else column


@contextmanager
def _store(folder: Path) -> Iterator[Store]:
    """The store of answers, locked for one job."""
    # Two jobs that ask the same questions at once would pay for them twice.
    store = Store(folder / "answers.sqlite")
    try:
        with FileLock(folder / "answers.lock", timeout=0):
            yield store
    except Timeout as error:
        raise UserError(
            f"--cache {folder}: another job is using it\nfix: wait until it ends, or give another folder: --cache DIR"
        ) from error
    finally:
        store.close()


def _labeler(a: argparse.Namespace, option: str, spec: str) -> Labeler:
    kind, colon, name = spec.partition(":")
    if kind not in KINDS or not colon or not name:
        raise UserError(
            f"{option} is {spec!r}\nfix: give KIND:NAME, where KIND is one of {', '.join(KINDS)}, "
            "such as openai:gpt-4o-mini, encoder:runs/.../best"
        )
    if kind == "openai":
        from cse.feedback.remote import Endpoint

        return Endpoint(
            name,
            base_url=a.base_url,
            key_env=a.key_env,
            workers=a.workers,
            response_format=a.response_format,
            extra=_extra(a.extra),
        )
    quiet()
    from cse.feedback.raters import Rater, weights

    return Rater(kind, *weights(option, name))


def _extra(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise UserError(
            f"--extra is not JSON: {error}\nfix: quote it for the shell: --extra '{{\"top_p\": 0.9}}'"
        ) from error
    if not isinstance(found, dict) or {"model", "messages"} & set(found):
        raise UserError(
            "--extra is not a JSON object, or sets `model` or `messages`\nfix: give an object without these two"
        )
    if secret := secret_in(text or "") or next((f"a value of {n!r}" for n in _names(found) if is_secret(n)), ""):
        raise UserError(
            f"--extra holds {secret}, which the manifest would show\n"
            "fix: put a key into a variable of the environment, and name it: --key-env NAME"
        )
    return found


def _names(value: Any) -> Iterator[str]:
    """The names of all texts in a value of JSON."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from _names(inner)
        if isinstance(inner, str) or (isinstance(name, str) and isinstance(inner, list)):
            yield str(name)


def _run(
    a: argparse.Namespace, rows: list[Input], prompts: Prompts, jobs: list[Job], options: dict[str, Any]
) -> Result:
    """The task's result: `write` takes topics and genres in place of rows, and `fill` a writer and a rater."""
    run = TASKS[a.task].run
    if a.task == "write":
        return run(words.subjects("topics", a.topics), words.subjects("genres", a.genres), prompts, jobs[0], **options)
    return run(rows, prompts, *([jobs[0], jobs[-1]] if a.task == "fill" else jobs[:1]), **options)


def _finished(out: Path, manifest: dict[str, Any], kept: bool) -> None:
    for labeler in manifest["labelers"]:
        tokens, cost = labeler["tokens"], labeler["cost_usd"]
        price = "" if cost is None else f"  ${cost:.4f}"
        say(
            "answers",
            f"{labeler['answered']:,} of {labeler['questions']:,} questions by {labeler['model']}  "
            f"{tokens['input']:,} + {tokens['output']:,} tokens{price}",
        )
        for kind in ("unusable", "failed_requests"):
            if labeler[kind]:
                counts = "  ".join(f"{number} {reason}" for reason, number in labeler[kind].items())
                say("", f"{kind.replace('_', ' ')}: {counts}")
        if labeler["unanswered"]:
            say("", f"{labeler['unanswered']:,} questions had no answer; the same command asks them again")
    aside = manifest["counts"]["set_aside"]
    if aside:
        counts = "  ".join(f"{number} {reason}" for reason, number in aside.items())
        say("set aside", counts if kept else f"{counts}   {output.rejects_path(out)}")
    if kept:
        say("warning", f"no row could be made, so nothing was written; {out} is as it was, of an earlier job")
        return
    say("wrote", f"{out}   {manifest['counts']['rows']:,} rows; {output.manifest_path(out).name}")
