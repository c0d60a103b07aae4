"""`python -m eval tables`: write the generated tables of the documentation, each between two markers of a page.

    <!-- table: NAME -->
    ...
    <!-- end -->

A page may hold any of the tables in `TABLES`, any number of times. Numbers come from `eval/results/*.json`, and what is
said of methods from the headers of the recipes and the docstrings of the objectives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import log2
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cse import recipe as recipes
from cse.errors import UserError
from cse.evaluation.reports import collect, methods
from cse.files import read_json, write_text
from eval import method_table, paper, systems

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "eval" / "results"
PAGES = ("*.md", "eval/*.md", "recipes/*.md", "docs/**/*.md", "cse/**/README.md")
START = r"^<!-- table: ([\w-]+) -->\n"
BLOCK = re.compile(f"({START}).*?^(<!-- end -->)", re.DOTALL | re.MULTILINE)
FIGURES = ("seconds", "processor_seconds", "peak_mb")
MINED = ("processor_seconds", "peak_anonymous_mb")
USED, PEAK, TOKENS = 0.3, 989e12, 32  # of a GPU: the part that is assumed to be used, FLOP/s in bf16, tokens of a text
FEW = ("simcse-unsup", "dclr", "simcse-sup", "claif", "untrained-last-template")


def read(name: str) -> dict[str, Any]:
    """A committed summary."""
    found: dict[str, Any] = read_json(RESULTS / f"{name}.json")
    return found


def speed() -> str:
    """The ratios of `python -m eval bench` by kind of machine: the median of the rounds, and each round."""
    machines = [read(path.stem) for path in sorted(RESULTS.glob("speed-*.json"), reverse=True)]
    apart = max(machine["eval.score_apart"]["ours bf16"] for machine in machines)

    def each(one: str, several: str) -> list[str]:
        return [f"{m[one]:.2f} ({', '.join(f'{v:.2f}' for v in m[several])})" for m in machines]

    rows = [
        ["ratio", *(machine["machine"] for machine in machines)],
        [":--", *("--:" for _ in machines)],
        ["training against sentence-transformers, sentences per second", *each("train.speedup", "train.speedups")],
        [
            "peak memory of training, ours over that of sentence-transformers",
            *(f"{m['train.memory_ratio']:.2f}" for m in machines),
        ],
        ["scoring against `mteb.evaluate`, fp32", *each("eval.speedup_mteb", "eval.speedups_mteb")],
        ["scoring against a loop like SentEval's, fp32", *each("eval.speedup_senteval", "eval.speedups_senteval")],
        [
            f"scoring in bf16 against fp32 (scores differ by at most {apart:g})",
            *each("eval.speedup_bf16", "eval.speedups_bf16"),
        ],
        *_defaults([machine.get("eval.default") for machine in machines]),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _defaults(found: list[dict[str, Any] | None]) -> list[list[str]]:
    """The rows of scoring at the default settings of both sides, on the machines where it was measured."""
    one = next((each for each in found if each), None)
    if one is None:
        return []
    what = f"defaults of both on {', '.join(one['tasks'])}, ours {one['precision']} and `mteb.evaluate` fp32"
    names = {
        "speedups": f"{what} (scores differ by at most {one['score_apart']:g})",
        "processor_speedups": "the same, in processor time",
        "fp32_processor_speedups": "the same in fp32 on both sides, in processor time",
    }

    def shown(values: list[float]) -> str:
        return f"{median(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"

    return [[name, *(shown(each[key]) if each else "" for each in found)] for key, name in names.items()]


def memory() -> str:
    """What `python -m eval memory` measured."""
    measured = ("seconds_to_first_step", "processor_seconds", "peak_anonymous_mb")
    rows = [["rows", "processes", "start", "seconds to the first step", "of the processor", "MB of a process"]]
    rows.append(["--:", "--:", ":--", *["--:"] * len(measured)])
    for run in (found := read("memory"))["runs"]:
        figures = [f"{run[key]:,}" if key in run else "-" for key in measured]
        rows.append([f"{run['rows']:,}", str(run["processes"]), run["start"], *figures])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{table}\nThe model is {found['setting']}. {found['note']}\n"


def mining() -> str:
    """What `python -m eval memory` measured of mining."""
    found = read("memory")
    rows = [["texts", "start", "seconds of the processor", "MB of a process"], ["--:", ":--", "--:", "--:"]]
    for run in found["mining"]:
        rows.append([f"{run['rows']:,}", run["start"], *(f"{run[key]:,}" for key in MINED)])
    return f"{_table(rows)}\n{found['mining_note']}\n"


def scale() -> str:
    """What `python -m eval scale` measured: encoding in shards, and the search."""
    found = read("scale")
    encode, tokens = found["encode"], found["tokens"]
    rows = [["job", "seconds", "of the processor", "MB of a process"], [":--", "--:", "--:", "--:"]]
    kept = f"killed, with {encode['killed']['rows_kept']:,} rows complete"
    names = {"one process": "one process", "killed": kept, "started again": "the same command again"}
    rows += [[said, *(f"{encode[job][k]:,.0f}" for k in FIGURES)] for job, said in names.items()]
    same = "have the same bytes" if encode["equal"] else "differ"
    text = (
        f"The shards and the one file of {found['about']['rows']:,} texts, {encode['megabytes']:,} MB, {same} "
        f"(sha256 {encode['sha256']['shards'][:16]}...). "
        f"A text has {tokens['per_text']} tokens, and one core makes those of {tokens['texts_per_s']:,} in a second. "
        f"{found['about']['note']}\n"
    )
    search = [["index", "s to build", "s to search", "MB", "recall@10", "recall@50"], [":--", *["--:"] * 5]]
    for one in found["search"]:
        seconds = (f"{one[key]:,.0f}" for key in ("build_seconds", "search_seconds"))
        size = f"{one['megabytes']:,.0f}" if one["megabytes"] else ""
        search.append([f"`{one['index']}`", *seconds, size, *(f"{one[f'recall@{k}']:.3f}" for k in (10, 50))])
    count = found["search"][0]["anchors"]
    last = (
        f"Equal texts are equally near, so `Flat` may name another one. Seconds are those of one core, of {count:,}.\n"
    )
    return f"{_table(rows)}\n{text}\n{_table(search)}\n{last}"


def neighbors() -> str:
    """What `python -m eval neighbors` measured."""
    found = read("neighbors")
    rows = [["rows", "seconds to build", "ms an anchor", "exact", "recall@10"], ["--:", *["--:"] * 4]]
    for one in found["sizes"]:
        figures = [f"{one['build_seconds']:,}", f"{one['ms']:.2f}", f"{one['exact_ms']:.1f}", f"{one['recall']:.3f}"]
        rows.append([f"{one['rows']:,}", *figures])
    return f"{_table(rows)}\nTimes are those of one core. {found['note']}\n"


def plan() -> str:
    """Disk and hours of 100 million and a billion texts, at the measured rates and by the formulas of the page."""
    mini, models = read("scale"), read("distillation")["models"]
    rate = mini["about"]["rows"] / mini["encode"]["one process"]["processor_seconds"]
    made = mini["tokens"]["texts_per_s"] * mini["tokens"]["per_text"]  # tokens per second of a core
    teacher = next(iter(models.values()))
    sizes = read("neighbors")["sizes"]
    slope, least = np.polyfit([log2(one["rows"]) for one in sizes], [one["ms"] for one in sizes], 1)
    of_core = [  # name, dimensions, texts/s of a core, parameters of the layers
        ("asset:mini, 4 layers", 256, rate, 3.2e6),
        ("all-MiniLM-L6-v2, 6 layers", 384, teacher["sentences_per_s"], 10.6e6),
        ("BERT base, 12 layers", 768, 0.0, 85e6),
    ]
    head = [
        "texts",
        "model",
        "vectors, float32",
        "int8",
        "`PQ64np`",
        "texts/s of a core",
        "core hours",
        "GPU hours, assumed",
        "core hours to mine",
    ]
    rows = [head, ["--:", ":--", *["--:"] * 7]]
    for texts in (10**8, 10**9):
        for name, width, speed, parameters in of_core:
            gpu = TOKENS * max(1 / made, 2 * parameters / (USED * PEAK))  # seconds per text
            disk = [f"{texts * size / 1e9:,.0f} GB" for size in (4 * width, width, 64 + 8)]
            core = [f"{speed:,.0f}", f"{texts / speed / 3600:,.0f}"] if speed else ["", ""]
            mined = f"{texts * (least + slope * log2(texts)) / 3.6e6 * width / 64:,.0f}"
            rows.append([f"{texts:,}", name, *disk, *core, f"{texts * gpu / 3600:,.1f}", mined])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cuts(kind: str) -> str:
    """Scores of encoders that were cut to fewer `dimensions` or `layers`: mean and standard deviation over seeds."""
    found = read("cuts-mini")[kind]
    sizes = list(dict.fromkeys(size for tasks in found.values() for scores in tasks.values() for size in scores))
    rows = [["method", "set", *sizes], [":--", ":--", *("--:" for _ in sizes)]]
    for method, tasks in found.items():
        rows += [[method, task, *(collect.spread(scores[size]) for size in sizes)] for task, scores in tasks.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def distillation() -> str:
    """A teacher and its students: the score, and its share of the teacher's; the size and the speed."""
    models = read("distillation")["models"]
    teacher = next(iter(models.values()))
    rows = [["model", "layers", "MB", "STSB-dev", "of the teacher's", "sentences/s", "times as fast"]]
    rows.append([":--", *("--:" for _ in rows[0][1:])])
    for name, model in models.items():
        kept, faster = (model[key] / teacher[key] for key in ("STSB-dev", "sentences_per_s"))
        sizes = [str(model["layers"]), f"{model['megabytes']:.1f}", f"{model['STSB-dev']:.2f}", f"{kept:.1%}"]
        rows.append([name, *sizes, f"{model['sentences_per_s']:.0f}", f"{faster:.2f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def gallery() -> str:
    """Effect, data and cost of each recipe, by the committed results and its header; the largest effects first."""
    starts = {"methods": "untrained-last-template", "methods-mini": "untrained-mean"}
    effects: list[dict[str, float]] = []
    for summary, start in starts.items():
        over_baseline = {row["name"]: row["difference"] or 0.0 for row in read(summary)["methods"]}
        effects.append({name: value - over_baseline[start] for name, value in over_baseline.items()})
    rows = []
    for path in (ROOT / "recipes").glob("[!_]*.yaml"):
        said = recipes.header(path)
        shown = [f"{effect[path.stem]:+.2f}" if path.stem in effect else "" for effect in effects]
        _, _, cost = said["cost"].partition("; ")
        data, passes = said["data"].partition(";")[0], method_table.passes(said["cost"])
        rows.append([f"[{path.stem}](../recipes/{path.name})", *shown, data, passes, cost])
    rows.sort(key=lambda row: (*(-float(effect or "-inf") for effect in row[1:3]), row[0]))
    heads = ["recipe", "effect, smollm2", "effect, mini", "data", "passes per row", "cost"]
    return _table([heads, [":--", "--:", "--:", ":--", ":--", ":--"], *rows])


def gallery_published() -> str:
    """The plan of `python -m eval reproduce-paper --plan`, for every published recipe."""
    heads, *rows = paper.plan([name for name in recipes.names() if name.startswith("paper/")])
    named = [[f"[{name[6:]}](../recipes/{name}.yaml)", *cells] for name, *cells in rows]
    return _table([heads, [":--", ":--", *["--:"] * 3, ":--"], *named])


TABLES: dict[str, Callable[[], str]] = {
    "gallery": gallery,
    "gallery-published": gallery_published,
    "methods": method_table.table,
    "objectives": method_table.sections,
    "systems": systems.table,
    "results": lambda: methods.markdown(read("methods")),
    "results-few": lambda: methods.markdown(read("methods"), only=FEW, tasks=["STSB-dev"]),
    "results-mini": lambda: methods.markdown(read("methods-mini")),
    "equal-mini": lambda: methods.markdown(read("equal-mini")),
    "augmentation": lambda: methods.markdown(read("augmentation")),
    "hard-negatives": lambda: methods.markdown(read("hard-negatives")),
    "distillation": distillation,
    "feedback": lambda: methods.markdown(read("feedback")),
    "dimensions-mini": lambda: cuts("dimensions"),
    "layers-mini": lambda: cuts("layers"),
    "speed": speed,
    "memory": memory,
    "mining": mining,
    "neighbors": neighbors,
    "plan": plan,
    "scale": scale,
}


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def filled(text: str, page: str) -> str:
    """The text of a page with up-to-date tables."""

    def table(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise UserError(f"{page}: there is no table {found[2]!r}\nfix: name one of {', '.join(TABLES)}")
        return f"{found[1]}{TABLES[found[2]]()}{found[3]}"

    if len(re.findall(START, text, re.MULTILINE)) != len(BLOCK.findall(text)):
        raise UserError(f"{page}: a table has no end\nfix: put <!-- end --> on a line of its own after it")
    return BLOCK.sub(table, text)


def write(check: bool = False) -> list[Path]:
    """Update the tables of every page.

    With `check`, nothing is changed.

    Returns:
        The pages whose text is, or would be, changed.
    """
    changed = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = filled(text, page.relative_to(ROOT).as_posix())
        if new == text:
            continue
        changed.append(page)
        if not check:
            write_text(page, new)
    return changed
