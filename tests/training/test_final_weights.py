"""The mean with the initial weights: by arithmetic, scored as it is exported, and exact after a resumption."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cse import cli
from cse.encoder.adapters.lora import Lora
from cse.encoder.heads import Dense
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.training.merge import average
from cse.training.trainer import Trainer
from tests.cases import cases, load
from tests.runs import NO_DROPOUT, Dies, Spread, assert_same, make_run, metrics, weights, write_recipe, write_triplets


@pytest.mark.parametrize("name", cases("pearl", "weight_average", has=()))
def test_the_authors_average(name):
    _, data = load("pearl", name)
    torch.testing.assert_close(average(data["initial_w"], data["trained_w"], 0.5), data["mean_w"])


def with_dense(folder, backbone) -> str:
    """A checkpoint with an exported Dense, which is trained too."""
    encoder = Encoder(backbone, pooler="mean")
    encoder.append(Dense(16, 8))
    encoder.save(folder)
    return str(folder)


def build(backbone, kind="whole"):
    torch.manual_seed(3)
    return Encoder(backbone, adapter=Lora(rank=2, alpha=6, targets=["query"]) if kind == "lora" else None)


def command(rank, *arguments):
    return cli.main(list(arguments))


def fit(folder, encoder, **trainer):
    resume = trainer.pop("resume", False)
    callbacks = trainer.pop("callbacks", ())
    run = make_run(folder, "", encoder=encoder, **{"learning_rate": 1e-2, **trainer})
    run.callbacks = list(callbacks)
    return Trainer(run).fit(resume=resume)


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_every_weight_is_the_mean_and_what_is_scored_is_what_is_exported(tiny_bert, tmp_path, kind):
    start = with_dense(tmp_path / "start", tiny_bert)
    plain = fit(tmp_path / "plain", build(start, kind))
    encoder = build(start, kind)
    mean = fit(tmp_path / "mean", encoder, initial_weights="mean")
    for run in (plain, mean):  # last/ of a LoRA run is its adapter
        Encoder.load(str(run.folder / "last")).save(run.folder / "whole")
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        a, b = load_file(f"{start}/{name}"), load_file(plain.folder / "whole" / name)
        found = load_file(mean.folder / "whole" / name)
        assert found.keys() == b.keys()
        assert any(not torch.equal(a[key], b[key]) for key in b)
        for key, value in found.items():
            want = (a[key].double() + b[key].double()) / 2
            torch.testing.assert_close(value.double(), want, rtol=1e-6, atol=1e-6)
    log, raw = metrics(mean.folder), metrics(plain.folder)
    assert [line.get("loss") for line in log] == [line.get("loss") for line in raw]  # training is the same
    assert log[0]["dev"] == raw[0]["dev"]
    assert log[-1]["dev"] == pytest.approx(Spread()(Encoder.load(str(mean.folder / "last")))["spread"], rel=1e-5)
    best = max(line["dev"] for line in log)
    assert best == pytest.approx(Spread()(Encoder.load(str(mean.folder / "best")))["spread"], rel=1e-5)
    assert log[-1]["dev"] != pytest.approx(raw[-1]["dev"], rel=1e-2)
    if kind == "lora":
        about = json.loads((mean.folder / "last" / "adapter" / "adapter_config.json").read_text())
        assert about["lora_alpha"] == 3
    assert torch.allclose(  # the encoder itself still has the weights that are trained
        torch.from_numpy(encoder.eval().encode(["the cat"])),
        torch.from_numpy(Encoder.load(str(plain.folder / "last")).encode(["the cat"])),
        atol=1e-5,
    )


def test_without_an_evaluator_best_is_the_mean_as_well(tiny_bert, tmp_path):
    run = fit(tmp_path, Encoder(tiny_bert), evaluator=False, initial_weights="mean")
    assert weights(run.folder / "best") == weights(run.folder / "last")


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_a_killed_run_resumes_exactly_also_with_the_encoder_that_was_in_memory(tiny_bert, tmp_path, kind):
    options = {"initial_weights": "mean"}
    whole = fit(tmp_path / "whole", build(tiny_bert, kind), **options)
    encoder = build(tiny_bert, kind)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "killed", encoder, callbacks=[Dies(5)], **options)
    again = fit(tmp_path / "killed", encoder, resume=True, **options)
    assert_same(again.folder, whole.folder)


def test_two_processes_average_as_one(two_processes, tiny_bert, tmp_path):
    data = {"path": str(write_triplets(tmp_path))}
    trainer = {"initial_weights": "mean", "max_steps": 2}
    recipe = write_recipe(tmp_path, "Triplets", data, {"backbone": tiny_bert, **NO_DROPOUT}, trainer=trainer)
    assert command(0, "train", recipe, "--run-dir", str(tmp_path / "one")) == 0
    assert two_processes(command, "train", recipe, "--run-dir", str(tmp_path / "two")) == [0, 0]
    one, two = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], atol=1e-5, rtol=1e-5)
    first, last = metrics(tmp_path / "two")
    assert abs(last["dev"] - first["dev"]) > 1e-3  # it did train


def test_a_lora_that_was_trained_before_is_refused(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, adapter=Lora(rank=2))
    fit(tmp_path / "first", encoder)
    with pytest.raises(UserError, match=r"(?s)trainer.initial_weights.*LoRA.*trained before.*fix: "):
        fit(tmp_path / "second", encoder, initial_weights="mean")
    assert not (tmp_path / "second" / "run").exists()
