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


def test_no_sentence_occurs_twice_within_or_across_the_splits():
    texts = [row[column].lower() for s in ("dev", "test") for row in rows(s) for column in ("sentence1", "sentence2")]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


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
