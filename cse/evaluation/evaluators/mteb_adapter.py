"""MTEB through `mteb.evaluate`: any task or benchmark by name, with an identity of our own for each checkpoint.

mteb files every local model under one cache key, so that a second checkpoint would be given the first one's scores.
Here the revision is the hash of the checkpoint's files, and the cache lies inside the results folder.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from numpy.typing import NDArray

from cse.assets import hub
from cse.console import say
from cse.errors import UserError
from cse.evaluation.encoding import comparison, embedder, nearness, resolve_precision
from cse.evaluation.evaluators import sts_rows
from cse.evaluation.evaluators.retrieval import role_prompts
from cse.evaluation.evaluators.sts_rows import Missing, TaskData
from cse.evaluation.loading import Model, prompts
from cse.files import DAMAGED, read_shaped, write_json

OURS = {f"STS{year}": f"STS{year}" for year in range(12, 17)} | {"STSBenchmark": "STSB", "SICK-R": "SICKR"}
JOINED = {"SICK-R": ("SICKR-train", "SICKR-dev", "SICKR")}  # mteb's one split holds all three


class Adapter(AbsEncoder):  # type: ignore[misc]
    """A checkpoint of ours as mteb sees it."""

    def __init__(self, model: Model, precision: str = "auto") -> None:
        named = dict(zip(("query", "document"), role_prompts(model.encoder), strict=True))
        self.embed = {role: embedder(model.encoder, precision, prompt=prompt) for role, prompt in named.items()}
        self.embed[""] = embedder(model.encoder, precision)
        self.model, self.model_prompts = model.encoder, None
        self.mteb_model_meta = meta(model)

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> NDArray[np.floating]:
        """Embed the texts of mteb's batches, each distinct one once; queries and documents with the model's prompts."""
        embed = self.embed[getattr(prompt_type, "value", prompt_type) or ""]
        texts = [text for batch in inputs for text in batch["text"]]
        distinct = list(dict.fromkeys(texts))
        row = {text: i for i, text in enumerate(distinct)}
        return embed(distinct)[[row[text] for text in texts]]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n, m) the cosines, or for a model that was trained by distance the negative distances."""
        if by_distance(self.model):
            return -torch.cdist(_wide(embeddings1), _wide(embeddings2), compute_mode="donot_use_mm_for_euclid_dist")
        return super().similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n,) the same of each vector with its own partner."""
        if by_distance(self.model):
            return -(_wide(embeddings1) - _wide(embeddings2)).norm(dim=1)
        return super().similarity_pairwise(embeddings1, embeddings2)


def _wide(vectors: Any) -> torch.Tensor:
    return torch.as_tensor(vectors).double()


def by_distance(encoder: Any) -> bool:
    """Tell whether the vectors of an encoder are compared by distance; see `cse.evaluation.encoding.comparison`."""
    return comparison(encoder) is nearness


def meta(model: Model) -> ModelMeta:
    """Name and revision by which mteb keeps results apart."""
    name = re.sub(r"[^\w.-]+", "-", "-".join(Path(model.name).parts[-2:])).strip("-") or "model"
    return ModelMeta.create_empty(
        {
            "name": f"cse/{name}",
            "revision": model.sha256[:40],
            # None: the model's own; ModelMeta knows distances, and the wrappers of mteb do not.
            "similarity_fn_name": None if by_distance(model.encoder) else ScoringFunction.COSINE,
            "framework": ["Sentence Transformers", "PyTorch"],
        }
    )


def adapt(model: Model, precision: str = "auto") -> Any:
    """The model for `mteb.evaluate`. Models with prompts stay in the wrapper of mteb, which selects the prompts."""
    if model.loader == "cse":
        return Adapter(model, precision)
    wrapped = SentenceTransformerEncoderWrapper(model.encoder)
    wrapped.mteb_model_meta = meta(model)
    return wrapped


def get_tasks(names: str, benchmark: str | None = None) -> list[Any]:
    """Tasks by mteb's names, or ours for the seven STS tasks, or those of a benchmark."""
    if benchmark:
        known = [b.name for b in mteb.get_benchmarks()]
        if benchmark not in known:
            raise UserError(
                f"--benchmark: unknown benchmark {benchmark!r}; the nearest is {_nearest(benchmark, known)!r}\n"
                "fix: name a benchmark of mteb"
            )
        return list(mteb.get_benchmark(benchmark).tasks)
    theirs = {ours: name for name, ours in OURS.items()}
    wanted: list[str] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        wanted += [theirs.get(member, member) for member in sts_rows.groups().get(name, (name,))]
    for name in wanted:
        if name not in OURS and name not in (known := _known()):
            raise UserError(
                f"--tasks: mteb has no task {name!r}; the nearest is {_nearest(name, known)!r}\n"
                "fix: name a task of mteb"
            )
    return list(mteb.get_tasks(tasks=list(dict.fromkeys(wanted)), exclude_superseded=False)) if wanted else []


@functools.cache
def _known() -> list[str]:
    """Every name in mteb, which takes seconds to list."""
    return [task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)]


def inject(task: Any, data: str | None, *, check: bool = True) -> str | None:
    """Give one of the seven STS tasks its rows from a local folder, and say which; None: mteb asks the Hub."""
    name = task.metadata.name
    if name not in OURS or not sts_rows.folders(data):
        return None
    try:
        wanted = JOINED.get(name, (OURS[name],))
        parts = [sts_rows.load(sts_rows.tasks()[part], data, check=check, hub=False) for part in wanted]
    except Missing:
        return None
    task.dataset = DatasetDict({"test": rows(parts)})
    task.data_loaded = True
    source, digest = parts[0].source, "+".join(part.source.sha256[:8] for part in parts)
    return f"{source.where}, {source.text} text, {len(task.dataset['test'])} pairs, {digest}"


def run(
    model: Model,
    tasks: list[Any],
    out: Path,
    *,
    data: str | None = None,
    precision: str = "auto",
    check: bool = True,
) -> dict[str, Any]:
    """Run tasks one by one, keep each result as soon as it exists, and give the summary, which `out/mteb.json` has."""
    resolved = resolve_precision(model.encoder, precision)
    if by_distance(model.encoder):
        say(
            "note", "the model compares by distance; the main score of mteb's STS tasks is that of cosines all the same"
        )
    adapted = adapt(model, precision)
    # A score on other rows must not be taken for one on these.
    before = _scored(out / "mteb.json")
    summary: dict[str, Any] = {
        "model": model.as_dict(),
        "precision": resolved,
        "prompts": prompts(model.folder),
        "mteb": {"name": adapted.mteb_model_meta.name, "revision": adapted.mteb_model_meta.revision},
        "tasks": {},
        "failed": {},
    }
    for number, task in enumerate(tasks, start=1):
        name = task.metadata.name
        say("task", f"{number}/{len(tasks)} {name}")
        source = given(task, data, check=check)
        same = before.get(name, {}).get("data", source) == source
        try:
            strategy = "only-missing" if same else "always"
            summary["tasks"][name] = run_task(adapted, task, source, out / resolved, strategy)
        except Failed as error:
            summary["failed"][name] = str(error)
        write_json(out / "mteb.json", summary)
    return summary


class Failed(Exception):
    """A task has failed; the message says why."""


def given(task: Any, data: str | None, *, check: bool = True) -> str:
    """The place of a task's rows, after those of an STS task were taken from the folder; see `inject`."""
    return inject(task, data, check=check) or f"Hub {task.metadata.dataset['revision']}"


def _scored(path: Path) -> dict[str, Any]:
    """The tasks of an earlier summary."""
    if not path.exists():
        return {}
    try:
        return dict(read_shaped(path, {"tasks": {"*": {}}})["tasks"])
    except DAMAGED as error:
        raise UserError(f"{path} is damaged: {error}\nfix: remove it; the tasks are run again") from None


def run_task(adapted: Any, task: Any, source: str, folder: Path, strategy: str) -> dict[str, Any]:
    """Run one task, whose rows are those of `source`, and give its scores.

    `strategy` says what mteb does with a result that exists: `only-missing` or `always`.

    Raises:
        Failed: The task, of whatever library, has failed.
        UserError: The vectors are not finite.
    """
    cache, name = mteb.ResultCache(cache_path=folder), task.metadata.name
    try:
        kept = task.data_loaded or cache.load_task_result(name, adapted.mteb_model_meta)
        if not kept and not hub.reachable():  # fails at once, where mteb would retry for half a minute
            dataset = task.metadata.dataset
            hub.snapshot(dataset["path"], kind="dataset", revision=dataset["revision"])
        result = mteb.evaluate(adapted, [task], cache=cache, overwrite_strategy=strategy, show_progress_bar=False)
        return _summary(result.task_results[0], source)
    except hub.HubError as error:
        raise Failed(error.reason) from error
    except UserError:
        raise
    except Exception as error:  # one task's failure must not lose the others' results
        raise Failed(f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0][:200]}") from error


def rows(parts: list[TaskData]) -> Dataset:
    """Pairs in the columns of mteb's STS tasks."""
    pairs = [p for part in parts for p in part.subsets.values()]
    return Dataset.from_dict(
        {
            "sentence1": [t for p in pairs for t in p.first],
            "sentence2": [t for p in pairs for t in p.second],
            "score": np.concatenate([p.gold for p in pairs]).tolist(),
        }
    )


def _summary(result: Any, data: str) -> dict[str, Any]:
    scores = {split: [s["main_score"] for s in subsets] for split, subsets in result.scores.items()}
    every = [value for values in scores.values() for value in values]
    return {
        "main_score": round(100 * float(np.mean(every)), 3),  # mteb stores as many digits
        "splits": {split: round(100 * float(np.mean(values)), 3) for split, values in scores.items()},
        "data": data,
        "mteb_version": result.mteb_version,
    }


def _nearest(name: str, known: list[str]) -> str:
    lower = {k.lower(): k for k in known}
    return lower[difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.0)[0]]
