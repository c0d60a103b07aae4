"""`cse.encode_dataset`: a stage of Ray Data gives the vectors that the encoder gives."""

import numpy as np
import pytest

import cse
from cse.encoder.model import Encoder
from cse.errors import UserError
from tests.inference.helpers import lines


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray.data", None)
    with pytest.raises(UserError, match=r"(?s)cse.encode_dataset needs ray.*fix: pip install 'cse-embeddings\[ray\]'"):
        cse.encode_dataset(None, "asset:mini")


@pytest.mark.slow
def test_a_stage_of_two_processes(tiny_bert, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        texts = lines(300)
        rows = ray.data.from_items([{"id": i, "text": text or None} for i, text in enumerate(texts)])
        found = cse.encode_dataset(
            rows, tiny_bert, processes=2, batch_rows=64, precision="fp32", normalize=True, dimensions=5
        )
        found.write_parquet(str(tmp_path / "vectors"))
        table = sorted(ray.data.read_parquet(str(tmp_path / "vectors")).take_all(), key=lambda row: row["id"])
        want = Encoder.load(tiny_bert).encode(texts)[:, :5].astype(np.float64)
        want /= np.linalg.norm(want, axis=1, keepdims=True)
        assert [row["id"] for row in table] == list(range(300))
        np.testing.assert_allclose(np.stack([row["vector"] for row in table]), want, atol=1e-5)
        for options, named in (
            ({"column": "words"}, "column is 'words', and the columns are id, text"),
            ({"into": "id"}, "into is 'id'"),
            ({"processes": 0}, "processes is 0"),
        ):
            with pytest.raises(UserError, match=named):
                cse.encode_dataset(rows, tiny_bert, **options)
        with pytest.raises(UserError, match="ds is a list"):
            cse.encode_dataset(texts, tiny_bert)
    finally:
        ray.shutdown()
