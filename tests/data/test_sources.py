"""Readers: every kind of file packed, streams of the Hub, the columns that a source has, and the first bad row."""

import gzip
from pathlib import Path

import pytest

from cse import Pairs, Texts, UserError
from cse.data.reading.sources import column_names
from tests.refusals import refuses

ROWS = [("one two", "eins zwei"), ("three", "drei"), ("four", "vier")]


def write(folder, name, *, rows=ROWS):
    """The rows as the name says, packed where it ends in .gz."""
    path, plain = folder / name, name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        import pyarrow
        from pyarrow.parquet import write_table

        buffer = pyarrow.BufferOutputStream()
        write_table(pyarrow.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]}), buffer)
        raw = buffer.getvalue().to_pybytes()
    else:
        line = {
            ".txt": lambda a, b: a,
            ".csv": lambda a, b: f'"{a}",{b}',
            ".tsv": lambda a, b: f"{a}\t{b}",
            ".jsonl": lambda a, b: f'{{"a": "{a}", "b": "{b}"}}',
        }[plain[plain.rindex(".") :]]
        head = {".csv": "a,b\n", ".tsv": "a\tb\n"}.get(plain[-4:], "")
        raw = (head + "\n".join(line(a, b) for a, b in rows) + "\n").encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(path)


@pytest.mark.parametrize("packed", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_every_kind_plain_and_packed(tmp_path, kind, packed):
    path = str(Path(write(tmp_path, f"my.{kind}{packed.lower()}")).rename(tmp_path / f"my.{kind}{packed}"))
    if kind == "txt":
        assert [e.texts[0] for e in Texts(path)] == [a for a, _ in ROWS]
        assert column_names(path) == []
    else:
        assert [e.texts for e in Pairs(path, columns=("a", "b"))] == ROWS
        assert column_names(path) == ["a", "b"]


def test_columns_are_checked_though_a_blank_line_comes_first(tmp_path):
    (tmp_path / "my.jsonl").write_text('\n{"a": "x", "c": "y"}\n{"a": "z"}\n')
    refuses(r"(?s)no column 'b'.*'a', 'c'", Pairs, str(tmp_path / "my.jsonl"), columns=("a", "b"))
    assert column_names(str(tmp_path / "my.jsonl")) == ["a", "c"]


# -- Streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A data set of a million rows on a Hub that counts what is fetched and may break off."""
    import datasets

    class Hub:
        fetched = 0
        breaks_at = 10**9

        def rows(self):
            for i in range(10**6):
                if i >= self.breaks_at:
                    raise ConnectionError("the line is dead")
                self.fetched = i + 1
                yield {"text": f"row {i}", "id": i}

    hub = Hub()

    def load_dataset(name, split, streaming=False):
        assert (name, split, streaming) == ("org/name", "train", True)
        return datasets.IterableDataset.from_generator(hub.rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return hub


def test_a_stream_is_read_no_farther_than_the_limit(hub):
    dataset = Texts("stream:org/name", limit=5)
    assert [e.texts[0] for e in dataset] == [f"row {i}" for i in range(5)]
    assert hub.fetched <= 6
    assert dataset.name == "stream:org/name"


def test_a_stream_says_its_columns(hub):
    assert column_names("stream:org/name") == ["text", "id"]
    with pytest.raises(UserError, match=r"(?s)stream:org/name has no column 'sentence'.*'text', 'id'"):
        Texts("stream:org/name", column="sentence", limit=5)


def test_a_stream_that_breaks_off_is_no_data_set(hub):
    hub.breaks_at = 3
    refuses(r"stream:org/name cannot be loaded.* the Hub cannot be reached", Texts, "stream:org/name", limit=5)
