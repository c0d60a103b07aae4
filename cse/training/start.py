"""Begin a run from a recipe, or resume one: what `cse train` and `cse.train` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cse import distributed
from cse.data.loader import FixedRows
from cse.environment import SHAPE
from cse.errors import UserError
from cse.files import check_writable, read_shaped, recover
from cse.interfaces import Callback
from cse.recipe import Recipe, build, load
from cse.recipe.objects import as_options, resolve
from cse.training import fitted, lost
from cse.training.callbacks import Console, DataCheck, RunFiles, header, start_warnings
from cse.training.checkpoint import changed_lines, load_progress
from cse.training.helped import Distilled, Helped
from cse.training.launch import common_start
from cse.training.run import Progress, Run
from cse.training.trainer import Trainer


def train(
    recipe: str | Path | Mapping[str, Any] | None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    run_dir: str | Path | None = None,
    *,
    parts: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    resumes: bool = False,
) -> Run:
    """Train a recipe.

    Args:
        recipe: The recipe's name, a path that ends in .yaml, or the content of such a file. None: the parts say
            everything.
        overrides: Options of the recipe, such as `--trainer.max_steps=50`, or their values by name.
        run_dir: The folder to write. None: `runs/RECIPE/TIME-sSEED`.
        parts: What takes the place of the recipe's parts; see `cse.recipe.objects.resolve`.
        callbacks: Further watchers of the run. The run's recipe does not name them.
        resumes: Whether to resume the run that the folder holds, if it holds one, as a job does that is started again.

    Returns:
        The run; best/ and last/ in its folder are checkpoints. `interrupted` is the signal that stopped it, or 0.

    Raises:
        UserError: The recipe cannot be trained, or the folder holds a run already, or one of another recipe.
        FloatingPointError: The loss is not finite.
    """
    require_callbacks(callbacks)
    loaded, folder, begun = _read(recipe, overrides, run_dir, parts or {}, resumes=resumes)
    return fit(loaded, folder, is_resume=begun, watchers=_watchers(loaded, callbacks))


def plan(recipe: str | Path, overrides: Sequence[str], run_dir: str | Path | None) -> list[tuple[str, str]]:
    """Prepare a run as `train` does, take the loss of its first batch, and write nothing.

    Returns:
        The lines of the run's header, and those on its memory and on what it would write, each with a key.

    Raises:
        UserError: See `train`.
    """
    loaded, folder, _ = _read(recipe, overrides, run_dir, {}, resumes=False)
    trainer = Trainer(assemble(loaded, folder))
    weights, states = (size / 2**30 for size in trainer.rehearse())
    lines = header(trainer.run, loaded.chosen or "")
    lines += [("warning", warning) for warning in start_warnings(trainer.run)]
    each = f"{weights:.1f} GB of weights, gradients and optimizer, {states:.1f} GB of states of the first batch"
    lines.append(("memory", f"by estimate{', on each process' * (distributed.world_size() > 1)}: {each}"))
    disk = sum(p.numel() for p in trainer.learner.parameters()) * 4 / 2**30
    return [*lines, ("run", f"{folder}, not begun; best/ and last/ would have up to {disk:.1f} GB each")]


def _read(
    recipe: str | Path | Mapping[str, Any] | None,
    overrides: Sequence[str] | Mapping[str, Any],
    run_dir: str | Path | None,
    parts: Mapping[str, Any],
    *,
    resumes: bool,
) -> tuple[Recipe, Path, bool]:
    """Read the recipe of a run, choose its folder, and tell whether the folder holds a begun run; see `train`."""
    named, options, given = resolve(recipe, parts)
    loaded = load(named, [*options, *as_options(overrides, given)], given)
    seed = loaded.config.seed
    folder = Path(run_dir) if run_dir else Path("runs") / loaded.name / f"{common_start()}-s{seed}"
    check_writable(folder, "--run-dir", kind="folder")
    if (folder / "config.json").is_file() or (folder / "modules.json").is_file():
        raise UserError(f"--run-dir {folder} is a model, and the files of a run would be in it\nfix: give a new folder")
    begun = is_begun(folder)
    if begun and not resumes:
        raise UserError(f"--run-dir {folder} holds a run already\nfix: cse train --resume {folder}, or another folder")
    if begun and distributed.is_first():  # the others take its word; a shared file system may show them less
        path = folder / "recipe.yaml"
        if changed := changed_lines(path.read_text(encoding="utf-8"), loaded.text):
            raise UserError(
                f"--run-dir {folder} holds a run of another recipe: {path} has `{changed[0]}`, not `{changed[1]}`\n"
                f"fix: give the options of that run, resume it with cse train --resume {folder}, or give another folder"
            )
        _require_best(folder, load_progress(folder / "state"))
    return loaded, folder, begun


def resume(
    run_dir: str | Path,
    *,
    parts: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    trusted: Sequence[str] = (),
) -> Run:
    """Resume a run that was interrupted or killed; see `train`.

    Args:
        run_dir: The folder of the run.
        parts: The objects that the run was started with and that its recipe cannot name.
        callbacks: Further watchers.
        trusted: Modules besides this package whose classes the run's recipe may name.

    Returns:
        The run, which ends as if nothing had interrupted it.

    Raises:
        UserError: The folder does not hold a run, its state is damaged, or an object is missing.
        FloatingPointError: The loss is not finite.
    """
    require_callbacks(callbacks)
    folder = Path(run_dir)
    path = folder / "recipe.yaml"
    if not distributed.comes(path.is_file):
        raise UserError(
            f"--resume {folder}: is not a run, since {path} does not exist\n"
            "fix: give the folder that training printed as `run`"
        )
    begun, text = is_begun(folder), path.read_text(encoding="utf-8", errors="replace")
    if begun and distributed.is_first():  # before the data and the model are loaded
        _require_best(folder, load_progress(folder / "state", {"recipe": text}))
    try:
        name = read_shaped(folder / "env.json", SHAPE)["recipe"]  # recipe.yaml does not hold the name
    except (OSError, ValueError) as error:
        raise UserError(f"--resume {folder}: its env.json is missing or damaged\nfix: start the run again") from error
    _, options, given = resolve(str(path), parts or {})
    loaded = replace(load(str(path), options, given, trusted=trusted), name=name, own=None, text=text)
    return fit(loaded, folder, is_resume=begun, watchers=_watchers(loaded, callbacks))


def _require_best(folder: Path, progress: Progress) -> None:
    """Raise if the best checkpoint of the run is gone, since what is left to train may not write it again."""
    recover(folder / "best")
    if (progress.finished or progress.best_step is not None) and not (folder / "best").is_dir():
        step = "" if progress.best_step is None else f" of step {progress.best_step}"
        raise UserError(
            f"--resume {folder}: its best checkpoint{step} is gone: {folder / 'best'} does not exist\n"
            f"fix: put it back, or start the run again in another folder; {folder / 'last'} may hold the last one"
        )


def _watchers(recipe: Recipe, callbacks: Sequence[Callback]) -> list[Callback]:
    """List what watches a run that a user asked for; the table comes before the console's last lines."""
    return [Helped(), Distilled(), Console(recipe.chosen), DataCheck(), *callbacks]


def require_callbacks(callbacks: Sequence[object]) -> None:
    """Raise unless all are objects."""
    if not isinstance(callbacks, Sequence):
        what = f"callbacks is {str(callbacks)[:60]}, of type {type(callbacks).__name__}"
        raise UserError(f"{what}\nfix: give a list of cse.Callback objects")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise UserError(
                f"callbacks has {str(callback)[:60]!r}, of type {type(callback).__name__}\n"
                "fix: give objects of subclasses of cse.Callback"
            )


def is_begun(folder: Path) -> bool:
    """Tell whether a folder has a state to resume from; a run killed before its first evaluation ended starts again."""
    if folder.is_dir():
        recover(folder / "state")
    return (folder / "state").exists()


def fit(recipe: Recipe, folder: Path, *, is_resume: bool, watchers: Sequence[Callback]) -> Run:
    """Build a recipe's objects and train them; what `train` and `resume` do with the recipe that they have read.

    `watchers` are callbacks besides those of the recipe and the one that writes the files of the run.
    """
    run = assemble(recipe, folder, watchers)
    try:
        with lost.explained(run):
            return Trainer(run).fit(resume=is_resume)
    finally:  # whatever still holds a run that failed, another may train in its folder
        for callback in run.callbacks:
            if isinstance(callback, RunFiles):
                callback.lock.release()


def assemble(recipe: Recipe, folder: Path, watchers: Sequence[Callback] = ()) -> Run:
    """The run of a recipe, with all of its objects; nothing is written. See `fit`."""
    built = build(recipe)
    run = Run(
        name=recipe.name,
        folder=folder,
        seed=recipe.config.seed,
        recipe=recipe.text,
        data=built.evaluator.take(built.data) if built.evaluator else built.data,
        collator=built.collator,
        encoder=built.encoder,
        objective=built.objective,
        evaluator=built.evaluator,
        sampler=built.sampler,
        source=built.negatives or FixedRows(),
        settings=built.trainer,
        callbacks=[RunFiles(recipe, folder), *watchers, *built.callbacks],
    )
    fitted.fit_lengths(run)
    return run
