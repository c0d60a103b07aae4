import numpy as np
import pytest
import torch

from cse.data import tokens
from cse.data.tokens import TokenStore
from cse.encoder.template import bake
from tests.encoder.helpers import bert, byte_level
from tests.refusals import refuses

TEXTS = ["a man eats", "a woman sings a long song", "a man eats", "", "日本"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture(params=["bert", "byte level", "template"])
def tokenizer(request, tmp_path):
    if request.param == "bert":
        return bert(tmp_path)
    return bake(byte_level(), "x: {text}!") if request.param == "template" else byte_level()


def entries(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def test_ids_are_the_tokenizers(tokenizer):
    store = TokenStore.build(TEXTS, tokenizer, 16)
    for text in TEXTS:
        expected = tokenizer(text, truncation=True, max_length=16)["input_ids"] or [tokenizer.pad_token_id]
        assert store.ids(store.text_id(text)).tolist() == expected
        assert store.encode(text) == expected


def test_distinct_texts_are_stored_once():
    store = TokenStore.build(TEXTS, byte_level(), 64)
    assert len(store) == 4
    assert [store.text_id(text) for text in TEXTS] == [0, 1, 0, 2, 3]
    assert store.text_ids(TEXTS).tolist() == [0, 1, 0, 2, 3]
    with pytest.raises(KeyError):
        store.text_id("never seen")
    with pytest.raises(KeyError, match="never seen"):
        store.text_ids([TEXTS[0], "never seen"])


def test_longer_texts_are_counted_also_from_the_cache():
    for _ in range(2):
        store = TokenStore.build(TEXTS, byte_level(), 10)
        assert store.truncated == 1  # "a man eats" has 10 bytes less the merged space
    assert len(store.ids(store.text_id(TEXTS[1]))) == 10


def test_padding_on_the_right():
    store = TokenStore.build(TEXTS, byte_level(), 16)
    ids, mask = store.pad([[5, 6, 7], np.array([8], dtype=np.int32)])
    assert ids.tolist() == [[5, 6, 7], [8, store.pad_id, store.pad_id]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64
    assert store.pad([])[0].shape == (0, 0)


def test_a_second_build_reads_the_cache(cache, monkeypatch):
    first = TokenStore.build(TEXTS, byte_level(), 16)
    monkeypatch.setattr(tokens, "_write", lambda *_: pytest.fail("texts were tokenized again"))
    second = TokenStore.build(TEXTS, byte_level(), 16)
    assert second.ids(1).tolist() == first.ids(1).tolist()
    assert isinstance(second._flat, np.memmap)


def test_text_tokenizer_and_length_each_have_an_entry(cache):
    TokenStore.build(TEXTS, byte_level(), 16)
    TokenStore.build(TEXTS, byte_level(), 17)
    TokenStore.build(TEXTS[1:], byte_level(), 16)
    TokenStore.build(TEXTS, bake(byte_level(), "x {text}"), 16)
    assert len(entries(cache)) == 4
    used = byte_level()
    used(["a", "b c"], truncation=True, max_length=3, padding=True)  # a state that means nothing for the ids
    TokenStore.build(TEXTS, used, 16)
    assert len(entries(cache)) == 4


DAMAGE = {
    "cut": lambda ids, meta: ids.write_bytes(ids.read_bytes()[:-4]),
    "flip": lambda ids, meta: ids.write_bytes(ids.read_bytes()[:-1] + bytes([ids.read_bytes()[-1] ^ 1])),
    "no meta": lambda ids, meta: meta.unlink(),
    "gone": lambda ids, meta: ids.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_anew(cache, damage):
    """A damaged `meta.json` is a row of tests/faults/test_rows.py."""
    expected = TokenStore.build(TEXTS, byte_level(), 16).ids(1).tolist()
    (entry,) = entries(cache)
    raw = (entry / "ids.npy").read_bytes()
    DAMAGE[damage](entry / "ids.npy", entry / "meta.json")
    assert TokenStore.build(TEXTS, byte_level(), 16).ids(1).tolist() == expected
    assert (entry / "ids.npy").read_bytes() == raw


def test_chunks_join(monkeypatch):
    whole = TokenStore.build(TEXTS, byte_level(), 16)
    monkeypatch.setattr(tokens, "CHUNK", 2)
    parts = TokenStore.build([*TEXTS, "one more"], byte_level(), 16)
    assert [parts.ids(i).tolist() for i in range(4)] == [whole.ids(i).tolist() for i in range(4)]
    assert len(TokenStore.build([], byte_level(), 16)) == 0


def test_no_room_for_a_text():
    refuses("max_length is 6", TokenStore.build, TEXTS, bake(byte_level(), "abc{text}def"), 6)
