"""Facts about the training of a model, read from the folder of its run, without paths of the machine it ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cse.assets import FETCHED, PREFIX, SHIPPED
from cse.console import inline
from cse.data.checks import SHAPE as REPORT
from cse.environment import SHAPE as ENVIRONMENT
from cse.errors import UserError
from cse.files import DAMAGED, read_json, read_shaped
from cse.recipe.files import arguments_of, parse

WRITTEN = "part of cse, written and graded for it by a language model; Apache-2.0"
AI_MADE = frozenset(f"{PREFIX}{name}" for name in SHIPPED if name != "mini")
NO_RUN = "not recorded"
MINED = {"miner": {"class?": str}, "k?": int, "checkpoint?": {"name?": str}}  # of a file that `cse mine` wrote
_LABELER = {"model": str, "answers?": int, "questions?": int, "first_answer?": (str, None), "last_answer?": (str, None)}
ASKED = {  # of one that `cse feedback` wrote
    "made_by": str,
    "task": str,
    "prompts?": {"*": {"version": int}},
    "counts?": {"rows?": int, "set_aside?": {"*": int}},
    "score_histogram?": {"*": int},
    "output?": {"sha256?": str},
    "labelers?": [{**_LABELER, "cost_usd?": (float, None)}],
}
MOSTLY = 0.9  # share of the sampled texts from which a language is named as the language of the model


@dataclass(slots=True)
class Facts:
    """Facts about a run; a field is empty if nothing is known."""

    recipe: dict[str, Any] = field(default_factory=dict)  # the resolved recipe, with absolute paths reduced to names
    name: str | None = None  # the name of the recipe
    seed: int | None = None  # the seed of the run
    environment: dict[str, str] = field(default_factory=dict)  # versions and the machine
    note: str = ""  # the objective's sentence on how to use the vectors
    data: dict[str, str] = field(default_factory=dict)  # the training data, as rows of a table
    language: str | None = None  # the ISO 639 code of the language of nearly all training texts
    # the texts that the training data share with evaluation sets, by set
    overlap: dict[str, str] = field(default_factory=dict)
    # the provenance of scores and texts that a language model made
    feedback: dict[str, str] = field(default_factory=dict)

    @property
    def backbone(self) -> str | None:
        """The backbone, as the recipe names it."""
        name = _shown(arguments_of(self.recipe, "encoder").get("backbone"))
        return str(name) if name else None

    @property
    def path(self) -> str | None:
        """The path of the data, as the recipe names it."""
        path = arguments_of(self.recipe, "data").get("path")
        return None if path is None or str(path).startswith("LOCAL/") else inline(path)

    @property
    def chosen_on(self) -> str | None:
        """The tasks or rows by whose score the checkpoint was selected."""
        chosen: str | None = _shown(_chosen_on(self.recipe.get("evaluator")))
        return chosen

    @property
    def objectives(self) -> list[str]:
        """The classes of the objectives: of the recipe, or of the sources of a mixture."""
        parts = [source.get("objective") or self.recipe.get("objective") for source in mixed(self.recipe).values()]
        paths = [part.get("class_path") for part in parts or [self.recipe.get("objective")] if part]
        return list(dict.fromkeys(inline(path).rpartition(".")[2] for path in paths if path))


def _chosen_on(evaluator: Any) -> str | None:
    given = evaluator.get("init_args") or {} if isinstance(evaluator, dict) else {}
    if not given:
        return None
    if isinstance(given.get("evaluators"), dict):  # a list of evaluators, by the one that is primary
        return _chosen_on(given["evaluators"].get(given.get("primary")))
    return str(given.get("tasks") or given.get("name") or str(evaluator["class_path"]).rpartition(".")[2])


def read_facts(run: Path | None) -> Facts:
    """Read a run's folder: recipe.yaml, env.json and data.json (of `cse.data.checks`), the last two if they exist."""
    if run is None:
        return Facts()
    path = run / "recipe.yaml"
    if not path.is_file():
        raise UserError(
            f"{run} is not a run, since {path} does not exist\nfix: give the folder that training printed as `run`"
        )
    raw = parse(path)
    environment, recorded = _json(run / "env.json", ENVIRONMENT), _json(run / "data.json", REPORT)
    source = str(arguments_of(raw, "data").get("path") or "")
    parts = {name: str(arguments_of(options, "data").get("path") or "") for name, options in mixed(raw).items()}
    checked: dict[str, Any] = recorded.get("sources") or {"": recorded}
    main = {
        code for each in checked.values() for code, share in (each.get("languages") or {}).items() if share >= MOSTLY
    }
    overlap = [(name, each.get("overlap") or {}) for name, each in checked.items()]
    feedback = [(name, _feedback(path)) for name, path in (parts or {"": source}).items()]
    return Facts(
        recipe=portable(raw),
        name=environment.get("recipe"),
        seed=environment.get("seed", raw.get("seed")),
        environment=_environment(environment),
        note=_cell(environment.get("note")),
        data=_data_of_mixture(raw, parts, portable(recorded)) if parts else _data(source, portable(recorded)),
        language=main.pop() if len(main) == 1 else None,
        overlap={_of(name, task): _shared(found) for name, tasks in overlap for task, found in tasks.items()},
        feedback={_of(name, key): text for name, facts in feedback for key, text in facts.items()},
    )


def mixed(recipe: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The options of each source of a resolved recipe whose data is a mixture, by name."""
    return dict(arguments_of(recipe, "data").get("sources") or {})


def _of(source: str, what: str) -> str:
    return f"{source}: {what}" if source else what


def _data_of_mixture(
    recipe: Mapping[str, Any], paths: Mapping[str, str], recorded: Mapping[str, Any]
) -> dict[str, str]:
    """The same as `_data` for all sources together, and one line for each of them."""
    each = {name: _data(path, (recorded.get("sources") or {}).get(name) or {}) for name, path in paths.items()}
    found = {
        "source": ", ".join(f"{facts['source']} ({name})" for name, facts in each.items()),
        "rows": _cell(recorded.get("rows")) or NO_RUN,
        "sha256 of the rows": _cell(recorded.get("sha256")) or NO_RUN,
        "license": "; ".join(f"{facts['license']} ({name})" for name, facts in each.items()),
        "schedule": _cell(arguments_of(recipe, "data").get("schedule")).replace("_", " "),
    }
    for name, facts in each.items():
        weight = mixed(recipe)[name].get("weight", 1)
        more = [f"{key} {text}" for key, text in facts.items() if key not in {"source", "rows", "license"}]
        found[f"source {name}"] = ", ".join([facts["source"], f"{facts['rows']} rows, weight {weight:g}", *more])
    return found


def portable(value: Any) -> Any:
    """The same value with every absolute path cut to its last part: a folder of one machine means nothing to others."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str) and (value.startswith("~") or _absolute(value)):
        return f"LOCAL/{PureWindowsPath(value).name}"
    return value


def _absolute(value: str) -> bool:
    return "\n" not in value and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())


def _data(source: str, recorded: Mapping[str, Any]) -> dict[str, str]:
    """The source of the data, and the rows, hash, license and counts that were recorded."""
    found = {"source": f"`{inline(portable(source))}`" if source else NO_RUN}
    found["rows"] = _cell(recorded.get("rows")) or NO_RUN
    found["sha256 of the rows"] = _cell(recorded.get("sha256")) or NO_RUN
    found["license"] = _license(source) or NO_RUN
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in (recorded.get("left_out") or {}).items())
    tokens, mined = recorded.get("tokens") or {}, _beside(source, ".json", MINED)
    found["left out or repaired"] = left_out
    found["cut"] = f"{tokens['truncated']:,} texts, to {tokens['max_length']} tokens" if tokens.get("truncated") else ""
    found["languages"] = ", ".join(f"{c} {s:.0%}" for c, s in (recorded.get("languages") or {}).items())
    if mined:
        checkpoint = portable((mined.get("checkpoint") or {}).get("name"))
        found["hard negatives"] = (
            f"mined with `{checkpoint}` by {mined['miner'].get('class')}, {mined.get('k')} per row"
        )
    return {key: text for key, text in found.items() if text}


def _shared(found: Mapping[str, Any]) -> str:
    """The share of an evaluation set that occurs in the training text."""
    pairs = f"; {found['shared_pairs']:,} of {found['pairs']:,} pairs" if found.get("pairs") else ""
    return f"{found['shared_texts']:,} of {found['texts']:,} texts{pairs}"


def _license(source: str) -> str | None:
    """The license in the NOTICE of an asset, if the asset is on this machine. Nothing is fetched."""
    if source in AI_MADE:
        return WRITTEN
    name = source.removeprefix("asset:")
    if name == source:
        return None
    asset = FETCHED.get(name)
    notice = asset.folder(name) / "NOTICE" if asset else None
    if notice is None or not notice.is_file():
        return None
    stated = re.search(r"^Licen[cs]e\s+(.+)$", notice.read_text(encoding="utf-8"), re.MULTILINE)
    return stated[1].rstrip(",") if stated else None


def _feedback(source: str) -> dict[str, str]:
    """The manifest of `cse feedback` beside a data file: which models were asked, which prompts, and the outcome."""
    if source in AI_MADE:
        return {"made by": WRITTEN}
    manifest = portable(_beside(source, ".manifest.json", ASKED))
    if not manifest:
        return {}
    prompts = ", ".join(f"{name} {about.get('version')}" for name, about in (manifest.get("prompts") or {}).items())
    counts = manifest.get("counts") or {}
    aside = ", ".join(f"{count:,} {reason}" for reason, count in (counts.get("set_aside") or {}).items())
    found = {
        "task": _cell(manifest.get("task")),
        "prompts": prompts,
        "rows": _cell(counts.get("rows")),
        "set aside": aside,
        "scores": ", ".join(f"{k}: {n:,}" for k, n in (manifest.get("score_histogram") or {}).items() if n),
        "sha256": _cell((manifest.get("output") or {}).get("sha256")),
    }
    for labeler in manifest.get("labelers") or []:
        answers = f"{labeler.get('answers', 0):,} answers to {labeler.get('questions', 0):,} questions"
        cost = labeler.get("cost_usd")
        when = f", {labeler['first_answer']} to {labeler['last_answer']}" if labeler.get("first_answer") else ""
        found[f"model `{labeler.get('model')}`"] = f"{answers}{f', {cost} USD' if cost else ''}{when}"
    return {key: text for key, text in found.items() if text}


def _beside(source: str, ending: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Read the file of the same name with another ending; {} without the first key of the shape: it is not ours.

    Raises:
        UserError: The file is damaged.
    """
    try:
        path = Path(source or "none").expanduser().with_suffix(ending)
        ours = path.is_file() and next(iter(shape)) in read_json(path)
    except (*DAMAGED, RuntimeError):  # the source does not name a file, or the file is another one
        return {}
    return _json(path, shape) if ours else {}


def _environment(environment: Mapping[str, Any]) -> dict[str, str]:
    """Versions, machine and time."""
    packages = environment.get("packages") or {}
    known = {key: environment.get(key) for key in ("cse", "git", "python", "platform", "device", "threads", "cuda")}
    known |= packages
    known["started"] = environment.get("started")
    return {key: str(value) for key, value in known.items() if value is not None}


def _cell(value: Any) -> str:
    """A value on one line; an empty text for None."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())


def _json(path: Path, shape: Any) -> dict[str, Any]:
    """A JSON object for the lines of a card, without line breaks and HTML; {} if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = _shown(read_shaped(path, shape))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}\nfix: restore it, or remove it") from None
    return found


def _shown(value: Any) -> Any:
    """The same value with every text as it may stand within a line."""
    if isinstance(value, dict):
        return {inline(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return inline(value) if isinstance(value, str) else value
