"""`cse data curate`: every case of the oracle, pencil, limits, and the command."""

import json

import numpy as np
import pytest

from cse import Texts, UserError
from cse.data.tools.curation import Entries, curate, keep_probability, threshold
from tests.cases import cases, load


@pytest.mark.parametrize("name", cases("curation", has="t"))
def test_every_case_of_the_oracle(name):
    about, data = load("curation", name)
    entries, counts = Entries(data["entries"].tolist()), data["counts"].numpy()
    found = [entries.found([text]) for text in data["texts"].tolist()]
    assert found == [np.flatnonzero(row).tolist() for row in data["matched"]]
    chances = [keep_probability(row, counts, about["t"]) for row in found]
    assert chances == pytest.approx(data["keep_probability"].tolist())
    assert sum(chances) == pytest.approx(about["expected_kept"])
    for entry in np.flatnonzero(counts):
        assert keep_probability([entry], counts, about["t"]) == pytest.approx(data["entry_probability"][entry].item())
    assert {share: threshold(counts, float(share)) for share in about["t_of_share"]} == about["t_of_share"]


def test_entries_by_pencil():
    entries = Entries(["cat", "St. Louis", "the cat", "cat", ""])
    assert len(entries) == 3
    assert entries.found(["He lives in St. Louis."]) == [1]
    assert entries.found(["the cat, and the dog", "in St. Louis"]) == [0, 1, 2]
    assert entries.found(["concatenate The Cat"]) == []
    counts = np.array([4, 2, 1])
    assert keep_probability([0, 1], counts, 1) == pytest.approx(1 - 3 / 4 * 1 / 2)
    assert keep_probability([0, 2], counts, 1) == 1
    assert keep_probability([], counts, 1) == 0


def rows(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_rows_are_drawn_by_seed_and_number(tmp_path):
    texts = [f"the cat {i}" for i in range(400)] + [f"a dog {i}" for i in range(10)] + ["no match"]
    out = tmp_path / "c.jsonl"

    def kept(**options):
        manifest = curate(Texts(texts), out=out, entries=["cat", "dog", "cow"], **options)
        assert manifest["counts"]["written"] == len(rows(out))
        return rows(out), manifest

    first, manifest = kept(t=40, seed=1)
    assert kept(t=40, seed=1)[0] == first
    assert kept(t=40, seed=2)[0] != first
    assert first == [text for text in texts if text in set(first)]  # in their order
    assert set(texts[400:410]) < set(first)  # all with a rare entry
    assert 25 <= len(first) - 10 <= 58  # 40 of 400, within three standard deviations
    assert manifest["counts"] | {"written": 0} == {
        "read": 411, "matched": 410, "written": 0, "entries": 3, "entries_found": 2,
    }  # fmt: skip
    assert manifest["settings"]["tail"] == pytest.approx(10 / 410)
    assert kept(t=400)[0] == texts[:410]  # at least the largest count keeps every match


def test_nothing_left_harms_nothing(tmp_path):
    out = tmp_path / "c.jsonl"
    out.write_text("kept")
    with pytest.raises(UserError, match="no row of 2 is left: 0 have one of the 1 entries"):
        curate(Texts(["one text", "another"]), out=out, entries=["cow"], t=1)
    assert out.read_text() == "kept"
