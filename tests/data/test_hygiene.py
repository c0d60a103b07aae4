"""What is said of training text before training: counts by pencil, and copies of evaluation sets found in disguise."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from cse import Encoder, Pairs, Texts, Trainer, Triplets, cli
from cse.data import checks as hygiene
from cse.data.checks import examine, lengths, stats
from cse.data.reading.texts import same_text_key
from cse.data.tokens import TokenStore
from cse.training.callbacks import DataCheck
from tests.conftest import WORDS
from tests.refusals import refuses
from tests.runs import Spread, make_run, write_recipe, write_texts

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


def shared(data):
    fields = ("shared_texts", "texts", "shared_pairs", "pairs")
    return {name: tuple(each[field] for field in fields) for name, each in stats(data, SETS)["overlap"].items()}


# Overlap
def test_texts_are_found_whatever_their_case_and_punctuation(data_of):
    data = data_of(["a man running", "THE DOG SLEEPS!", "A cat", "something else", "...", "a man, running"])
    assert shared(data) == {"pairs": (2, 4, 0, 3), "singles": (1, 2, 0, 0)}
    assert stats(data, SETS)["overlap"]["pairs"]["examples"] == ["A man, running.", "The dog sleeps"]


def test_a_pair_is_found_within_a_row_of_many(data_of):
    data = data_of(["x\tthree four\tOne, two", "y\tz\tw"], Triplets, "premise\tentailment\tcontradiction\n")
    assert shared(data)["pairs"] == (2, 4, 1, 3)
    assert shared(data)["singles"] == (0, 2, 0, 0)


# Counts
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


# In a run
def test_a_run_keeps_its_report_and_warns(tiny_bert, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SETS, "copied", [(write_texts(tmp_path).read_text().splitlines()[3].upper() + "!",)])
    run = make_run(tmp_path, tiny_bert, max_steps=1)
    run.evaluator, run.callbacks = Knowing(), [DataCheck()]
    Trainer(run).fit()
    report = json.loads((run.folder / hygiene.FILE).read_text())
    assert report["rows"] == 48
    copied = {name: each["shared_texts"] for name, each in report["overlap"].items()}
    assert copied == {"pairs": 0, "singles": 0, "copied": 1}
    out = capsys.readouterr().out
    assert out.count("warning") == 1
    assert "copied 1 of 1" in out
    before = (run.folder / hygiene.FILE).stat().st_mtime_ns
    DataCheck().on_start(run)  # as on resume
    assert (run.folder / hygiene.FILE).stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""


# Commands
@pytest.fixture
def recipe(tmp_path, tiny_bert):
    """A recipe on a small file, with an evaluator that knows texts."""
    path = tmp_path / "rows.tsv"
    rows = [f"{a}\t{b} and {c} run\tx" for a, b, c in zip(WORDS, WORDS[1:], WORDS[2:], strict=False)]
    path.write_text("id\ttext\tnote\n" + "\n".join([*rows, "z\tA man running\tx"]) + "\n")
    reordered = [{"class_path": "cse.augment.WordReordering"}]
    views = {"max_length": 8, "augmentations": reordered, "anchor_augmentations": []}
    masked = {"views": {"class_path": "cse.data.AugmentedViews", "init_args": views}}
    parts = {"collator": {"class_path": "cse.data.Masked", "init_args": masked}}
    parts["evaluator"] = {"class_path": "tests.data.test_hygiene.Knowing"}
    return write_recipe(tmp_path, "Texts", {"path": str(path)}, {"backbone": tiny_bert}, **parts)


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


def test_a_collator_without_texts_is_named():
    from cse.commands.augment import views_of

    refuses("SimpleNamespace does not tell which texts", views_of, SimpleNamespace(), [], epoch=0, seed=0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A man, running.", "a man running"),
        ("``It is,'' he said .", '"It is," he said.'),
        ("ﬁve ＦＵＬＬ", "Five full"),
        ("Straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("a\u00a0b\tc\u200bd", "abcd"),
        ("don't", "don’t"),
        ("I do n't", "I don't"),
        ("back yard", "backyard"),
        ("  The Cat,\tsat! ", "the cat sat"),
    ],
)
def test_copies_in_disguise_are_the_same(one, other):
    assert same_text_key(one) == same_text_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("C++", "C"), ("$5", "5"), ("कि", "का"), ("cafe", "café"), ("a b", "b a"), ("1", "2"), ("cats", "cat")],
)
def test_different_texts_stay_different(one, other):
    assert same_text_key(one) != same_text_key(other)


def test_punctuation_alone_is_nothing():
    assert same_text_key(" ... !? ``") == ""
