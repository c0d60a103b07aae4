"""The texts of mining, on disk: the same as in memory, and found again by the next process."""

import pickle
import tracemalloc

import numpy as np
import pytest

from cse import Example, Pairs, Triplets
from cse.data.reading.texts import StoredTexts, same_text_key
from cse.mining import corpus as on_disk
from cse.mining.corpus import Corpus
from tests.conftest import WORDS


def rows(count: int, seed: int) -> list[tuple[str, ...]]:
    """Rows of 2 to 4 short texts, many of them the same text but for case and punctuation."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        words = " ".join(rng.choice(WORDS[:6], rng.integers(1, 3)))
        return str(rng.choice([words, words.upper(), f"{words}!", "!?", f" {words}"]))

    return [tuple(text() for _ in range(rng.integers(2, 5))) for _ in range(count)]


def slow(data, pool):
    """What a corpus says, by dictionaries and loops: its texts, anchors, positives and what is banned for each row."""
    key = {text: same_text_key(text) or text for row in data for text in row} | {
        text: same_text_key(text) or text for text in pool or ()
    }
    texts, place = [], {}
    for text in pool if pool is not None else [text for row in data for text in row[1:]]:
        if text.strip() and key[text] not in place:
            place[key[text]] = len(texts)
            texts.append(text)
    for number in (0, 1):
        for row in data:
            if row[number] not in texts:
                texts.append(row[number])
    banned = []
    for row in data:
        alike = [other for other in data if key[other[0]] == key[row[0]]]
        names = {key[text] for other in alike for text in other[:2]} | {key[text] for text in row[2:]}
        banned.append({place[name] for name in names if name in place})
    first, second = ([texts.index(row[i]) for row in data] for i in (0, 1))
    return texts, len(place), first, second, banned


@pytest.mark.parametrize("pooled", [False, True])
def test_the_files_say_what_dictionaries_say(monkeypatch, pooled):
    monkeypatch.setattr(on_disk, "BLOCK", 7)
    for seed in range(3):
        data = rows(60, seed)
        pool = [text for row in rows(40, seed + 100) for text in row] + [""] if pooled else None
        found = Corpus([Example(row) for row in data], pool)
        texts, size, anchor, positive, banned = slow(data, pool)
        assert list(found.texts) == texts == found.texts[:]
        assert (found.size, found.anchor.tolist(), found.positive.tolist()) == (size, anchor, positive)
        assert [set(row.tolist()) - {-1} for row in found.banned(range(60))] == banned
        assert list(found.anchor_texts) == [texts[i] for i in sorted(set(anchor))]
        vectors = np.arange(len(texts), dtype=np.float32)[:, None]
        own = np.array(sorted(set(anchor)), dtype=np.float32)[:, None]
        for known in (None, own):  # with vectors of their own, and with those of all texts
            assert found.queries(slice(3, 50), vectors, known)[:, 0].tolist() == anchor[3:50]
        assert found.find([texts[-1], "not there", texts[0]]).tolist() == [len(texts) - 1, -1, 0]


def test_a_data_set_on_disk_is_read_as_its_rows_are(tmp_path):
    data = [row for row in dict.fromkeys(rows(50, 1)) if all(text.strip() == text for text in row)]
    lines = ["\t".join(("anchor", "positive", "negative_1", "negative_2"))]
    (tmp_path / "t.tsv").write_text("\n".join([*lines, *("\t".join((*row, "", "")[:4]) for row in data)]) + "\n")
    found, want = Corpus(Triplets(tmp_path / "t.tsv")), Corpus([Example(row) for row in data])
    assert list(found.texts) == list(want.texts)
    assert np.array_equal(found.banned(range(len(data))), want.banned(range(len(data))))


def test_the_next_process_finds_the_files_and_makes_damaged_ones_again(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    data = [Example(row) for row in rows(20, 2)]
    first = Corpus(data)
    real, written = on_disk._write, []
    monkeypatch.setattr(on_disk, "_write", lambda *arguments: written.append(1) or real(*arguments))
    assert list(Corpus(data).texts) == list(first.texts)
    assert not written
    changed = [Example(data[0].texts[:-1]), *data[1:]] if len(data[0].texts) > 2 else data[1:]
    Corpus(changed)
    assert len(written) == 1, "other rows have a corpus of their own"
    Corpus(data, ["a pool", "of two texts"])
    assert len(written) == 2
    for file in tmp_path.rglob("positive.npy"):
        file.write_bytes(b"")
    assert list(Corpus(data).texts) == list(first.texts)
    assert len(written) == 3
    assert "is damaged" in caplog.text


def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk, "BLOCK", 500)
    held = []
    for count in (1_000, 9_000):
        lines = (f"anchor {i} of the rows\tpositive {i} of the rows" for i in range(count))
        (tmp_path / f"{count}.tsv").write_text("a\tp\n" + "\n".join(lines) + "\n")
        data = Pairs(tmp_path / f"{count}.tsv", columns=["a", "p"])
        tracemalloc.start()
        corpus = Corpus(data)
        corpus.banned(range(500))
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(corpus.texts) == 2 * count
    assert held[1] - held[0] < 8 * 16_000, "bytes of 16,000 texts more"


def test_another_process_maps_the_texts_by_itself(tmp_path):
    corpus = Corpus([Example(row) for row in rows(30, 3)])
    assert isinstance(corpus.texts, StoredTexts)
    sent = pickle.dumps(corpus.texts)
    assert len(sent) < 1_000
    assert list(pickle.loads(sent)) == list(corpus.texts)
