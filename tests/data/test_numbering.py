"""Numbers of texts against a Python dict, on any blocks, with merges on disk and with colliding fingerprints."""

import random

import numpy as np
import pytest

from cse.data.reading import numbering as module
from cse.data.reading.numbering import Collision, GrowingArray, Numbering, Numbers, fingerprints, without_collision


def numbered(texts, folder, block):
    """The numbers of texts that are added in blocks, and which are new."""
    made, numbers, new = Numbering(folder), [], []
    for start in range(0, len(texts), block):
        found, is_new = made.add(fingerprints(texts[start : start + block]))
        numbers += found.tolist()
        new += is_new.tolist()
    made.close()
    return numbers, new


@pytest.mark.parametrize("block", [1, 7, 5000])
@pytest.mark.parametrize("in_memory", [1 << 16, 10])
def test_numbers_are_those_of_a_dict(tmp_path, monkeypatch, block, in_memory):
    monkeypatch.setattr(module, "IN_MEMORY", in_memory)
    monkeypatch.setattr(module, "BLOCK", 13)
    rng = random.Random(block)
    texts = [f"text {rng.randrange(300)}" for _ in range(900)]
    known: dict[str, int] = {}
    want = [known.setdefault(text, len(known)) for text in texts]
    numbers, new = numbered(texts, tmp_path, block)
    assert numbers == want
    assert new == [text not in texts[:i] for i, text in enumerate(texts)]
    saved = Numbers(tmp_path)
    assert len(saved) == len(known)
    assert saved.find(fingerprints(known)).tolist() == list(known.values())
    assert saved.find(fingerprints(["never seen", texts[5]])).tolist() == [-1, want[5]]
    assert {path.name for path in tmp_path.iterdir()} == set(Numbers.FILES)


def test_no_texts(tmp_path):
    assert numbered([], tmp_path, 5) == ([], [])
    assert Numbers(tmp_path).find(fingerprints(["a"])).tolist() == [-1]


def test_two_texts_with_one_key_are_never_taken_for_one(tmp_path):
    prints = np.array([[1, 10], [2, 20], [1, 11]], dtype=np.uint64)
    with pytest.raises(Collision):
        Numbering(tmp_path).add(prints)
    later = Numbering(tmp_path)
    later.add(prints[:2])
    with pytest.raises(Collision):
        later.add(prints[2:])


def test_after_a_collision_another_seed_is_tried():
    seeds = []

    def work(seed):
        seeds.append(seed)
        if seed < 2:
            raise Collision
        return "done"

    assert without_collision(work) == "done"
    assert seeds == [0, 1, 2]
    assert (fingerprints(["a"], 0) != fingerprints(["a"], 1)).all()


def test_an_array_grows_beyond_a_digit(tmp_path):
    array = GrowingArray(tmp_path / "a.npy", np.int32)
    for i in range(12):
        array.append(np.full(100, i))
        array.flush()
        assert len(np.load(tmp_path / "a.npy", mmap_mode="r")) == 100 * (i + 1)
    array.close()
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.repeat(np.arange(12, dtype=np.int32), 100))
