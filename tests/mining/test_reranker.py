"""A cross-encoder as the judge of mined candidates, against a loop that scores one pair at a time."""

import functools
import json

import numpy as np
import pytest
from pyarrow.parquet import read_table

from cse import Triplets, cli
from cse.data.reading.texts import same_text_key as key
from tests.mining.helpers import cosines


@pytest.mark.parametrize(("suffix", "margin"), [("parquet", 0.0), ("jsonl", 0.05)])
def test_candidates_above_the_positive_minus_the_margin_are_dropped(
    checkpoint, rows, save_reranker, tmp_path, margin, suffix
):
    from sentence_transformers import CrossEncoder

    path, pairs = rows
    judge, out = save_reranker(), tmp_path / f"mined.{suffix}"
    options = ["--reranker", judge, "--reranker-margin", str(margin), "--scores", "--k", "3", "--precision", "fp32"]
    assert cli.main(["mine", checkpoint, "--data", path, "--columns", "a", "p", "--out", str(out), *options]) == 0
    model = CrossEncoder(judge)

    @functools.cache
    def score(a, b):
        return float(model.predict([(a, b)], show_progress_bar=False)[0])

    pool = list(dict.fromkeys(p for _, p in pairs))
    near = cosines(checkpoint, [a for a, _ in pairs], pool)
    got = read_table(out).to_pylist() if suffix == "parquet" else list(map(json.loads, out.read_text().splitlines()))
    dropped = 0
    for (anchor, positive), cosine, row in zip(pairs, near, got, strict=True):
        same = {key(p) for a, p in pairs if key(a) == key(anchor)} | {key(anchor)}
        want, own = [], score(anchor, positive)
        for i in np.argsort(-cosine):
            if key(pool[i]) in same or len(want) == 3:
                continue
            if score(anchor, pool[i]) <= own - margin:
                want.append(pool[i])
            else:
                dropped += 1
        assert [row[f"negative_{i}"] for i in (1, 2, 3) if row.get(f"negative_{i}") is not None] == want
        assert row["positive_score"] == pytest.approx(own, abs=1e-6)
        scores = [row[f"negative_{i}_score"] for i in range(1, len(want) + 1)]
        assert scores == pytest.approx([score(anchor, text) for text in want], abs=1e-6)
        assert row.get(f"negative_{len(want) + 1}_score") is None
    about = json.loads((tmp_path / "mined.json").read_text())
    assert about["counts"]["reranker"] >= dropped > 0
    assert about["reranker"]["margin"] == margin
    assert len(about["reranker"]["sha256"]) == 64
    assert len(Triplets(str(out))) == len(pairs)  # its columns are recognized


def mine_in_parts(rank, arguments, cache):
    """Mine with parts so small that each process has several; the number of texts that this process encoded."""
    import torch

    from cse.encoder.model import Encoder

    torch.set_num_threads(1)
    real, encoded = Encoder.encode_read, []

    def encode(self, read, **options):
        encoded.append(read.texts)
        return real(self, read, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSE_CACHE", cache)
        patch.setattr("cse.encoder.job.CHUNK", 5)
        patch.setattr("cse.mining.command.CHUNK", 3)
        patch.setattr(Encoder, "encode_read", encode)
        return cli.main(["mine", *arguments]), sum(encoded)


def test_two_processes_write_the_file_of_one(checkpoint, rows, save_reranker, tmp_path, two_processes):
    import torch

    judge = ["--reranker", save_reranker(), "--scores", "--teacher", checkpoint, "--teacher-positive"]
    options = [checkpoint, "--data", rows[0], "--columns", "a", "p", *judge, "--k", "2", "--precision", "fp32"]
    found, before = {}, torch.get_num_threads()
    for number in (1, 2):
        out, cache = tmp_path / str(number) / "mined.jsonl", str(tmp_path / f"cache{number}")
        out.parent.mkdir()
        arguments = [*options, "--out", str(out)]
        call = two_processes if number == 2 else lambda work, *given: [work(0, *given)]
        try:
            done = call(mine_in_parts, arguments, cache)
        finally:
            torch.set_num_threads(before)
        files = [*out.parent.glob("mined.*"), *(tmp_path / f"cache{number}" / "vectors").glob("*.npy")]
        found[number] = {path.name: path.read_bytes() for path in files}
        assert [code for code, _ in done] == [0] * number
        assert sum(count for _, count in done) == len({text for pair in rows[1] for text in pair})
        assert max(count for _, count in done) <= {1: 39, 2: 20}[number]
    assert found[1] == found[2]
    assert len(found[1]) == 3


def test_a_process_that_fails_stops_the_mining_of_all(checkpoint, rows, tmp_path, two_processes):
    arguments = [checkpoint, "--data", rows[0], "--columns", "a", "p", "--out", str(tmp_path / "mined.jsonl")]
    assert two_processes(mine_where_one_fails, arguments) == [2, 2]
    assert not list(tmp_path.glob("*mined*"))


def mine_where_one_fails(rank, arguments):
    from cse.errors import UserError
    from cse.mining import command

    def mine(*_):
        if rank:
            raise UserError("the disk of this process is full\nfix: free some space")
        return real(*_)

    real = command.search_block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cse.mining.command.CHUNK", 3)
        patch.setattr(command, "search_block", mine)
        return cli.main(["mine", *arguments])
