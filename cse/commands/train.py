"""cse train: train a recipe, or several in turn, or resume a run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cse.console import say
from cse.errors import UserError
from cse.training import launch

HELP = "train a recipe, or resume a run"
EPILOG = (
    "Options of a recipe are given as --objective.temperature=0.1 --trainer.max_steps=50. A recipe is code: a file may "
    "name classes of this package, and of other modules with --trusted-modules=MODULE,MODULE."
)
TAKES_OVERRIDES = True
OF_ALL = ("--run-dir", "--resume", "--processes", "--dry-run")  # options of the command, not of a stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a recipe's name, or the path of a YAML file")
    parser.add_argument("--run-dir", type=Path, help="folder to write; default runs/RECIPE/TIME-sSEED")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="resume the run in this folder; `auto`, with a recipe and --run-dir: if it holds one, else begin it",
    )
    launch.add_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what the run would be, and write nothing")
    parser.add_argument(
        "--then",
        nargs=argparse.REMAINDER,
        metavar="RECIPE",
        help="afterwards train this recipe on the best checkpoint; its own options follow it. The runs are folders in "
        "--run-dir, and the same command with --resume auto resumes the one that was stopped",
    )


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Train; returns 0, or 128 and the number of the signal that stopped the run: 130 for Ctrl-C, 143 for SIGTERM."""
    from cse.api import resume, train
    from cse.recipe.options import read

    if arguments.dry_run:
        return _say_plan(arguments, overrides)
    auto = arguments.resume == "auto"
    if auto and (arguments.recipe is None or arguments.run_dir is None):
        raise UserError("--resume auto needs a recipe and --run-dir\nfix: cse train RECIPE --run-dir RUN --resume auto")
    if arguments.then is not None:
        return _in_turn(arguments, overrides)
    if (arguments.recipe is None) == (arguments.resume is None) and not auto:
        raise UserError(
            "cse train needs either a recipe or --resume RUN\nfix: cse train simcse-unsup; `cse recipe list` shows all"
        )
    if arguments.resume is not None and not auto:
        given = read(overrides)
        if given.values:
            named = " ".join(f"--{name}" for name, _ in given.values)
            raise UserError(f"--resume uses the recipe of the run and takes no options\nfix: remove {named}")
        done = resume(Path(arguments.resume), trusted_modules=given.trusted)
    else:
        done = train(arguments.recipe, overrides=overrides, run_dir=arguments.run_dir, resumes=auto)
    return 0 if done.finished else 128 + done.stopped_by


def _say_plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Print what a run would be."""
    from cse.training.start import plan

    if arguments.recipe is None or arguments.resume is not None or arguments.then is not None:
        raise UserError("--dry-run is of one recipe, without --resume and --then\nfix: cse train RECIPE --dry-run")
    for key, text in plan(arguments.recipe, overrides, arguments.run_dir):
        say(key, text)
    return 0


def before_processes(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Check, before any process starts, that the recipe can be trained by as many."""
    from cse.recipe import load
    from cse.recipe.settings import Settings
    from cse.training.preflight import indivisible

    if arguments.recipe is not None:
        settings = Settings(**vars(load(arguments.recipe, overrides).config.trainer))
        if problem := indivisible(settings, arguments.processes):
            raise UserError(problem)


def _in_turn(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Train recipes one after the other, each on the best checkpoint of the run before; each is a run of its own."""
    stages = _stages(arguments, overrides)
    names = [Path(recipe).stem for recipe, _ in stages]
    folder = arguments.run_dir or Path("runs") / "-then-".join(names) / launch.common_start()
    if (folder / "recipe.yaml").is_file():
        raise UserError(f"--run-dir {folder} is a run, and stages are runs in a folder\nfix: give another folder")
    places = [folder / f"{number}-{name}" for number, name in enumerate(names, 1)]
    for i, (recipe, options) in enumerate(stages):
        say("stage", f"{i + 1} of {len(stages)}: {recipe}")
        options = [*options, f"--encoder={places[i - 1] / 'best'}"] if i else options
        if arguments.processes is None:
            own = argparse.Namespace(
                recipe=recipe, run_dir=places[i], resume=arguments.resume, then=None, dry_run=False
            )
            code = run(own, options)
        else:
            resumes = ["--resume", arguments.resume] if arguments.resume else []
            words = ["train", recipe, "--run-dir", str(places[i]), *resumes, *options]
            stage = argparse.Namespace(recipe=recipe, processes=arguments.processes)
            code = launch.run(arguments.processes, words, partial(before_processes, stage, options))
        if code:
            say("next", f"the same command with --run-dir {folder} --resume auto")
            return code
    return 0


def _stages(arguments: argparse.Namespace, overrides: list[str]) -> list[tuple[str, list[str]]]:
    """The recipe of each stage and its options, which are checked before the first stage is trained."""
    from cse.recipe import load

    if arguments.recipe is None or arguments.resume not in {None, "auto"}:
        wrong = "needs a recipe before it" if arguments.recipe is None else f"and --resume {arguments.resume}"
        raise UserError(f"--then {wrong}\nfix: cse train RECIPE --then RECIPE --run-dir RUN --resume auto")
    if "LOCAL_RANK" in os.environ:
        raise UserError(
            "--then starts the processes of each stage by itself\n"
            "fix: give --processes N instead of starting them, or train the recipes by commands of their own"
        )
    stages = [(str(arguments.recipe), overrides), *_split(arguments.then)]
    first = load(stages[0][0], stages[0][1]).config.encoder.init_args
    for recipe, options in stages[1:]:
        # Options are checked on the first backbone, since what this stage will begin with does not exist yet.
        load(recipe, [*options, f"--encoder={first.backbone}"])
    return stages


def _split(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The stages that the words behind the first --then name."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "--then":
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        if not part or part[0].startswith("-"):
            raise UserError("--then needs a recipe\nfix: cse train pretrain-cotmae --then simcse-unsup")
        for word in part:
            option = word.partition("=")[0]
            if option in OF_ALL:
                raise UserError(f"{option} is behind --then, and concerns all stages\nfix: give it before --then")
            if option in {"--encoder", "--encoder.backbone"}:
                raise UserError(
                    f"{option} is behind --then, where the encoder is that of the stage before\nfix: remove {option}"
                )
    return [(part[0], part[1:]) for part in parts]
