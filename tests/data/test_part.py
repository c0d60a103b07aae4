"""Rows that are held out: no text on both sides, whatever links the rows."""

import random

import pytest

from cse import Pairs, ScoredPairs, Texts, Triplets
from cse.data.part import divide
from cse.data.reading.texts import same_text_key


def pairs(n, seed=0, shared=0.3):
    """Pairs, of which a share has the anchor or the positive of an earlier one, spelled differently."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        anchor, positive = f"anchor {i}", f"positive {i}"
        if rows and rng.random() < shared:
            anchor = rng.choice(rows)[0].upper() + "!"
        if rows and rng.random() < shared / 3:
            positive = rng.choice(rows)[1] + " ."
        rows.append((anchor, positive))
    return rows


def keys(data):
    return {same_text_key(text) for row in data for text in row.texts[: 1 + row.num_positives]}


@pytest.mark.parametrize(("share", "seed"), [(0.05, 0), (0.3, 1), (0.9, 0)])
def test_no_text_is_on_both_sides(share, seed):
    data = Pairs(pairs(400, seed))
    (found,) = divide([data], [round(share * 400)], seed)
    assert not keys(found.kept) & keys(found.held)
    assert len(found.kept) + len(found.held) == len(data)
    assert abs(len(found.held) - share * len(data)) < 25
    ids = [row.row_id for part in (found.kept, found.held) for row in part]
    assert sorted(ids) == list(range(len(data)))
    for part in (found.kept, found.held):
        assert all(row == data[row.row_id] for row in part)
    assert found.kept.report["held_out"] == len(found.held)


def test_the_choice_depends_on_seed_and_texts_alone():
    rows = pairs(300)
    one, again = (divide([Pairs(rows)], [30], 5)[0] for _ in range(2))
    assert one.held.hash == again.held.hash
    assert one.kept.hash == again.kept.hash
    random.Random(1).shuffle(rows)
    shuffled = divide([Pairs(rows)], [30], 5)[0]
    assert keys(shuffled.held) == keys(one.held)
    other = divide([Pairs(rows)], [30], 6)[0]
    assert keys(other.held) != keys(one.held)


def test_a_text_of_too_many_rows_stays_in_training():
    rows = [("the same anchor", f"positive {i}") for i in range(80)] + [
        (f"anchor {i}", f"other {i}") for i in range(20)
    ]
    (found,) = divide([Pairs(rows)], [10], 0)
    assert found.linked == 80
    assert len(found.held) == 10
    assert "the same anchor" not in {row.texts[0] for row in found.held}
    (nothing,) = divide([Pairs(rows[:80])], [8], 0)
    assert nothing.held is None
    assert len(nothing.kept) == 80


def test_hard_negatives_link_no_rows_and_are_removed_where_they_are_held_out():
    """Mined negatives: each is the positive of another row, so that all rows are linked by them."""
    n = 100
    rows = [
        {"a": f"anchor {i}", "p": f"positive {i}", "n1": f"positive {(i + 1) % n}", "n2": f"Positive {(i + 7) % n}!"}
        for i in range(n)
    ]
    data = Triplets(rows, columns=["a", "p", "n1", "n2"])
    (found,) = divide([data], [20], 0)
    assert len(found.held) == 20
    out = keys(found.held)
    texts = [text for row in found.kept for text in row.texts]
    assert not {same_text_key(text) for text in texts} & out
    assert found.negatives == 4 * 80 - len(texts) > 0
    assert found.kept.ragged
    assert found.kept.report["negatives_held_out"] == found.negatives
    assert all(len(row.texts) == 2 for row in found.held)
    assert set(found.kept.unique_texts()) == set(texts)


def test_data_sets_have_no_text_in_common_either():
    one, other = (
        Pairs(pairs(200, 0, 0)),
        ScoredPairs([(f"Anchor {i}!", f"text {i}", i / 400) for i in range(0, 400, 2)]),
    )
    first, second = divide([one, other], [40, 40], 0)
    assert len(first.held) == len(second.held) == 40
    held = keys(first.held) | keys(second.held)
    assert not held & (keys(first.kept) | keys(second.kept))
    assert not keys(first.held) & keys(second.held)


def test_labels_and_scores_stay_with_their_rows():
    data = Texts([{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)], label_column="label")
    (found,) = divide([data], [20], 0)
    assert all(row.label == int(row.texts[0][5:]) % 2 for row in found.held)
    assert found.held.label_names == ["a", "b"]


def test_a_second_start_divides_without_reading(monkeypatch, tmp_path):
    """The rows, texts and counts of the first start come from the cache; a damaged file is made anew."""
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    rows = [{"a": f"a {i}", "p": f"p {i}", "n": f"p {i + 1}"} for i in range(60)]
    sets = [Triplets(rows, columns=["a", "p", "n"]), Pairs(pairs(40))]
    first = divide(sets, [10, 5], 3)
    blocks = Triplets.blocks
    monkeypatch.setattr("cse.data.datasets.Dataset.blocks", None)
    again = divide(sets, [10, 5], 3)
    (file,) = (tmp_path / "divided").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    monkeypatch.setattr("cse.data.datasets.Dataset.blocks", blocks)

    def content(part):
        rows = [[row.texts for row in data] for data in (part.kept, part.held)]
        return rows, part.linked, part.negatives, part.kept.hash, part.kept.report

    for found in (again, divide(sets, [10, 5], 3)):
        assert [content(part) for part in found] == [content(part) for part in first]
    assert first[0].negatives > 0
    assert len(divide(sets, [10, 5], 4)[0].held) == 10  # another seed is another division
    assert len([*(tmp_path / "divided").iterdir()]) == 2
