"""The ways to train that fit a kind of rows, as options of `cse train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cse.adapting.material import Material

BATCH = 64
RATE = 6e-5  # thrice that of the recipes for sentence encoders: a budget of an hour has few steps
EPOCHS = 3  # at most: more of them only remember
MINED = "mined.parquet"
GENERAL, EACH, MOST = "asset:wiki", 32, 4096  # text of many subjects: texts of a step on them, and texts that are read
NEAR = 3  # rows that follow a row in its batch, since their positives are hard negatives of it
FALSE = 0.1  # a candidate that is nearer than the positive by this is left out (arXiv:2506.05176)


@dataclass(frozen=True)
class Way:
    """A way to train."""

    name: str  # its name in the report, and of its run
    recipe: str  # the recipe
    options: tuple[str, ...]  # its options, without steps
    batch: int = BATCH  # rows of a step
    each: int = 1  # steps of the run for one on these rows: 2 if every other one is on general text

    @property
    def mined(self) -> bool:
        """Tell whether it trains on mined negatives."""
        return any(MINED in option for option in self.options)


def ways(material: Material, folder: Path, *, general: str | None = None, limit: int | None = None) -> list[Way]:
    """The shortlist for rows in a folder, the most promising way first.

    Pairs are contrasted in batches, of rows that are drawn, or of rows whose positives are hard negatives of each
    other, where the encoder itself leaves out what is too near to be a negative. Texts are contrasted by their halves,
    and with themselves under dropout. Each of these steps is followed by one that holds the vectors of `general` text
    where they were (recipe `lwf`); None: by none. `limit` is the number of pairs to read; None: all.
    """
    pairs: tuple[str, ...] = (
        "--data=cse.data.Pairs",
        f"--data.path={folder / 'train.jsonl'}",
        "--data.columns=[anchor,positive]",
    )
    pairs = (*pairs, *([] if limit is None else [f"--data.limit={limit}"]))
    if material.kind == "labels":
        labels = max(n for n in range(2, 17) if n <= material.labels)
        each = max(2, min(BATCH // labels, material.fewest))
        rows = (f"--data.path={folder / 'train.jsonl'}", "--data.column=text", "--data.label_column=label")
        batches = ("--sampler=cse.data.LabelBatches", f"--sampler.labels={labels}")
        objective = ("--objective=cse.objectives.supcon.SupCon", "--objective.temperature=0.1")  # of the paper
        options = ("--data=cse.data.Texts", *rows, *batches, *objective)
        return [_way("supcon", "supcon", options, rate, general, labels * each) for rate in (RATE, RATE / 3)]
    if material.kind == "texts":
        texts = ("--data=cse.data.Texts", f"--data.path={folder / 'texts.jsonl'}", "--data.column=text")
        found = {"halves": ("simcse-sup", pairs), "dropout": ("simcse-unsup", texts)}
        return [_way(name, *found[name], rate, general) for name in found for rate in (RATE, RATE / 3)]
    near: tuple[str, ...] = (
        "--sampler=cse.data.NegativesAsRows",
        f"--sampler.path={folder / MINED}",
        f"--sampler.each={NEAR}",
    )
    near = (*pairs, *near, f"--objective.false_negative_margin={FALSE}")
    return [
        _way("near", "simcse-sup", near, RATE, general),
        _way("near", "simcse-sup", near, 2 * RATE, general),
        _way("contrast", "simcse-sup", pairs, RATE, general),
    ]


def _way(name: str, recipe: str, options: Sequence[str], rate: float, general: str | None, batch: int = BATCH) -> Way:
    name = f"{name}-{rate:.1e}".replace(".0e", "e").replace("e-0", "e-")
    settings = (f"--trainer.learning_rate={rate:g}", f"--trainer.batch_size={batch}")
    if general is None:
        return Way(name, recipe, (*options, *settings), batch)
    own = [option.replace("--", "--data.sources.own.", 1) for option in options]
    texts = {"data.path": general, "data.limit": MOST, "batch_size": EACH}
    kept = [f"--data.sources.general.{key}={value}" for key, value in texts.items()]
    return Way(name, "lwf", (*own, *kept, *settings), batch, each=2)
