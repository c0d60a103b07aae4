"""cse mine: hard negatives for rows of text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cse.errors import UserError

if TYPE_CHECKING:
    from cse.mining.command import Judge
    from cse.mining.miners import Miner

HELP = "choose hard negatives for rows of text, as a file to train on"
EPILOG = "Train on it: --data.class_path=cse.data.Triplets --data.path=mined.parquet, with the columns printed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("checkpoint", help="a folder, asset:NAME or Hub id")
    parser.add_argument("--data", required=True, help="rows to mine for: a file, asset:NAME or Hub id")
    columns = "one: texts; two: anchor, positive; more: negatives that stay. Default: text"
    parser.add_argument("--columns", nargs="+", default=["text"], help=columns)
    parser.add_argument("--limit", type=int, help="rows to mine for; default: all")
    parser.add_argument("--pool", help="texts that may become negatives; default: those of the data")
    parser.add_argument("--pool-columns", nargs="+", default=["text"], help="of a table; default: text")
    parser.add_argument("--out", type=Path, required=True, help="a .parquet file; beside it lies its manifest, .json")
    parser.add_argument("--k", type=int, default=1, help="negatives per row, at most; default: 1")
    ranks = "the band of neighbors' ranks to choose from, from 1; default: 1 50"
    parser.add_argument("--ranks", type=int, nargs=2, default=[1, 50], metavar=("FIRST", "LAST"), help=ranks)
    parser.add_argument("--margin", type=float, help="least difference of the positive's and a negative's cosine")
    parser.add_argument("--relative-margin", type=float, help="the same as a share of the positive's cosine")
    parser.add_argument("--max-similarity", type=float, help="largest cosine of a negative")
    parser.add_argument("--random", action="store_true", help="any texts of the pool instead: a baseline")
    parser.add_argument("--seed", type=int, default=42, help="of --random")
    parser.add_argument("--teacher", help="an encoder that drops false negatives: a folder, asset:NAME or Hub id")
    parser.add_argument("--teacher-max", type=float, help="drop what the teacher finds more similar to the anchor")
    positive = "drop what the teacher finds as similar to the anchor as the positive"
    parser.add_argument("--teacher-positive", action="store_true", help=positive)
    index = "exact, or an index of faiss such as HNSW32 or 'IVF1024,Flat;nprobe=16'; default: exact"
    parser.add_argument("--index", default="exact", help=index)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--pooler", choices=["cls", "mean", "last"], help="of a plain Hugging Face model (mean)")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Mine and write."""
    a, miner, judge = arguments, _miner(arguments), _judge(arguments)
    from cse.console import quiet, say
    from cse.mining.command import Model, Source, mine_file

    quiet()
    manifest = mine_file(
        Model(a.checkpoint, a.pooler, a.precision),
        Source(a.data, a.columns, a.limit),
        a.out,
        miner,
        k=a.k,
        pool=Source(a.pool, a.pool_columns) if a.pool else None,
        judge=judge,
    )
    counts = manifest["counts"]
    say("rows", f"{counts['anchors']:,}, of them {counts['rows_without_negatives']:,} without a negative")
    dropped = {n: c for n, c in counts.items() if n not in {"anchors", "pool", "negatives", "rows_without_negatives"}}
    say(
        "mined",
        f"{counts['negatives']:,} from {counts['pool']:,} texts; {', '.join(f'{n} {c:,}' for n, c in dropped.items())}",
    )
    say("columns", ",".join(manifest["out"]["columns"]))
    say("wrote", f"{a.out}   {a.out.with_suffix('.json').name} says how")
    return 0


def _miner(a: argparse.Namespace) -> Miner:
    from cse.mining.miners import Random, TopK

    if a.random:
        return Random(seed=a.seed)
    first, last = a.ranks
    return TopK(
        first=first,
        last=last,
        absolute_margin=a.margin,
        relative_margin=a.relative_margin,
        max_similarity=a.max_similarity,
        index=a.index,
    )


def _judge(a: argparse.Namespace) -> Judge | None:
    from cse.mining.command import Judge, Model

    rules = a.teacher_max is not None or a.teacher_positive
    if rules and not a.teacher:
        raise UserError(
            "--teacher-max and --teacher-positive say when a teacher drops a candidate, but there is no teacher\n"
            "fix: give --teacher too"
        )
    if not a.teacher:
        return None
    if not rules:
        raise UserError(f"--teacher is {a.teacher}, but nothing says when it drops a candidate\nfix: --teacher-max 0.9")
    if a.teacher_max is not None and not -1 <= a.teacher_max <= 1:
        raise UserError(f"--teacher-max is {a.teacher_max}\nfix: give a cosine in [-1, 1]")
    return Judge(Model(a.teacher, a.pooler, a.precision), a.teacher_max, a.teacher_positive)
