"""Bad input of `cse data`: two lines and exit code 2 before any work, and every file stays as it is."""

import pytest

from cse import cli
from tests.test_bad_commands import content

BAD = {  # a command line -> what the error names
    "show absent.tsv": "absent.tsv",
    "show data.xyz": "format is unknown",
    "show empty.txt": "there is no text",
    "show one.txt": "it has one row",
    "show folder": "without a .txt",
    "show 'x*.txt'": "no file matches",
    "show asset:nonesuch": "asset:nonesuch does not exist",
    "show p.tsv --rows -1": "--rows is -1",
    "show p.tsv --class Pears": "'Pears'",
    "show p.tsv --class Triplets": "no column 'premise'",
    "show p.tsv --columns anchor nonesuch": "'nonesuch'",
    "show p.tsv --columns anchor anchor": "data.columns is ['anchor', 'anchor']",
    "show p.tsv --class Texts --columns anchor positive": "the columns of Texts are",
    "show p.tsv --class Pairs --score-column anchor": "have no score",
    "show p.tsv --score-column anchor": "which must be a number",
    "show p.tsv --columns anchor positive --score-column s --label-column l": "no weights and no labels",
    "show p.tsv --label-column nonesuch": "'nonesuch'",
    "show p.tsv --limit 1": "limit",
    "stats p.tsv --out folder": "--out folder",
    "stats p.tsv --against nonesuch": "'nonesuch'",
    "stats p.tsv --against absent.txt": "absent.txt",
    "stats p.tsv --against STS12": "STS12",
    "split p.tsv --out s.csv": "--out s.csv",
    "split p.tsv --out file/s.jsonl": "--out file/s-train.jsonl",
    "split p.tsv --out s.jsonl --dev 0": "split.dev is 0",
    "split p.tsv --out s.jsonl --dev 1": "split.dev is 1",
    "split p.tsv --out s.jsonl --dev nan": "split.dev is nan",
    "split p.tsv --out s.jsonl --dev 0.6 --test 0.4": "split.test is 0.4",
    "split p.tsv --out s.jsonl --dev 0.01": "leaves no row for dev",
    "split linked.tsv --out s.jsonl --dev 0.5": "share texts with too many others",
    "split s-train.jsonl --out s.jsonl": "s-train.jsonl",
    "split shards --out shards/s.jsonl": "shards/s.jsonl",
    "dedup p.tsv --out p.tsv": "--out p.tsv",
    "dedup s-train.jsonl --out s-train.jsonl": "which is a source",
    "dedup 's-*.jsonl' --out s-train.jsonl": "which is a source",
    "dedup p.tsv --out d.jsonl --near 0": "dedup.near is 0",
    "dedup p.tsv --out d.jsonl --near 1.5": "dedup.near is 1.5",
    "dedup p.tsv --out d.jsonl --against p.tsv": "no row of 4 is left",
    "dedup p.tsv texts.txt --out d.jsonl": "Pairs and Texts",
    "mix p.tsv --out m.jsonl": "1 source is given",
    "mix p.tsv texts.txt --out m.jsonl": "Pairs and Texts",
    "mix p.tsv s-train.jsonl --out m.jsonl --shares 1": "1 shares are given for 2 sources",
    "mix p.tsv s-train.jsonl --out m.jsonl --shares 1 0": "mix.shares is 0",
    "mix p.tsv s-train.jsonl --out m.jsonl --rows 1": "mix.rows is 1",
    "mix p.tsv s-train.jsonl --out m.jsonl --rows 1000": "rows of p.tsv are wanted",
    "mix p.tsv s-train.jsonl --out m.jsonl --shares 1 9 --rows 6": "rows of s-train.jsonl are wanted",
    "mix p.tsv s-train.jsonl": "--out",
    "cluster p.tsv --model absent --clusters 2 --out c.jsonl": "'absent'",
    "cluster p.tsv --model asset:mini --clusters 1 --out c.jsonl": "cluster.clusters is 1",
    "cluster p.tsv --model asset:mini --clusters 5 --out c.jsonl": "and there are 4 rows",
    "cluster p.tsv --model asset:mini --clusters 2 --out p.tsv": "--out p.tsv",
    "cluster p.tsv texts.txt --model asset:mini --clusters 2 --out c.jsonl": "texts.txt",
    "cluster p.tsv --clusters 2 --out c.jsonl": "--model",
    "curate p.tsv --entries absent.txt --out c.jsonl": "absent.txt",
    "curate p.tsv --entries empty.txt --out c.jsonl": "empty.txt",
    "curate p.tsv --entries file --out c.jsonl": "file",
    "curate p.tsv --entries texts.txt --t 0 --out c.jsonl": "curate.t is 0",
    "curate p.tsv --entries texts.txt --tail 1 --out c.jsonl": "curate.tail is 1",
    "curate p.tsv --entries texts.txt --t 1 --tail 0.1 --out c.jsonl": "curate.t is 1.0 and curate.tail is 0.1",
    "curate p.tsv --entries texts.txt --out p.tsv": "--out p.tsv",
    "curate p.tsv --out c.jsonl": "--entries",
    "show": "SOURCE",
    "nonsense p.tsv": "nonsense",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    pairs = "anchor\tpositive\nthe cat\ta cat\nthe dog\ta dog\nred sun\tthe sun\nblue moon\tthe moon\n"
    (tmp_path / "p.tsv").write_text(pairs)
    (tmp_path / "linked.tsv").write_text("anchor\tpositive\nx\ta\nx\tb\nx\tc\nx\td\n")
    (tmp_path / "s-train.jsonl").write_text('{"anchor": "a", "positive": "b"}\n{"anchor": "c", "positive": "d"}\n')
    (tmp_path / "texts.txt").write_text("the cat sat\na dog ran\nthe sun\n")
    (tmp_path / "one.txt").write_text("the cat sat\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "data.xyz").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.txt").write_text("the cat sat\na dog ran\nthe sun\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CSE_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("line", BAD, ids=list(BAD))
def test_it_is_answered_in_a_few_lines(line, place, capsys):
    before = content(place)
    try:
        code = cli.main(["data", *line.replace("'", "").split()])
    except SystemExit as done:  # argparse
        code = done.code
    assert code == 2
    error = capsys.readouterr().err
    said = error[error.index("cse: ") :].splitlines()
    assert BAD[line] in said[0], said
    assert any(text.startswith("fix: ") for text in said)
    assert len(said) <= 5
    assert content(place) == before
