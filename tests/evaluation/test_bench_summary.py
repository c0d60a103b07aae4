import json

import pytest

from eval import bench


def test_ratios_are_medians_of_rounds():
    seconds = {"ours": [1, 2, 4], "mteb": [3, 4, 12], "senteval": [5, 5, 5], "ours bf16": [0.5, 1, 2]}
    scores = {"ours": {"T": 70.0}, "mteb": {"T": 70.01}, "senteval": {"T": 69.9}, "ours bf16": {"T": 70.0}}
    processor = {name: [2, 2, 2] for name in seconds} | {"mteb": [6, 7, 8], "ours": [3, 4, 4]}
    found = bench.summary(seconds, processor, scores, default="ours bf16")
    assert found["eval.speedup_mteb"] == 3
    assert found["eval.speedup_senteval"] == 2.5
    assert found["eval.speedup_bf16"] == 2
    assert found["eval.score_apart"]["senteval"] == pytest.approx(0.1)
    assert found["eval.default"] == {
        "precision": "bf16",
        "tasks": ["T"],
        "score_apart": pytest.approx(0.01),
        "speedups": [6, 4, 6],  # mteb in float32 against ours in bfloat16
        "processor_speedups": [3, 3.5, 4],
        "fp32_processor_speedups": [2, 1.75, 2],
    }
    plain = bench.summary(seconds, processor, scores, default="ours")["eval.default"]
    assert (plain["precision"], plain["speedups"]) == ("fp32", found["eval.speedups_mteb"])


def test_other_benchmarks_numbers_stay(tmp_path):
    out = tmp_path / "bench.json"
    out.write_text(json.dumps({"train.speedup": 2.0, "eval.speedup_mteb": 1.0}))
    bench.merge({"eval.speedup_mteb": 3.0}, out)
    assert json.loads(out.read_text()) == {"train.speedup": 2.0, "eval.speedup_mteb": 3.0}
