"""The shipped graded pairs keep to their form."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

import cse.evaluation as harness
from cse import assets
from cse.data.reading.texts import same_text_key

FOLDER = Path(harness.__file__).parent / "data"


def rows(split):
    with (FOLDER / f"sts-mini-{split}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_scores_and_genres_are_spread(split):
    found = rows(split)
    assert len(found) >= 300
    scores = [float(row["score"]) for row in found]
    assert 0 <= min(scores) <= max(scores) <= 5
    bands = Counter(min(4, int(score)) for score in scores)
    assert min(bands.values()) >= 0.12 * len(found)
    assert Counter(row["genre"] for row in found).keys() == {"news", "captions", "forum", "definitions", "questions"}


def test_no_sentence_occurs_twice_within_or_across_the_splits():
    texts = [row[column].lower() for s in ("dev", "test") for row in rows(s) for column in ("sentence1", "sentence2")]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_hard_cases_are_there():
    """Many shared words with little in common, and the other way round."""

    def overlap(row):
        a, b = (set(row[c].lower().split()) for c in ("sentence1", "sentence2"))
        return len(a & b) / len(a | b)

    found = rows("dev") + rows("test")
    assert sum(overlap(r) > 0.4 and float(r["score"]) < 3 for r in found) >= 40
    assert sum(overlap(r) < 0.2 and float(r["score"]) >= 3.5 for r in found) >= 40


@pytest.mark.parametrize("asset", ["triplets-mini", "feedback-mini", "labels-mini", "edits-mini", "propositions-mini"])
def test_nothing_that_is_shipped_to_train_on_is_scored(asset):
    scored = {same_text_key(row[c]) for s in ("dev", "test") for row in rows(s) for c in ("sentence1", "sentence2")}
    shipped = assets.resolve(f"asset:{asset}").read_text(encoding="utf-8").splitlines()
    if assets.resolve(f"asset:{asset}").suffix == ".tsv":  # whose last columns are no texts
        count = {"triplets-mini": 3, "labels-mini": 1, "edits-mini": 5}[asset]
        texts = [text for line in shipped[1:] for text in line.split("\t")[:count] if text]
    else:
        texts = [json.loads(line)[key] for line in shipped for key in ("text_a", "text_b")]
    assert [text for text in texts if same_text_key(text) in scored] == []
