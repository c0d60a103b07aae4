"""`cse encode`: the right bytes in flat memory, whatever kills it on the way."""

import gzip
import io
import json
import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig

from cse import Encoder
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.job import partial_files
from cse.inference import encode as encode_file
from cse.inference.encode import TextFile
from cse.inference.encode import encode_file as encode
from tests.inference.helpers import Killed, kill_after, lines
from tests.refusals import refuses

BLOCK = 8


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def by_hand(encoder, texts) -> np.ndarray:
    """The vectors, a block at a time as the command makes them."""
    return np.concatenate([encoder.encode(texts[i : i + BLOCK]) for i in range(0, len(texts), BLOCK)])


# What it writes
def test_the_file_is_what_numpy_saves(encoder, file, tmp_path):
    shape = encode(encoder, TextFile.scan(str(file)), tmp_path / "v.npy", precision="fp32", save_every=BLOCK)
    texts = lines(43)
    assert shape == (43, 16)
    assert (tmp_path / "v.npy").read_bytes() == npy(by_hand(encoder, texts))
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), alone, atol=1e-5)
    assert not any(path.exists() for path in partial_files(tmp_path / "v.npy"))


def test_dims_are_cut_before_vectors_are_scaled(encoder, file, tmp_path):
    options = {"precision": "fp32", "save_every": BLOCK, "dimensions": 5, "normalize": True}
    encode(encoder, TextFile.scan(str(file)), tmp_path / "v.npy", **options)
    want = by_hand(encoder, lines(43))[:, :5].astype(np.float64)
    want /= np.sqrt((want**2).sum(1, keepdims=True))
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), want, atol=1e-6)


def test_parquet_has_row_numbers_and_vectors(encoder, file, tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(encode_file, "BLOCK", 10)  # of a row group
    encode(encoder, TextFile.scan(str(file)), tmp_path / "v.parquet", precision="fp32", save_every=BLOCK)
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table["row"].to_pylist() == list(range(43))
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[16]"
    assert np.array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), by_hand(encoder, lines(43)))
    assert parquet.ParquetFile(tmp_path / "v.parquet").num_row_groups == 5
    assert not any(path.exists() for path in partial_files(tmp_path / "v.parquet"))


def test_every_kind_of_file_has_one_vector_a_row(encoder, tmp_path):
    texts = ["the cat sat", "", "a dog ran fast"]
    table = "id\tsaid\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts))
    (tmp_path / "t.tsv").write_text(table)
    (tmp_path / "t.csv").write_text(table.replace("\t", ","))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"said": text}) + "\n" for text in texts))
    with gzip.open(tmp_path / "t.txt.gz", "wt") as stream:
        stream.write("\n".join(texts) + "\n")
    want = npy(encoder.encode(texts))
    for name in ("t.tsv", "t.csv", "t.jsonl", "t.txt.gz"):
        found = TextFile.scan(str(tmp_path / name), "said")
        line = 2 if name.endswith((".jsonl", ".gz")) else 3  # behind a header
        assert (found.rows, found.blank, found.first_blank) == (3, 1, f"{tmp_path / name}:{line}"), name
        encode(encoder, found, tmp_path / "v.npy", precision="fp32")
        assert (tmp_path / "v.npy").read_bytes() == want, name


def test_a_null_and_an_absent_text_are_said_with_their_place(tiny_bert, tmp_path, capsys):
    rows = ['{"said": "the cat"}', '{"other": 1, "said": null}', '{"other": "a dog"}', '{"said": "the sun"}']
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    encode_file.encode(tiny_bert, tmp_path / "t.jsonl", tmp_path / "v.npy", column="said")
    said = capsys.readouterr().out.splitlines()[0]
    want = f"4 rows, of them 2 blank, null or without `said`, first {tmp_path}/t.jsonl:2; encoded as the empty text"
    assert said.endswith(want)


def test_blocks_end_at_rows_and_letters_wherever_one_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_file, "BLOCK_LETTERS", 10)
    (tmp_path / "t.txt").write_text("aaaa\nbbbb\ncccc\nd\n\n\ne\n" + "f" * 99 + "\ng\n")
    texts = TextFile.scan(str(tmp_path / "t.txt"))
    blocks = [block.texts for block in texts.blocks(4)]
    assert blocks == [["aaaa", "bbbb"], ["cccc", "d", "", ""], ["e"], ["f" * 99], ["g"]]
    for i in range(len(blocks)):
        assert [block.texts for block in texts.blocks(4, skip=sum(map(len, blocks[:i])))] == blocks[i:]


# Killed
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("torn", [b"", b"half a row of the next"])
def test_killed_after_any_block_it_goes_on_to_the_same_bytes(encoder, file, tmp_path, monkeypatch, suffix, torn):
    texts, whole = TextFile.scan(str(file)), tmp_path / f"whole{suffix}"
    encode(encoder, texts, whole, precision="fp32", save_every=BLOCK)
    real, seen = encoder.encode_read, []
    monkeypatch.setattr(encoder, "encode_read", lambda read, **how: seen.append(read.texts) or real(read, **how))
    for blocks in range(7):  # 0: before the first; 6: all done, but for the last rename
        out = tmp_path / f"{blocks}{suffix}"
        with pytest.raises(Killed):
            encode(encoder, texts, out, precision="fp32", save_every=BLOCK, progress=kill_after(blocks))
        assert not out.exists()
        with partial_files(out)[0].open("ab") as partial:
            partial.write(torn)
        seen.clear()
        encode(encoder, texts, out, precision="fp32", save_every=BLOCK)
        assert out.read_bytes() == whole.read_bytes()
        assert sum(seen) == max(0, 43 - blocks * BLOCK), "blocks that were whole were encoded again"


DAMAGES = {
    "no note": lambda vectors, note: note.unlink(),
    "note that is no JSON": lambda vectors, note: note.write_text("{"),
    "fewer vectors than noted": lambda vectors, note: os.truncate(vectors, vectors.stat().st_size - 1),
    "no vectors": lambda vectors, note: vectors.unlink(),
    "other vectors than noted": lambda vectors, note: vectors.write_bytes(vectors.read_bytes()[::-1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_trusted_is_done_again(encoder, file, tmp_path, damage):
    texts, out = TextFile.scan(str(file)), tmp_path / "v.npy"
    with pytest.raises(Killed):
        encode(encoder, texts, out, precision="fp32", save_every=BLOCK, progress=kill_after(3))
    DAMAGES[damage](*partial_files(out))
    encode(encoder, texts, out, precision="fp32", save_every=BLOCK)
    assert out.read_bytes() == npy(by_hand(encoder, lines(43)))


def test_a_partial_file_of_something_else_is_refused_and_kept(encoder, tiny_bert, file, tmp_path):
    out = tmp_path / "v.npy"
    before = {"precision": "fp32", "save_every": BLOCK}
    with pytest.raises(Killed):
        encode(encoder, TextFile.scan(str(file)), out, **before, progress=kill_after(2))
    kept = [path.read_bytes() for path in partial_files(out)]
    (tmp_path / "other.txt").write_text(file.read_text().replace("cat", "dog"))
    texts, others = TextFile.scan(str(file)), TextFile.scan(str(tmp_path / "other.txt"))
    cases = {
        "the texts changed": (encoder, others, before),
        "the checkpoint changed": (Encoder(tiny_bert, pooler="cls"), texts, before),
        "save_every was 8 and is 9": (encoder, texts, before | {"save_every": 9}),
        "normalize was False and is True": (encoder, texts, before | {"normalize": True}),
        "dimensions was 16 and is 3": (encoder, texts, before | {"dimensions": 3}),
        "precision was fp32 and is bf16": (encoder, texts, before | {"precision": "bf16"}),
    }
    for reason, (other, rows, options) in cases.items():
        refuses(reason, encode, other, rows, out, **options)
        assert [path.read_bytes() for path in partial_files(out)] == kept
    encode(encoder, texts, out, **before)


def test_the_hash_sees_whatever_a_vector_depends_on(tiny_bert):
    options = [{}, {}, {}, {"template": "the cat {text}"}, {"max_length": 9}, {"pooler": "mean"}]
    plain, weight, lower_case, *others = (Encoder(tiny_bert, **each) for each in options)
    next(weight.backbone.parameters()).data[0, 0] += 1e-3
    lower_case.lower_case = True
    prints = [model_hash(each) for each in (plain, weight, lower_case, *others)]
    assert len(set(prints)) == 6
    plain.encode(["the cat", "a dog ran"])  # leaves its truncation in the tokenizer
    assert model_hash(plain) == prints[0]


# Memory
class Wide:
    """Encodes at once into many dimensions."""

    dim, device, pooler, max_length, lower_case, post = 1024, torch.device("cpu"), "cls", 8, False, ()
    tokenizer = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=lambda: "{}"))
    backbone = SimpleNamespace(config=BertConfig())
    prompts, default_prompt_name = {}, None

    def prompt_text(self, *_):
        return ""

    def state_dict(self):
        return {}

    def read(self, rows, **_):
        return rows

    def encode_read(self, rows, **_):
        return np.ones((len(rows), self.dim), dtype=np.float32)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(encode_file, "BLOCK", 100)
    (tmp_path / "first.txt").write_text("word\n")
    first = TextFile.scan(str(tmp_path / "first.txt"))
    encode(Wide(), first, tmp_path / f"first{suffix}", save_every=100)  # imports what is imported late
    peaks = []
    for rows in (200, 4000):
        path = tmp_path / f"{rows}.txt"
        path.write_text("word\n" * rows)
        texts = TextFile.scan(str(path))
        tracemalloc.start()
        encode(Wide(), texts, tmp_path / f"{rows}{suffix}", save_every=100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    block, everything = 100 * 1024 * 4, 4000 * 1024 * 4
    assert peaks[0] > block / 2, "the measure does not see the vectors"
    assert peaks[1] < peaks[0] + block < everything / 2


def test_a_file_that_changes_while_it_is_read(encoder, file, tmp_path):
    texts = TextFile.scan(str(file))
    file.write_text(file.read_text() + "the cat\n")
    refuses("changed while", encode, encoder, texts, tmp_path / "v.npy", precision="fp32", save_every=BLOCK)
    assert not (tmp_path / "v.npy").exists()


def test_windows_of_tokens(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, pooler="mean", max_length=8).eval()
    (tmp_path / "texts.txt").write_text("\n".join(lines(20)) + "\n")
    texts, out = TextFile.scan(str(tmp_path / "texts.txt")), tmp_path / "v.npy"
    encode(encoder, texts, out, precision="fp32", save_every=BLOCK, windows=4)
    assert np.allclose(np.load(out), encoder.encode(lines(20), windows=4), atol=1e-6)
    assert np.abs(np.load(out) - encoder.encode(lines(20))).max() > 1e-3
    refuses("windows is 9", encode, encoder, texts, tmp_path / "new.npy", windows=9)
    assert not list(tmp_path.glob("new*"))
