"""The files that a job writes: the data file, the rejects and the manifest. A file is never left incomplete.

All three depend only on the input and on the answers in the store, and not on the number of times the job was resumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cse.environment import cse_version
from cse.errors import UserError
from cse.feedback.job import Job
from cse.feedback.meter import Limits
from cse.feedback.prompts import Prompt
from cse.feedback.tasks import Result
from cse.files import DAMAGED, check_writable, read_json, sha256_file, write_json, write_lines

MADE_BY = "cse feedback"


def check(out: Path) -> None:
    """Check the path of the output before any question is asked."""
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out} is not a .jsonl file\nfix: give a name that ends in .jsonl")
    try:
        ours = not out.exists() or read_json(manifest_path(out))["made_by"] == MADE_BY
    except DAMAGED:
        ours = False
    if not ours:
        raise UserError(
            f"--out {out} exists and was not written by `{MADE_BY}`\nfix: give another name, or move the file"
        )
    check_writable(out)


def rejects_path(out: Path) -> Path:
    """The path of the rejects: `pairs.rejects.jsonl` beside `pairs.jsonl`."""
    return out.with_name(f"{out.stem}.rejects.jsonl")


def manifest_path(out: Path) -> Path:
    """The path of the manifest: `pairs.manifest.json` beside `pairs.jsonl`."""
    return out.with_name(f"{out.stem}.manifest.json")


def keeps(out: Path, result: Result) -> bool:
    """Tell whether the files of an earlier job are kept, since they have rows and this job made none."""
    return not result.records and out.is_file() and out.stat().st_size > 0


def save(out: Path, result: Result, about: dict[str, Any], jobs: Sequence[Job], limits: Limits) -> dict[str, Any]:
    """Write the three files, unless those of an earlier job are kept, and return the manifest."""
    if keeps(out, result):
        return about | _counts(result) | _answers(jobs, limits)
    if not manifest_path(out).exists():  # without it, what a full disk leaves could not be replaced by the same command
        write_json(manifest_path(out), about)
    rejects = sorted(result.rejects, key=lambda reject: int(reject["row"]))
    write_lines(rejects_path(out), rejects)
    write_lines(out, result.records)
    manifest = about | _outcome(out, result) | _answers(jobs, limits)
    write_json(manifest_path(out), manifest)
    return manifest


def about(task: str, data: dict[str, Any], prompts: Sequence[Prompt], options: dict[str, Any]) -> dict[str, Any]:
    """The head of a manifest: the task, the data, the prompts and the options."""
    shown = {p.name: {"version": p.version, "sha256": p.sha256} for p in prompts}
    made_by = {"made_by": MADE_BY, "version": cse_version()}
    return {**made_by, "task": task, "data": data, "prompts": shown, "options": options}


def _outcome(out: Path, result: Result) -> dict[str, Any]:
    files = {"file": out.name, "sha256": sha256_file(out), "rejects": rejects_path(out).name}
    found: dict[str, Any] = {"output": files} | _counts(result)
    if any("score" in record for record in result.records):
        found["score_histogram"] = histogram([record["score"] for record in result.records])
    return found


def _counts(result: Result) -> dict[str, Any]:
    reasons = Counter(reject["reason"] for reject in result.rejects)
    return {"counts": {"rows": len(result.records), "set_aside": dict(sorted(reasons.items()))}}


def histogram(scores: Sequence[float]) -> dict[str, int]:
    """The number of scores in each tenth of [0, 1]; the last tenth includes 1.0."""
    tenths = Counter(min(9, int(score * 10 + 1e-9)) for score in scores)
    return {f"{i / 10:.1f}-{(i + 1) / 10:.1f}": tenths[i] for i in range(10)}


def _answers(jobs: Sequence[Job], limits: Limits) -> dict[str, Any]:
    """The models that answered, with counts, failures, tokens and cost, over all answers that the output depends on."""
    labelers = []
    for job in jobs:
        outcomes = list(job.outcomes.values())
        replies = [reply for outcome in outcomes for reply in outcome.replies]
        unusable = Counter(reason for outcome in outcomes for reason in outcome.unusable)
        silent = sum(len(outcome.verdicts) > len(outcome.unusable) for outcome in outcomes)
        tokens_in, tokens_out = sum(r.input_tokens for r in replies), sum(r.output_tokens for r in replies)
        times = sorted(reply.time for reply in replies)
        parameters = {o.question.prompt.name: job.labeler.parameters(o.question.prompt) for o in outcomes}
        labelers.append(
            {
                "model": job.labeler.model,
                "parameters": parameters,
                "questions": len(outcomes),
                "answered": sum(outcome.answer is not None for outcome in outcomes),
                "unanswered": silent,
                "answers": len(replies),
                "unusable": dict(sorted(unusable.items())),
                "failed_requests": job.store.faults([key for outcome in outcomes for key in outcome.keys]),
                "tokens": {"input": tokens_in, "output": tokens_out, "estimated": any(r.estimated for r in replies)},
                "cost_usd": limits.cost(tokens_in, tokens_out),
                "first_answer": times[0] if times else None,
                "last_answer": times[-1] if times else None,
            }
        )
    return {"labelers": labelers}
