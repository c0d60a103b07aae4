"""`cse bench-model`: its numbers are those of independent computations, and what there is not says why."""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import cse
from cse import Encoder, Lora, SoftPrompts, UserError, cli, push, static_checkpoint
from cse.encoder.heads import Normalize
from cse.evaluation import benchmark, speed
from cse.evaluation.reports.table import at_width, show
from cse.inference.variants import megabytes, variants
from cse.publish.card import write_card
from cse.publish.stage import stage
from tests.conftest import WORDS
from tests.encoder.helpers import learn

TASK = "STSB-dev"
DRAWN = random.Random(1)
TEXTS = [" ".join(DRAWN.sample(WORDS, 3 + i % 5)) for i in range(80)]
GOLD = [i / 8 for i in range(40)]
FIRST, SECOND = TEXTS[:40], TEXTS[:39:-1]
NAMES = ["full", "8 dimensions", "3 dimensions", "int8 vectors", "binary vectors"]
NAMES += ["1 of 2 layers", "static"]


@pytest.fixture(scope="module")
def place(tiny_bert, tmp_path_factory):
    """A folder with a run, STS rows and texts."""
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(1)
    encoder = Encoder(tiny_bert, pooler="mean")
    for parameter in (p for p in encoder.backbone.encoder.parameters() if p.dim() > 1):
        torch.nn.init.normal_(parameter, std=0.5)  # so that a layer changes something
    encoder.append(Normalize())
    encoder.save(folder / "best")
    (folder / "best" / "LICENSE").write_text("Apache License, Version 2.0\n")
    (folder / "metrics.jsonl").write_text("")
    (folder / "sts" / "STSB").mkdir(parents=True)
    lines = "".join(f"{gold}\t{a}\t{b}\n" for gold, a, b in zip(GOLD, FIRST, SECOND, strict=True))
    (folder / "sts" / "STSB" / "dev.tsv").write_text(f"score\tsentence1\tsentence2\n{lines}")
    (folder / "texts.txt").write_text("\n".join(TEXTS[10:60]))
    return folder


def command_of(place, *more):
    data = ["--tasks", TASK, "--data", str(place / "sts"), "--unchecked", "--texts", str(place / "texts.txt")]
    return ["bench-model", str(place / "best"), *data, "--seconds", "0.01", "--precision", "fp32", *more]


@pytest.fixture(scope="module")
def rows(place):
    """The rows of the file that the command writes into the run."""
    wanted = ["--variants", "static,layers,binary,int8,widths", "--widths", "3,8"]
    assert cli.main(command_of(place, *wanted)) == 0
    found = benchmark.read(place / "bench-model.json")
    return {row["name"]: row for row in found["rows"]}


def rho(similarity) -> float:
    return 100 * spearmanr(similarity, GOLD).statistic


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def test_there_is_a_row_for_each_variant(rows):
    assert list(rows) == NAMES
    for row in rows.values():
        assert row["note"] == "" or row["name"] == "static"
        assert row["average"] == row["scores"][TASK]
        assert row["sentences_per_s"] > 0
    assert rows["full"]["times_as_fast"] == 1
    assert all(rows[name]["times_as_fast"] < 1 for name in NAMES[1:5])  # they take the time of their change, too


def test_scores_of_reduced_vectors_by_hand(place, rows):
    encoder = Encoder.load(str(place / "best"))
    a, b = encoder.encode(FIRST), encoder.encode(SECOND)
    score = {name: row["scores"][TASK] for name, row in rows.items()}
    assert score["full"] == pytest.approx(rho(cosine(a, b)), abs=1e-3)
    for width in (8, 3):
        assert score[f"{width} dimensions"] == pytest.approx(rho(cosine(a[:, :width], b[:, :width])), abs=1e-3)
    hamming = ((a > 0) != (b > 0)).sum(1)
    assert score["binary vectors"] == pytest.approx(rho(-hamming), abs=1e-9)
    measured = encoder.encode(TEXTS[10:60])
    low, high = measured.min(0), measured.max(0)
    steps = (high - low) / 255
    middles = [low + (np.floor((v - low) / steps).clip(0, 255) + 0.5) * steps for v in (a, b)]
    assert score["int8 vectors"] == pytest.approx(rho(cosine(*middles)), abs=0.1)


def test_scores_of_other_models(place, rows, tmp_path):
    Encoder(str(place / "best"), layers=1).save(tmp_path / "1 of 2 layers")
    static_checkpoint(str(place / "best"), tmp_path / "static", data=str(place / "texts.txt"))
    for name in ("1 of 2 layers", "static"):
        a, b = (Encoder.load(str(tmp_path / name)).encode(texts) for texts in (FIRST, SECOND))
        assert rows[name]["scores"][TASK] == pytest.approx(rho(cosine(a, b)), abs=0.1)
        assert abs(rows[name]["scores"][TASK] - rows["full"]["scores"][TASK]) > 1  # it is another model


def test_sizes_by_hand(place, rows):
    files = [path for path in (place / "best").rglob("*") if path.is_file()]
    needed = [path.stat().st_size for path in files if path.name not in ("checkpoint.sha256", "LICENSE")]
    assert rows["full"]["megabytes"] == pytest.approx(sum(needed) / 1e6)
    assert {rows[name]["megabytes"] for name in NAMES[:5]} == {rows["full"]["megabytes"]}
    assert rows["1 of 2 layers"]["megabytes"] < rows["full"]["megabytes"]
    a_million = [rows[name]["megabytes_per_million"] for name in NAMES]
    assert a_million == [64, 32, 12, 16, 2, 64, 64]  # 16 dimensions of 4 bytes, 1 byte and 1 bit


@pytest.mark.slow
def test_exported_graphs(place):
    pytest.importorskip("onnxruntime")
    found = cse.bench_model(place / "best", **given(place, variants=["onnx", "onnx-int8"], precision="fp32"))
    full, whole, small = found.rows
    assert [whole.name, small.name] == ["ONNX", "ONNX int8"]
    assert whole.scores[TASK] == pytest.approx(full.scores[TASK], abs=0.1)
    assert small.scores[TASK] != whole.scores[TASK]
    assert small.megabytes < whole.megabytes
    assert small.sentences_per_s > 0


def test_weights_are_counted_once_and_with_the_backbone(tiny_bert, place, tmp_path):
    shutil.copytree(place / "best", tmp_path / "both")
    shutil.copyfile(tmp_path / "both" / "model.safetensors", tmp_path / "both" / "pytorch_model.bin")
    assert megabytes(tmp_path / "both") == megabytes(place / "best")
    Encoder(tiny_bert, adapter=Lora(rank=2)).save(tmp_path / "last", whole=False)
    adapter = (tmp_path / "last" / "adapter" / "adapter_model.safetensors").stat().st_size / 1e6
    assert megabytes(tmp_path / "last") > megabytes(Path(tiny_bert)) + adapter


def test_a_cut_of_an_adapter_is_that_of_the_merged_model(tiny_bert, tmp_path):
    encoder = learn(Encoder(tiny_bert, adapter=Lora(rank=2), pooler="mean", max_length=9), std=0.5).eval()
    encoder.save(tmp_path / "last", whole=False)
    last = Encoder.load(str(tmp_path / "last"))
    (one,) = variants(tmp_path / "last", last, ["layers"], layers=[1], ranks=None, device="cpu")
    one.build(tmp_path / "cut")
    cut = Encoder.load(str(tmp_path / "cut"))
    assert (cut.depth, cut.pooler, cut.max_length) == (1, "mean", 9)
    rows = encoder.pad(encoder.tokenize(TEXTS[:5]))
    with torch.no_grad():
        (want,) = encoder.layer_embeddings(*rows, layers=[1])
    assert np.abs(cut.encode(TEXTS[:5]) - want.embedding.numpy()).max() < 1e-5


def whys(found) -> dict[str, str]:
    return {row.name: row.note for row in found.rows if not row.scores}


def given(place, **more):
    quick = {"data": str(place / "sts"), "check": False, "seconds": 0.01, "texts": place / "texts.txt"}
    return {"tasks": TASK, **quick, **more}


def test_what_a_checkpoint_cannot_have_says_why(place, tiny_bert, tmp_path, monkeypatch):
    static_checkpoint(str(place / "best"), tmp_path / "static")
    found = cse.bench_model(tmp_path / "static", **given(place))  # ONNX and all
    reason = "only a transformer that cse loads has it"
    assert whys(found) == dict.fromkeys(["ONNX", "ONNX int8", "fewer layers", "static"], reason)
    assert found.rows[0].sentences_per_s > 0
    Encoder(tiny_bert, adapter=SoftPrompts(length=3)).save(tmp_path / "soft")
    found = cse.bench_model(tmp_path / "soft", **given(place, variants=["layers"]))
    assert whys(found) == {"1 of 2 layers": "soft prompts belong to all layers"}
    Encoder(tiny_bert, layers=1).save(tmp_path / "flat")
    found = cse.bench_model(tmp_path / "flat", **given(place, variants=["layers"]))
    assert whys(found) == {"fewer layers": "it has one layer"}
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = cse.bench_model(place / "best", **given(place, variants=["onnx"], out=tmp_path / "x.json"))
    assert whys(found)["ONNX"].startswith("cse export needs onnx (")


def test_a_width_and_a_code_that_make_all_pairs_alike_are_rows_with_a_reason(tiny_bert, place, tmp_path, capsys):
    torch.manual_seed(2)
    encoder = Encoder(tiny_bert, pooler="mean")
    encoder.backbone.encoder.layer[-1].output.LayerNorm.bias.data += 10  # so that every number of a vector is positive
    encoder.save(tmp_path / "best")
    (tmp_path / "metrics.jsonl").write_text("")
    found = cse.bench_model(tmp_path / "best", **given(place, variants=["widths", "binary"], widths=[8, 1]))
    reason = f"{TASK}, subset dev: the model gives all 40 pairs the same similarity, 1, so no correlation is defined"
    assert whys(found) == {"1 dimensions": reason, "binary vectors": reason}
    assert all(row.average is None and row.sentences_per_s > 0 for row in found.rows if not row.scores)
    scored = cse.evaluate(tmp_path / "best", TASK, data=str(place / "sts"), check=False, dimensions=[1])
    show(scored.results)
    assert f"1 dimensions have no score: {reason}" in capsys.readouterr().out.replace("\n", "")
    assert scored.by_width[1] == {}
    assert at_width(scored.results, 1) is None


def test_the_embedded_model(place):
    found = cse.bench_model("asset:mini", **given(place, variants=["widths", "int8", "layers"]))
    names = ["full", *(f"{n} dimensions" for n in (128, 64, 32)), "int8 vectors", "2 of 4 layers", "1 of 4 layers"]
    assert [row.name for row in found.rows] == names
    assert found.about["ranges"] == {"from": "texts.txt", "n": 50}


def test_ranges_that_lie_in_the_folder_are_used(place, tmp_path):
    shutil.copytree(place / "best", tmp_path / "best")
    command = ["encode", str(tmp_path / "best"), str(place / "texts.txt"), "--out", str(tmp_path / "v.npy")]
    assert cli.main([*command, "--quantize", "int8"]) == 0
    found = cse.bench_model(tmp_path / "best", **given(place, variants=["int8"]))
    assert found.about["ranges"] == {"from": "quantization.json", "n": 50}
    assert not (tmp_path / "bench-model.json").exists()  # the folder does not belong to a run


def test_what_the_command_scores_without_tasks(place, monkeypatch, capsys):
    asked = []

    def stop(tasks, **_):
        asked.append(tasks)
        raise UserError("enough\nfix: none")

    monkeypatch.setattr("cse.evaluation.benchmark.bench_model", stop)
    (place / "rows.tsv").write_text("sentence1\tsentence2\tscore\na cat\ta dog\t0.5\nthe sun\tthe moon\t0.1\n")
    for more in ([], ["--data", str(place / "sts")], ["--data", str(place / "rows.tsv")], ["--tasks", "STS12"]):
        assert cli.main(["bench-model", str(place / "best"), *more]) == 2
    assert asked[0:2] == ["sts-mini", "sts-mini,sts"]
    assert [asked[2][0], type(asked[2][1]).__name__, asked[3]] == ["sts-mini", "Similarity", "STS12"]


def test_ctrl_c_leaves_the_earlier_table(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "out.json"
    out.write_text("earlier")

    def interrupt(*_):
        assert list(tmp_path.glob("cse-bench-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "measure", interrupt)
    assert cli.main(command_of(place, "--variants", "layers", "--out", str(out))) == 130
    assert "the table of an earlier run is as it was" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert out.read_text() == "earlier"


def test_speed_by_a_clock_of_our_own():
    """Three rounds by pencil: seconds per text, medians, and ratios within a round."""
    now, calls = [0.0], {"a": 0, "b": 0}
    seconds = {"a": [1, 2, 4], "b": [1, 1, 8]}  # per text, by round; a first call warms up

    def encoder(name):
        def encode(texts):
            now[0] += len(texts) * ([1, *seconds[name]][calls[name]])
            calls[name] += 1
            return np.zeros((len(texts), 2))

        return encode

    def change(vectors):
        now[0] += 2 * len(vectors)
        return vectors

    found = speed.measure({"a": encoder("a"), "b": encoder("b")}, {"c": change}, ["x", "y"], 3, lambda: now[0])
    assert found["a"] == speed.Speed(1 / 2, 1)
    assert found["b"] == speed.Speed(1, 1)  # ratios 1, 2 and 1/2
    assert found["c"] == speed.Speed(1 / 4, 1 / 2)  # 3, 4 and 6 seconds per text; ratios 1/3, 1/2 and 2/3


# The card
def published(place, tmp_path):
    """A run with a table, made by hand, of its own model."""
    run = tmp_path / "run"
    shutil.copytree(place / "best", run / "best")
    (run / "metrics.jsonl").write_text("")
    found = cse.bench_model(run / "best", **given(place, variants=["binary"]))
    rows = [benchmark.Measured("full", {TASK: 81.234}, 81.234, 90.26, 1536, 110.4, 1.0)]
    rows.append(benchmark.Measured("ONNX", note="no onnx | here"))
    content = benchmark.Benchmark(rows, found.about).as_dict()
    (run / "bench-model.json").write_text(json.dumps(content))
    return run


def test_the_card_has_the_table(place, tmp_path):
    run = published(place, tmp_path)
    stage(run / "best", tmp_path / "staged")
    bench = run / "bench-model.json"
    options = {"run": None, "results": None, "license": "mit", "previous": None}
    write_card(tmp_path / "staged", "me/x", **options, bench=bench)
    text = (tmp_path / "staged" / "README.md").read_text()
    assert "### Smaller and faster" in text
    assert f"| variant | {TASK} | MB | MB of a million vectors | sentences/s | times as fast | note |" in text
    assert "| full | 81.23 | 90.3 | 1,536 | 110 | 1.00 |  |" in text
    assert "| ONNX | - | - | - | - | - | no onnx \\| here |" in text
    assert "Scores are Spearman × 100. Speed: cpu, " in text
    assert str(tmp_path) not in text
    write_card(tmp_path / "staged", "me/x", **options)
    assert "Smaller and faster" not in (tmp_path / "staged" / "README.md").read_text()


def test_push_takes_the_table_of_the_same_model(place, tmp_path):
    run = published(place, tmp_path)
    content = json.loads((run / "bench-model.json").read_text())
    (run / "bench-model.json").write_text("{")
    with pytest.raises(UserError, match=r"bench-model.json cannot be read as a benchmark.*\nfix: "):
        push(run / "best", "me/x", license="mit", dry_run=True)
    content["model"]["sha256"] = "0" * 64
    (run / "bench-model.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"holds the scores of a model other than .*\nfix: run `cse bench-model"):
        push(run / "best", "me/x", license="mit", dry_run=True)
