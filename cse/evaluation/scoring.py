"""Score a checkpoint, on our tasks or on MTEB's: what `cse eval CHECKPOINT` and `cse eval mteb` run, from Python."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cse.console import say
from cse.errors import require_package
from cse.evaluation import describe, results, sources, suite, transfer
from cse.evaluation.encoding import embedder, resolve_precision
from cse.evaluation.harness import Outcome, score_tasks
from cse.evaluation.loading import load_model, prompts
from cse.evaluation.results import Scored
from cse.files import check_writable


def evaluate(
    checkpoint: str | Path,
    tasks: str | None = None,
    *,
    data: str | None = None,
    precision: str = "auto",
    folds: int = transfer.FOLDS,
    check: bool = True,
    progress: bool = False,
    out: Path | None = None,
    prompt: str | None = None,
) -> Scored:
    """Score a checkpoint on STS and transfer tasks.

    Args:
        checkpoint: A folder or Hub id of a checkpoint of cse, a SentenceTransformer or a plain model, or an export.
        tasks: Names of tasks and groups, separated by commas: sts, sts-mini, STSB-dev, transfer, MR ...; None: sts with
            `data` or CSE_DATA, else sts-mini, which is shipped.
        data: A folder with the rows of the tasks; None: CSE_DATA, then the Hub.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        folds: Folds of the transfer tasks that are cross-validated.
        check: Whether to refuse rows that are not the known sets.
        progress: Whether to show a bar while texts are encoded.
        out: The results.json to write, with the similarities of the pairs beside it. None: write no file.
        prompt: The name of the checkpoint's prompt that is put before every text. None: its default prompt, if any.

    Returns:
        The content of results.json as `results`, with the similarity of every pair. `missing` in it names the tasks
        whose rows were not found; the average exists only if there are none.

    Raises:
        UserError: A task is unknown, the checkpoint cannot be loaded, rows are malformed, or vectors are not finite.
    """
    sts, labeled = transfer.split_names(tasks or sources.default_tasks(data))
    if sts or not labeled:
        suite.resolve(sts)  # a misspelled name fails before a model is loaded
    if out:
        check_writable(out)
    start = time.perf_counter()
    model = load_model(str(checkpoint), prompt=prompt)
    loading = time.perf_counter() - start
    outcome = Outcome(sts, {}, {}, {})
    if sts:
        outcome = score_tasks(
            model.encoder, sts, data, precision=precision, check=check, progress=progress, prompt=prompt
        )
    found = describe.build(outcome, model.as_dict(), resolve_precision(model.encoder, precision))
    if labeled:
        embed = embedder(model.encoder, precision, progress, prompt)
        found |= describe.build_transfer(labeled, data, embed, folds=folds, check=check)
    found["seconds"] = {"load": round(loading, 3), **found["seconds"]}
    if out:
        results.write(found, out, describe.similarities(outcome) or None)
    cosine = {name: score.cosine for name, score in outcome.scores.items()}
    gold = {name: score.gold for name, score in outcome.scores.items()}
    return Scored(model.name, found, cosine, gold)


def run_mteb(
    checkpoint: str | Path,
    tasks: str = "sts",
    out: Path = Path("mteb"),
    *,
    benchmark: str | None = None,
    data: str | None = None,
    precision: str = "auto",
    check: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run tasks of MTEB on a checkpoint; each result is kept as soon as it exists, and is not computed again.

    Args:
        checkpoint: A folder or Hub id.
        tasks: Names of MTEB tasks, separated by commas; our names of the seven STS tasks and their groups work, too.
        out: The folder for results; `mteb.json` in it is the summary.
        benchmark: A benchmark of MTEB by name, in place of `tasks`.
        data: A folder with the rows of the STS tasks, which then come from there rather than from the Hub.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        check: Whether to refuse rows that are not the known sets.
        overwrite: Whether to run the tasks again that have a result.

    Returns:
        The summary: `tasks` with their main scores, `failed` with the reasons.

    Raises:
        UserError: A task is unknown, the checkpoint cannot be loaded, or mteb is not installed.
    """
    require_package("mteb", extra="mteb", user="cse eval mteb")
    from cse.evaluation import mteb_adapter

    found = mteb_adapter.get_tasks(tasks, benchmark)
    check_writable(out / "mteb.json")
    model = load_model(str(checkpoint), use_prompts=True)
    for name, prompt in prompts(model.folder).items():
        say("prompt", f"{name}: {prompt!r}")
    return mteb_adapter.run(model, found, out, data=data, precision=precision, check=check, overwrite=overwrite)
