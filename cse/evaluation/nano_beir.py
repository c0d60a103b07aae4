"""NanoBEIR: thirteen retrieval sets of 50 queries and a few thousand documents each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cse.errors import UserError, require_package
from cse.evaluation import retrieval_rows
from cse.evaluation.finding import MEAN, Finding, Measuring
from cse.evaluation.ranking import parse_measures
from cse.evaluation.retrieval import DOCUMENT_PROMPTS, MEASURES, QUERY_PROMPTS, role_prompt, score_rows
from cse.evaluation.retrieval_rows import RetrievalRows
from cse.interfaces import SentenceEncoder

HUB = "sentence-transformers/NanoBEIR-en"
PARTS = ("corpus", "queries", "qrels")
SETS = (
    "ArguAna",
    "ClimateFEVER",
    "DBPedia",
    "FEVER",
    "FiQA2018",
    "HotpotQA",
    "MSMARCO",
    "NFCorpus",
    "NQ",
    "QuoraRetrieval",
    "SCIDOCS",
    "SciFact",
    "Touche2020",
)


class NanoBEIR(Measuring):
    """Measures x 100 of each set, and the mean over sets; see `Retrieval`.

    Args:
        sets: Names of sets, such as `MSMARCO`. None: all thirteen.
        data: The Hub id, whose splits are `NanoMSMARCO` ... in each of corpus, queries and qrels; or a folder: a copy
            of it, or one with a folder `NanoMSMARCO` ... in the layout of BEIR for each set.
        measures: Names of measures. The mean of the first one selects checkpoints.
        query_prompt: See `Retrieval` for this and the next two.
        document_prompt: The name of the prompt for documents.
        precision: fp32, bf16 or auto.

    Raises:
        UserError: A set is unknown, or cannot be read.
    """

    name = "NanoBEIR"

    def __init__(
        self,
        sets: Sequence[str] | None = None,
        *,
        data: str | Path = HUB,
        measures: Sequence[str] = MEASURES,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        precision: str = "auto",
    ) -> None:
        require_package("pytrec_eval", extra="retrieval", user="cse.evaluation.NanoBEIR")
        parse_measures(measures)
        self.sets, self.data, self.measures, self.precision = sets, data, tuple(measures), precision
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        known = {name.lower(): name for name in SETS}
        wanted = SETS if sets is None else sets
        other = [name for name in wanted if name.lower().removeprefix("nano") not in known]
        if other or not wanted:
            raise UserError(
                f"evaluator.sets has {', '.join(map(repr, other)) or 'no name'}, which is not a set of NanoBEIR\n"
                f"fix: give some of {', '.join(SETS)}"
            )
        names = dict.fromkeys(f"Nano{known[name.lower().removeprefix('nano')]}" for name in wanted)
        self._rows = [_read(data, name) for name in names]
        self.primary = self.measures[0] if len(self._rows) == 1 else MEAN

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """Score an encoder, with the measures of each query of each set."""
        prompts = (
            role_prompt(encoder, self.query_prompt, QUERY_PROMPTS),
            role_prompt(encoder, self.document_prompt, DOCUMENT_PROMPTS),
        )
        return [score_rows(encoder, rows, self.measures, prompts, self.precision) for rows in self._rows]

    def texts(self, data: str | None = None) -> dict[str, list[tuple[str, ...]]]:
        """The queries, which should not be trained on; see `cse.data.checks.KnowsTexts`."""
        return {rows.name: [(text,) for text in rows.queries.values()] for rows in self._rows}

    def describe(self) -> str:
        """What is scored."""
        return f"NanoBEIR, {len(self._rows)} sets, {sum(len(rows.queries) for rows in self._rows):,} queries"


def is_nano(folder: Path) -> bool:
    """Whether a folder holds sets of NanoBEIR."""
    return bool([*folder.glob("Nano*/corpus.jsonl"), *(folder / "corpus").glob("Nano*")])


def _read(data: str | Path, name: str) -> RetrievalRows:
    folder = Path(data).expanduser()
    if not folder.exists():
        return retrieval_rows.read_hub(str(data), name, name, parts=name)
    if (folder / name).is_dir():
        splits = [path.stem for path in sorted((folder / name / "qrels").glob("*.tsv"))]
        return retrieval_rows.read_folder(folder / name, splits[0] if len(splits) == 1 else "test", name)
    files = {part: sorted((folder / part).glob(f"{name}[-.]*")) for part in PARTS}
    for part, found in files.items():
        if len(found) != 1:
            what = f"{len(found)} files {part}/{name}.*" if found else f"no folder {name} and no file {part}/{name}.*"
            raise UserError(f"evaluator.data: {folder} has {what}\nfix: give a copy of {HUB}, or other sets")
    paths = {part: str(found[0]) for part, found in files.items()}
    return retrieval_rows.gather(paths["queries"], paths["corpus"], paths["qrels"], where=str(folder), name=name)
