"""The header of the card, which the Hub reads and checks, with license and scores; and the papers to cite."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from cse.assets.hub import is_repo_id
from cse.data.reading.files import KINDS
from cse.data.reading.sources import HUB_ID
from cse.encoder.checkpoint.layout import Layout
from cse.errors import UserError
from cse.evaluation.reports.table import Cell, Table, by_measure, number
from cse.files import DAMAGED, read_json
from cse.publish.card.facts import Facts, mixed

# Licenses that allow a changed work to be published under another license.
PERMISSIVE = frozenset(
    """
    apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear isc zlib unlicense cc0-1.0 cc-by-4.0 bsl-1.0 wtfpl
    cdla-permissive-2.0 ncsa postgresql pddl unknown other
    """.split()  # noqa: SIM905
)
IN_WORDS = (  # names of some licenses in a NOTICE or LICENSE
    (r"apache(?: software)? licen[cs]e,?\s+(?:version )?2\.0", "apache-2.0"),
    (r"\bmit\b(?: licen[cs]e)?", "mit"),
    (r"cc[ -]by[ -]sa[ -]4\.0", "cc-by-sa-4.0"),
    (r"cc[ -]by[ -]nc[ -]4\.0", "cc-by-nc-4.0"),
    (r"cc[ -]by[ -]4\.0", "cc-by-4.0"),
    (r"gnu general public licen[cs]e\s+version 3", "gpl-3.0"),
)
IDENTIFIER = re.compile(r"[A-Za-z][\w.+-]*")  # of a license, as the Hub names it
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
MEASURES = {"cosine": "cosine", "euclidean": "Euclidean distance"}
_METRICS = {"spearman_cosine": "spearmanr"}  # the Hub's name of a metric, where it is another one


def metadata(
    folder: Path,
    repo_id: str,
    license: str,
    facts: Facts,
    layout: Layout,
    scored: Mapping[str, Any] | None,
    adapter_base: str | None,
) -> Any:
    """The header, in the class of huggingface_hub that checks it. `adapter_base`: the backbone of an adapter alone."""
    from huggingface_hub import ModelCardData

    tags = ["lora" if adapter_base else "sentence-transformers", "feature-extraction", "sentence-similarity", "cse"]
    tags += [f"objective:{name}" for name in facts.objectives]
    tags += ["custom_code"] if layout.needs_code else []
    found = evaluations(scored, facts.seed, layout.compared_by) if scored else []
    base = adapter_base or _base_model(folder, facts)
    optional: dict[str, Any] = {"base_model": base} if base else {}
    optional |= {"base_model_relation": "adapter"} if adapter_base else {}
    optional |= {"language": facts.language} if facts.language else {}
    data = HUB_ID.fullmatch(facts.path or "")
    if data and (data["file"] or Path(data["repo"]).suffix not in KINDS) and not Path(data["repo"]).exists():
        optional["datasets"] = [data["repo"]]
    optional |= {"eval_results": found, "model_name": repo_id} if found else {}
    return ModelCardData(
        license=license,
        library_name="peft" if adapter_base else "sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=tags,
        metrics=sorted({_METRICS.get(result.metric_type, result.metric_type) for result in found}) or None,
        **optional,
    )


def _base_model(folder: Path, facts: Facts) -> str | None:
    """The Hub id of the backbone: the one in the recipe, or the one in the NOTICE of an asset."""
    name = facts.backbone
    if name is None or name.startswith("LOCAL/"):
        return None
    if name.startswith("asset:"):
        notice = folder / "NOTICE"
        text = notice.read_text(encoding="utf-8") if notice.is_file() else ""
        stated = re.search(r"^Authors.*?\(([\w.-]+/[\w.-]+)\)", text, re.MULTILINE)
        return stated[1] if stated else None
    return name if is_repo_id(name) else None


def choose(license: str | None, folder: Path, backbone: str | None) -> tuple[str, str | None]:
    """The license to publish under, and the license of the backbone if it is known.

    The `license` that the user asks for, or that of the backbone; the published folder has the backbone's LICENSE and
    NOTICE, if it had them.
    """
    base = of_folder(folder) or _of_cached(backbone)
    if license is None:
        if base is None:
            raise UserError(
                f"--license is not given, and the license of {backbone or 'the backbone'} is not known here\n"
                "fix: look it up, and give the same license or one that it allows, such as --license apache-2.0"
            )
        return base, base
    chosen = license.strip().lower()
    if not re.fullmatch(r"[a-z0-9.+-]+", chosen):
        raise UserError(f"--license is {license!r}\nfix: give one identifier of the Hub, such as apache-2.0")
    if base is not None and base not in PERMISSIVE and chosen != base:
        raise UserError(
            f"--license is {license!r}, but the backbone is under {base}, which a model made from it must keep\n"
            f"fix: give --license {base}"
        )
    return chosen, base


def of_folder(folder: Path) -> str | None:
    """The license stated by the NOTICE or LICENSE of a folder; None if they name none in words that are known."""
    notice = _text(folder / "NOTICE")
    stated = re.search(r"^\W*licen[cs]e\b[\s:]+(.+)$", notice, re.IGNORECASE | re.MULTILINE)
    for text in (stated[1] if stated else "", *(_text(folder / f"LICENSE{end}")[:600] for end in ("", ".txt", ".md"))):
        for pattern, identifier in IN_WORDS:
            if re.search(pattern, text, re.IGNORECASE):
                return identifier
        if IDENTIFIER.fullmatch(text.strip()):
            return text.strip().lower()
    return None


def _of_cached(backbone: str | None) -> str | None:
    """The license on the card of a Hub model or of a folder, if it is on this machine. Nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not backbone or backbone.startswith("asset:"):
        return None
    if Path(backbone).is_dir():
        return of_folder(Path(backbone)) or _on_card(Path(backbone) / "README.md")
    try:
        found: Any = try_to_load_from_cache(backbone, "README.md")
    except HFValidationError:
        return None
    return _on_card(Path(found)) if isinstance(found, str) else None


def _on_card(path: Path) -> str | None:
    header = re.match(r"---\n(.*?)\n---", _text(path), re.DOTALL)
    try:
        stated = (yaml.safe_load(header[1]) or {}).get("license") if header else None
    except (yaml.YAMLError, AttributeError):
        return None
    return stated if isinstance(stated, str) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


# -- Scores, as tables and as the `model-index` of the Hub -------------------------------------------------------------


def sts(results: Mapping[str, Any]) -> Table | None:
    """The STS tasks, and their average if none is missing and there are several."""
    rows: list[Sequence[str]] = []
    for name, task in results["tasks"].items():
        if "all" in task:
            data = task.get("data") or {}
            means = [number((task.get(mean) or {}).get("spearman")) for mean in ("mean", "wmean")]
            score = Cell(number(task["all"]["spearman"]), strong=True)
            text = Cell(str(data.get("text") or "-"), code=str(data.get("sha256") or "-")[:12])
            split = str(task.get("split") or "-")
            rows.append([name, split, score, _interval(task.get("interval")), *means, f"{task['n']:,}", text])
    mean = results.get("average") or {}
    average = (mean.get("all") or {}).get("spearman")
    if rows and average is not None and len(results["tasks"]) > 1:
        rows.append(["average", "", Cell(number(average), strong=True), _interval(mean.get("interval"))])
    heads = ("task", "split", "all", "95 %", "mean", "wmean", "pairs", "text, sha256")
    return Table(heads, rows, ("task", "split", "95 %", "text, sha256")) if rows else None


def others(results: Mapping[str, Any]) -> Table | None:
    """The measures of evaluators, the headline of each first."""
    rows = []
    for name, n, metric, score, measure in by_measure(results):
        sha256 = str(results["tasks"][name]["data"]["sha256"] or "-")[:12] if name else ""
        rows.append([name, metric, score, _interval(measure.get("interval")), n, Cell("", code=sha256)])
    return (
        Table(("task", "metric", "score", "95 %", "n", "sha256"), rows, ("task", "metric", "95 %", "sha256"))
        if rows
        else None
    )


def transfer(results: Mapping[str, Any]) -> Table | None:
    """The transfer tasks."""
    found = (results.get("transfer") or {}).items()
    rows = [[n, number(t["accuracy"]), _interval(t.get("interval")), f"{t['n']:,}"] for n, t in found]
    return Table(("task", "accuracy", "95 %", "texts"), rows, ("task", "95 %")) if rows else None


def evaluations(results: Mapping[str, Any], seed: int | None, compared_by: str) -> list[Any]:
    """EvalResults for the header of the card; correlations are in [-1, 1], as sentence-transformers writes them."""
    from huggingface_hub import EvalResult

    found = []
    for name, task in results["tasks"].items():
        is_sts = task["kind"] == "sts"
        settings: dict[str, Any] = {"aggregation": "all", "pairs": task["n"]} if is_sts else {task["unit"]: task["n"]}
        if task.get("interval"):
            settings["interval_95"] = [round(bound / 100, 4) for bound in task["interval"]]
        if seed is not None:
            settings["seeds"] = [seed]
        found.append(
            EvalResult(
                task_type="semantic-similarity" if is_sts else str(task["kind"]).replace(" ", "-"),
                task_name="Semantic Similarity" if is_sts else str(task["kind"]).title(),
                dataset_type=str(task.get("task") or name).lower(),
                dataset_name=name,
                dataset_split=task.get("split"),
                metric_type=f"spearman_{compared_by}" if is_sts else task["metric"],
                metric_name=f"Spearman of {MEASURES[compared_by]}, all pairs" if is_sts else task["metric"],
                metric_value=round(task["value"] / 100, 6),
                metric_args=settings,
            )
        )
    return found


def changes(run: Path | None, checkpoint: str) -> Table | None:
    """The sets that the run scored before training, too."""
    path = run / "helped.json" if run is not None else None
    if path is None or not path.is_file():
        return None
    try:
        rows = []
        for row in read_json(path)["rows"]:
            scores = number(row["before"]), number(row["after"]), f"{row['difference']:+.2f}"
            bounds = "{:+.2f} to {:+.2f}".format(*row["interval"]) if row["interval"] else "-"
            if row["checkpoint"] == checkpoint:
                rows.append([f"{row['task']} ({row['part']})", *scores, bounds, str(row["verdict"])])
    except DAMAGED:  # the card does without
        return None
    heads = ("set", "before", "this model", "change", "95 %", "verdict")
    return Table(heads, rows, ("set", "95 %", "verdict")) if rows else None


def _interval(bounds: Any) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else "-"


# -- The papers to cite: the docstring of a method names its paper, and `citations.bib` has the entry ------------------


def citations(recipe: Mapping[str, Any]) -> list[str]:
    """BibTeX entries of the papers whose methods a resolved recipe uses, without repeats."""
    known = _entries()
    found: dict[str, str] = {}
    parts = [recipe.get("objective"), *(source.get("objective") for source in mixed(recipe).values())]
    for class_path in (*_classes(parts), *_classes(recipe.get("encoder"))):
        for paper, title in _papers(class_path):
            found.setdefault(paper, known.get(paper) or _made(paper, title))
    return list(found.values())


def _classes(component: Any) -> Iterator[str]:
    """The class_path of a component, and those of the components among its arguments."""
    if isinstance(component, list):
        for item in component:
            yield from _classes(item)
    elif isinstance(component, Mapping):
        if isinstance(component.get("class_path"), str):
            yield component["class_path"]
        for value in (component.get("init_args") or {}).values():
            yield from _classes(value)


def _papers(class_path: str) -> list[tuple[str, str]]:
    """(arXiv id, title) in the docstring of the module of a class, or of the class if the module names no paper."""
    module, _, name = class_path.rpartition(".")
    if module not in sys.modules and module.partition(".")[0] != "cse":
        return []  # the run may be a stranger's, whose code is not run to cite it
    try:
        loaded = import_module(module)
        docs = [inspect.getdoc(loaded) or "", inspect.getdoc(getattr(loaded, name)) or ""]
    except (ImportError, AttributeError):  # a class of the user that cannot be imported here
        return []
    for doc in docs:
        if ARXIV.search(doc):
            return [(ARXIV.findall(doc)[0], doc.splitlines()[0].partition(" (")[0].rstrip("."))]
    link = re.search(r"\(([^()]+, \d{4}, ([\w.-]+\.\w+/[\w/.-]+))\)", docs[0])
    return [(link[2], docs[0].splitlines()[0].partition(" (")[0])] if link else []


def _entries() -> dict[str, str]:
    """The entries of `citations.bib`, by key."""
    text = Path(__file__).with_name("citations.bib").read_text(encoding="utf-8")
    found = re.finditer(r"^@\w+\{([^,]+),.*?^\}", text, re.DOTALL | re.MULTILINE)
    return {match[1]: match[0] for match in found}


def _made(paper: str, title: str) -> str:
    """An entry for a paper that `citations.bib` lacks, from its title and address."""
    where = f"https://arxiv.org/abs/{paper}" if re.fullmatch(r"\d{4}\.\d+", paper) else f"https://{paper}"
    return f"@misc{{{paper.replace('/', '-')},\n  title = {{{title}}},\n  url   = {{{where}}}\n}}"
