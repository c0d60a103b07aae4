"""What is said of training text before training: counts by pencil, and copies of evaluation sets found in disguise."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import yaml

from cse import cli
from cse.data import checks as hygiene
from cse.data.checks import examine, lengths, overlap_warnings, stats
from cse.data.datasets import Pairs, Texts, Triplets
from cse.data.tokens import TokenStore
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.training.callbacks import DataCheck
from cse.training.trainer import Trainer
from tests.conftest import WORDS
from tests.runs import Spread, make_run, write_texts

SETS = {
    "pairs": [("A man, running.", "The dog sleeps"), ("One two", "Three four"), ("!!", "?")],
    "singles": [("A cat!",), ("Nobody here",)],
}


class Knowing(Spread):
    """An evaluator with evaluation sets at hand."""

    def texts(self, data=None):
        return SETS | ({data: [("from a folder",)]} if data else {})


@pytest.fixture
def data_of(tmp_path):
    def data_of(lines, make=Texts, header="", **options):
        path = tmp_path / ("rows.tsv" if header else "rows.txt")
        path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
        return make(str(path), **options)

    return data_of


def shared(data, sets=SETS):
    found = stats(data, sets)["overlap"]
    return {
        name: (each["shared_texts"], each["texts"], each["shared_pairs"], each["pairs"]) for name, each in found.items()
    }


# -- Overlap ---------------------------------------------------------------------------------------------------------


def test_texts_are_found_whatever_their_case_and_punctuation(data_of):
    data = data_of(["a man running", "THE DOG SLEEPS!", "A cat", "something else", "...", "a man, running"])
    found = stats(data, SETS)["overlap"]
    assert shared(data) == {"pairs": (2, 4, 0, 3), "singles": (1, 2, 0, 0)}
    assert found["pairs"]["examples"] == ["A man, running.", "The dog sleeps"]
    assert found["singles"]["examples"] == ["A cat!"]


def test_a_pair_is_found_within_a_row_of_many(data_of):
    data = data_of(["x\tthree four\tOne, two", "y\tz\tw"], Triplets, "premise\tentailment\tcontradiction\n")
    assert shared(data)["pairs"] == (2, 4, 1, 3)
    assert shared(data)["singles"] == (0, 2, 0, 0)


def test_against_a_slow_search(data_of):
    """Every text compared with every other, on words drawn so that many coincide."""
    rows = [f"{a} {b}\t{b} {c}" for a, b, c in zip(WORDS, WORDS[3:], WORDS[5:], strict=False)]
    data = data_of(rows, Pairs, "sentence1\tsentence2\n")
    sets = {"s": [(f"{a.upper()}, {b}", f"{c} {a}!") for a in WORDS for b in WORDS for c in WORDS[:4]]}
    plain = [tuple("".join(filter(str.isalnum, text.lower())) for text in row) for row in sets["s"]]
    train = [tuple("".join(filter(str.isalnum, text.lower())) for text in example.texts) for example in data]
    texts = {text for row in plain for text in row}
    hit = texts & {text for row in train for text in row}
    pairs = {frozenset(row) for row in plain}
    assert shared(data, sets) == {
        "s": (len(hit), len(texts), len(pairs & {frozenset(row) for row in train}), len(pairs))
    }
    assert hit


# -- Counts ----------------------------------------------------------------------------------------------------------


def test_lengths_by_pencil():
    found = lengths(Counter([1, 4, 5, 8, 9, 600, 3]))
    assert found == {
        "mean": 90.0,
        "min": 1,
        "median": 5,
        "p95": 600,
        "max": 600,
        "histogram": {"0-4": 3, "5-8": 2, "9-16": 1, "513-": 1},
    }
    assert lengths({})["max"] == 0


def test_a_report_by_pencil(data_of, tiny_bert):
    rows = ["the cat\tThe cat!", "a dog ran fast\tred sun", "", "a dog ran fast\tred sun", "blue moon\tA DOG ran fast"]
    data = data_of(rows, Pairs, "sentence1\tsentence2\n")
    tokens = TokenStore.build(data.unique_texts(), Encoder(tiny_bert).tokenizer, 5)
    report = examine(data, tokens, SETS)
    assert report["rows"] == 3
    assert report["left_out"] == {"blank": 1, "duplicate": 1}
    assert report["texts"] == {"all": 6, "distinct": 6, "distinct_normalized": 4, "same_in_row": 1}
    assert report["words"]["histogram"] == {"0-4": 6}
    assert report["words"]["mean"] == round((2 + 2 + 4 + 2 + 2 + 4) / 6, 2)
    assert report["tokens"]["histogram"] == {"0-4": 4, "5-8": 2}  # [CLS] and [SEP] besides; four words are cut to three
    assert (report["tokens"]["truncated"], report["tokens"]["truncated_share"]) == (2, round(2 / 6, 4))
    assert report["sha256"] == data.hash
    assert json.loads(json.dumps(report)) == report


GERMAN = [f"Der kleine Hund läuft heute {i} Mal durch den großen Park und schläft danach." for i in range(30)]
ENGLISH = [f"The small dog runs through the large park {i} times and sleeps after that." for i in range(90)]
RUSSIAN = [f"Маленькая собака сегодня {i} раз бегает по большому парку." for i in range(30)]


def test_languages_and_scripts(data_of, tiny_bert):
    data = data_of([*GERMAN, *ENGLISH, *RUSSIAN, "ok", "12 345"])
    report = examine(data, TokenStore.build(data.unique_texts(), Encoder(tiny_bert).tokenizer, 8), {})
    assert report["languages"] == {"en": 0.6, "de": 0.2, "ru": 0.2}
    assert report["languages_sample"] == 150  # the last two are too short to tell
    letters = {True: 0, False: 0}
    for text in [*GERMAN, *ENGLISH, *RUSSIAN]:
        for char in filter(str.isalpha, text):
            letters[char > "\u0400"] += 1
    assert report["scripts"]["CYRILLIC"] == round(letters[True] / sum(letters.values()), 3)
    assert set(report["scripts"]) == {"CYRILLIC", "LATIN"}


def test_an_overlap_is_one_line():
    report = {"overlap": {"A": {"shared_texts": 3, "texts": 1200}, "B": {"shared_texts": 0, "texts": 5}}}
    (line,) = overlap_warnings(report)
    assert "A 3 of 1,200" in line
    assert "B" not in line
    assert overlap_warnings({"overlap": {"B": report["overlap"]["B"]}}) == []


# -- In a run --------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_report_and_warns(tiny_bert, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SETS, "copied", [(write_texts(tmp_path).read_text().splitlines()[3].upper() + "!",)])
    run = make_run(tmp_path, tiny_bert, max_steps=1)
    run.evaluator, run.callbacks = Knowing(), [DataCheck()]
    Trainer(run).fit()
    report = json.loads((run.folder / hygiene.FILE).read_text())
    assert report["rows"] == 48
    assert {name: each["shared_texts"] for name, each in report["overlap"].items()} == {
        "pairs": 0,
        "singles": 0,
        "copied": 1,
    }
    out = capsys.readouterr().out
    assert out.count("warning") == 1
    assert "copied 1 of 1" in out
    before = (run.folder / hygiene.FILE).stat().st_mtime_ns
    DataCheck().on_start(run)  # as on resume
    assert (run.folder / hygiene.FILE).stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""


# -- Commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path, tiny_bert):
    """A recipe on a small file, with an evaluator that knows texts."""
    path = tmp_path / "rows.tsv"
    rows = [f"{a}\t{b} and {c} run\tx" for a, b, c in zip(WORDS, WORDS[1:], WORDS[2:], strict=False)]
    path.write_text("id\ttext\tnote\n" + "\n".join([*rows, "z\tA man running\tx"]) + "\n")
    content = {
        "data": {"class_path": "cse.data.Texts", "init_args": {"path": str(path)}},
        "collator": {
            "class_path": "cse.data.Masked",
            "init_args": {
                "views": {
                    "class_path": "cse.data.AugmentedViews",
                    "init_args": {
                        "max_length": 8,
                        "augmentations": [{"class_path": "cse.augment.WordReordering"}],
                        "anchor_augmentations": [],
                    },
                }
            },
        },
        "encoder": {"class_path": "cse.encoder.Encoder", "init_args": {"backbone": tiny_bert}},
        "objective": {"class_path": "cse.objectives.simcse.SimCSE"},
        "evaluator": {"class_path": "tests.data.test_hygiene.Knowing"},
        "trainer": {"batch_size": 4},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "mine.yaml")


def test_check_says_what_the_data_are(recipe, capsys):
    assert cli.main(["check", recipe, "--eval-data", "more", "--data.init_args.limit=15"]) == 0
    out = capsys.readouterr().out
    assert f"ok         {recipe}" in out
    assert "rows.tsv 15 sentences; left out: nothing" in out
    assert "columns    text = text; not used: id, note" in out
    assert "texts      15; 15 distinct, 15 if case and punctuation are ignored; 0 rows have the same text twice" in out
    assert "cut        0 at 8 tokens (0.0%)" in out
    assert "overlap    pairs: 1 of 4 texts, 0 of 3 pairs   such as 'A man, running.'" in out
    assert "overlap    none with singles, more (3 texts)" in out
    assert out.count("warning") == 1


def test_augment_shows_the_views_that_a_run_has(recipe, capsys):
    assert cli.main(["augment", "--show", recipe, "--rows", "2", "--epoch", "3", "--seed=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10].strip() for line in lines] == ["row 0", "view 0", "view 1", "row 1", "view 0", "view 1"]
    original, anchor, positive = (line[11:] for line in lines[:3])
    assert original == anchor == "cat and sat run"
    from cse.augment import WordReordering
    from cse.seeding import python_rng

    assert positive == WordReordering()(original, python_rng(5, "augment", 3, 0, 1))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["augment"], "--show RECIPE or --data FILE"),
        (["augment", "--data", "x.txt", "--rows", "0"], "--rows is 0"),
        (["augment", "--data", "x.txt", "--seed=4"], "--seed=4 is an option of a recipe"),
        (["check", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_are_named(arguments, named, capsys):
    assert cli.main(arguments) == 2
    assert named in capsys.readouterr().err


def test_a_collator_without_texts_is_named():
    from cse.commands.augment import views_of

    with pytest.raises(UserError, match="SimpleNamespace does not tell which texts"):
        views_of(SimpleNamespace(), [], epoch=0, seed=0)
