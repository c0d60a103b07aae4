"""The ways to train that fit a kind of rows, as options of `cse train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cse.adapting.material import Material

BATCH = 64
RATES = (2e-5, 6e-5)  # that of the recipes for sentence encoders, and thrice it
EPOCHS = 3  # at most: more of them only remember
MINED = "mined.parquet"


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        name: Its name in the report, and of its run.
        recipe: The recipe.
        options: Its options, without steps.
        batch: Rows of a step.
        cost: The cost of a row, in that of a pair that is trained.
    """

    name: str
    recipe: str
    options: tuple[str, ...]
    batch: int = BATCH
    cost: float = 1.0

    @property
    def mined(self) -> bool:
        """Tell whether it trains on mined negatives."""
        return any(MINED in option for option in self.options)


def ways(material: Material, folder: Path, encoder: str) -> list[Way]:
    """The shortlist for rows in a folder: each way at two rates.

    Pairs are contrasted in batches, and with a mined negative each, where the encoder before training masks what is too
    near to be a negative (GISTEmbed). Texts are contrasted by their halves, and with themselves under dropout.
    """
    pairs = ("--data=cse.data.Pairs", f"--data.path={folder / 'train.jsonl'}", "--data.columns=[anchor,positive]")
    triplets = ("--data=cse.data.Triplets", f"--data.path={folder / MINED}")
    guide = ("--objective.guide=cse.teachers.frozen.FrozenEncoder", f"--objective.guide.source={encoder}")
    if material.kind == "labels":
        labels = max(n for n in range(2, 17) if n <= material.labels)
        each = max(2, min(BATCH // labels, material.fewest))
        data = (f"--data.path={folder / 'train.jsonl'}", "--data.column=text", "--data.label_column=label")
        found = [Way("supcon", "supcon", (*data, f"--sampler.labels={labels}"), labels * each)]
    elif material.kind == "texts":
        texts = (f"--data.path={folder / 'texts.jsonl'}", "--data.column=text")
        found = [Way("halves", "simcse-sup", pairs), Way("dropout", "simcse-unsup", texts)]
    else:
        columns = "--data.columns=[anchor,positive,negative_1]"
        found = [
            Way("contrast", "simcse-sup", pairs),
            Way("mined", "gistembed", (*triplets, columns, *guide), cost=2.0),
        ]
    return [
        Way(
            f"{way.name}-{rate:.0e}".replace("e-0", "e-"),
            way.recipe,
            (*way.options, *_settings(rate, way.batch)),
            way.batch,
            way.cost,
        )
        for way in found
        for rate in RATES
    ]


def _settings(rate: float, batch: int) -> tuple[str, str]:
    return f"--trainer.learning_rate={rate:g}", f"--trainer.batch_size={batch}"
