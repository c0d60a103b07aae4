"""Published recipes: the verdict and the plan by pencil, and a rehearsal of each on a mirror of the Hub."""

import csv
import json
import random
from types import SimpleNamespace

import pyarrow
import pytest
from pyarrow import parquet

from cse import recipe as recipes
from cse.evaluation.evaluators import sts_rows
from eval import paper
from tests.conftest import WORDS
from tests.forks import Forks
from tests.models import save_tiny
from tests.refusals import refuses
from tests.runs import metrics

PUBLISHED = [name for name in recipes.names() if name.startswith("paper/")]


def test_published_scores_by_hand():
    known = {name: paper.published(recipes.header(recipes.find(name))) for name in PUBLISHED}
    assert len(known) == 53
    assert known["paper/simcse-unsup-bert-base"] == ("sts", 76.25)
    assert known["paper/diffcse-transfer-roberta-base"] == ("transfer", 87.04)
    assert known["paper/promptbert-unsup-roberta-base"] == ("sts", 79.15)
    assert known["paper/dclr-roberta-large"] == ("sts", 79.30)
    without = {"compcse-bert-base", "pearl-small", "scincl-scibert", "micse-bert-base", "supclseq-cola-bert-base"}
    assert all(known[f"paper/{name}"] is None for name in without)


@pytest.mark.parametrize(
    ("scores", "known", "changed", "said"),
    [
        ([75.0, 76.0, 77.0], ("sts", 76.25), False, "reproduced"),  # 76 ± 4.303 / sqrt(3)
        ([70.0, 70.2, 70.4], ("sts", 76.25), False, "below by 5.55"),  # 70.2 + 4.303 * 0.2 / sqrt(3) = 70.70
        ([80.0, 80.2, 80.4], ("sts", 76.25), False, "above by 3.45"),
        ([75.0], ("sts", 76.25), False, "-1.25; one seed has no interval"),
        ([75.0, 76.0], None, False, "no average is published"),
        ([75.0, 76.0], ("sts", 76.25), True, "no verdict, since options of the recipe are given"),
        ([], ("transfer", 86.86), False, "not scored: the rows of the tasks are missing"),
    ],
)
def test_the_verdict_by_pencil(scores, known, changed, said):
    task = known[0] if known else "sts"
    found = paper.verdict({"sts": {}, "transfer": {}} | {task: dict(enumerate(scores))}, known, changed=changed)
    assert found["verdict"] == said


def test_the_plan_by_pencil():
    heads, *rows = paper.plan(PUBLISHED)
    assert len(rows) == 53
    row = dict(zip(heads, next(r for r in rows if r[0] == "paper/whitenedcse-bert-base"), strict=True))
    # 7,813 steps of 128 rows, 3 passes, 32 tokens, 6 products a weight, 86 million weights; 30 % of 312 TFLOPS
    assert row["GPU hours a seed"] == f"{7813 * 128 * 3 * 32 * 6 * 86e6 / (0.3 * 312e12) / 3600:.1f}" == "0.1"
    assert row["GB"] == f"{(110e6 * 16 + 128 * 3 * 32 * 12 * 768 * 34) / 1e9:.0f}" == "6"
    assert (row["published"], row["steps"]) == ("sts 78.78", "7,813")
    assert "princeton-nlp/datasets-for-simcse" in row["needs"]


# A rehearsal, with random models of two layers and made-up rows
def sentence(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(4, 9)))


def write_rows(file, columns, rows, draw):
    """Rows of made-up sentences in the format of a file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made = {"label": lambda: draw.randint(0, 1), "type": lambda: f"t{draw.randint(0, 9)}", "pos_score": draw.random}
    records = [{name: made.get(name, lambda: sentence(draw))() for name in columns} for _ in range(rows)]
    if "score" in columns or file.name == "claif_data.jsonl":
        records = [record | {"label": draw.random()} for record in records]
    if file.suffix == ".txt":
        file.write_text("".join(f"{record['text']}\n" for record in records))
    elif file.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns, delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(records)


FILES = {  # in the layouts of the repositories, or of the files that a recipe tells to make
    "hub/princeton-nlp/datasets-for-simcse/wiki1m_for_simcse.txt": ["text"],
    "hub/princeton-nlp/datasets-for-simcse/nli_for_simcse.csv": ["sent0", "sent1", "hard_neg"],
    "hub/fnlp/CLAIF-data/claif_data.jsonl": ["text_a", "text_b", "label"],
    "hub/fnlp/CLAIF-data/nli_data_with_similarity_scores.csv": ["sent0", "sent1", "hard_neg", "pos_score"],
    "hub/Singhoo/denosent_data/train.csv": ["sent0", "sent1"],
    "hub/avsolatorio/medi-data-mteb_avs_triplets/train.jsonl": ["query", "pos", "neg"],
    "hub/nyu-mll/glue/cola/train-00000-of-00001.parquet": ["sentence", "label"],
    "questions.jsonl": ["question", "passage", "hard_passage", "paraphrase", "edit"],
    "kept.jsonl": ["premise", "entailment", "contradiction"],
    "phrases.csv": ["phrase", "type"],
    "triplets.tsv": ["anchor", "positive", "negative"],
    "triplets.jsonl": ["anchor", "positive", "negative"],
}
MODELS = {
    "bert": "bert-base-uncased bert-large-uncased princeton-nlp/unsup-simcse-bert-base-uncased WhereIsAI/UAE-Large-V1 "
    "princeton-nlp/unsup-simcse-bert-large-uncased voidism/diffcse-bert-base-uncased-sts BAAI/bge-small-en-v1.5 "
    "allenai/scibert_scivocab_uncased intfloat/e5-small-v2 sentence-transformers/bert-base-nli-stsb-mean-tokens",
    "roberta": "roberta-base roberta-large princeton-nlp/unsup-simcse-roberta-base "
    "princeton-nlp/unsup-simcse-roberta-large",
    "distilbert": "distilbert-base-uncased",
    "distilroberta": "distilroberta-base",
}
SUITED = {
    "pearl-small": ["--objective.types=10"],
    "micse-bert-base": ["--objective.first_layer=0", "--objective.last_layer=1"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_bert):
    """A folder with a mirror of the Hub and what recipes tell to make, and tiny sets of STS in CSE's layout."""
    place = tmp_path_factory.mktemp("paper")
    draw = random.Random(0)
    for name, columns in FILES.items():
        write_rows(place / name, columns, 400, draw)
    for kind, names in MODELS.items():
        for name in names.split():
            family = "roberta" if kind == "distilroberta" else kind
            save_tiny(family, tiny_bert, place / "hub" / name, masked=True, max_position_embeddings=514)
    phrases = [line.split(",")[0] for line in (place / "phrases.csv").read_text().splitlines()[1:]]
    both = [{"phrase": p, "negatives": [sentence(draw), sentence(draw)]} for p in phrases]
    parquet.write_table(pyarrow.Table.from_pylist(both), place / "negatives.parquet")
    for name in ("synonyms.jsonl", "paraphrases.jsonl"):
        lines = (json.dumps({"text": p, "rewrites": [sentence(draw)]}) for p in phrases)
        (place / name).write_text("\n".join(lines))
    for task in sts_rows.resolve("sts"):
        for subset in task.counts:
            scored = (f"{draw.uniform(0, 5):.2f}\t{sentence(draw)}\t{sentence(draw)}\n" for _ in range(20))
            file = place / "sts" / task.base / f"{subset}.tsv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("score\tsentence1\tsentence2\n" + "".join(scored))
    return place


@pytest.fixture(scope="module")
def forks():
    with Forks() as forks:
        yield forks


@pytest.fixture
def in_forks(place, forks, monkeypatch):
    """The commands that a rehearsal starts run in forks, beside the files that recipes name."""

    def run(command, **_):
        assert command[1:3] == ["-m", "cse"]
        return SimpleNamespace(returncode=forks.run(command[3:], place, place / "cache")[0])

    monkeypatch.setattr(paper.subprocess, "run", run)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_each_published_recipe_trains_scores_and_resumes(name, place, in_forks, monkeypatch):
    """It is killed after the second of two steps, before that is saved; the same command goes on after the first."""
    monkeypatch.chdir(place)
    folder = place / "runs" / name[6:] / "paper-s42"
    strikes = {"event": "step", "step": 2, "marker": f"{folder}-struck", "signal_name": "SIGKILL"}
    few = ["--trainer.max_steps=2", "--trainer.batch_size=16", "--trainer.eval_every=1", "--evaluator=null"]
    few += SUITED.get(name[6:], ["--trainer.initial_weights=ignore"])
    few += [f"--callbacks={json.dumps([{'class_path': 'tests.runs.Strikes', 'init_args': strikes}])}"]
    given = {"overrides": few, "hub": place / "hub", "unchecked": True, "data": str(place / "sts")}
    refuses("ended with -9", paper.run, name, 1, place / "runs", **given)
    summary = paper.run(name, 1, place / "runs", **given)
    assert summary["verdict"].startswith("no verdict")
    assert len(paper.rows([summary])[1]) == 6
    assert [record["step"] for record in metrics(folder) if "loss" in record] == [1, 2]
    score = summary["scores"]["sts"]["42"]
    for path in folder.glob("results*.json"):
        path.unlink()
    assert paper.run(name, 1, place / "runs", **given)["scores"]["sts"]["42"] == score  # what is trained is kept
