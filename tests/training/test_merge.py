"""The average of weights: with the initial ones in a run and after it, of checkpoints by command, and its refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cse import Encoder, Lora, SoftPrompts, Trainer, cli
from cse.encoder.checkpoint.sums import check_sums
from cse.encoder.heads import Dense
from cse.training.merge import average, combine, merge_with_initial
from tests.cases import cases, load
from tests.refusals import refuses
from tests.runs import Dies, Spread, assert_same, fitted, make_run, metrics, weights


def moved(encoder, seed=3):
    """Change every weight, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for weight in encoder.parameters():
        weight.data += torch.randn(weight.shape, generator=generator)


@pytest.fixture
def pair(tiny_bert, tmp_path):
    """The folders of an encoder with an exported Dense, before and after its weights moved."""
    encoder = Encoder(tiny_bert, pooler="mean")
    encoder.append(Dense(16, 8))
    encoder.save(tmp_path / "initial")
    moved(encoder)
    encoder.save(tmp_path / "last")
    return tmp_path / "initial", tmp_path / "last"


@pytest.mark.parametrize("name", cases("pearl", "weight_average", has=()))
def test_the_authors_average(name):
    _, data = load("pearl", name)
    torch.testing.assert_close(average(data["initial_w"], data["trained_w"], 0.5), data["mean_w"])


def tensors(folder):
    return {
        f"{path.relative_to(folder)}:{name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_every_weight_is_the_mean_by_arithmetic(pair, tmp_path, share):
    initial, last = pair
    merge_with_initial(initial, last, tmp_path / "merged", share)
    a, b, found = tensors(initial), tensors(last), tensors(tmp_path / "merged")
    assert found.keys() == a.keys() == b.keys()
    assert any("Dense" in name for name in found)
    for name, value in found.items():
        if share in (0.0, 1.0):
            assert torch.equal(value, (a if share == 0 else b)[name])
        want = (1 - share) * a[name].double() + share * b[name].double()
        torch.testing.assert_close(value.double(), want, rtol=1e-6, atol=1e-6)
    check_sums(tmp_path / "merged")
    assert Encoder.load(str(tmp_path / "merged")).encode(["the cat sat"]).shape == (1, 8)


def test_integers_are_those_of_the_trained_weights_and_types_stay():
    assert torch.equal(average(torch.tensor([1, 2]), torch.tensor([3, 8]), 0.5), torch.tensor([3, 8]))
    half = average(torch.tensor([1.0]).bfloat16(), torch.tensor([2.0]).bfloat16(), 0.5)
    assert half.dtype == torch.bfloat16
    assert half.item() == 1.5


def test_lora_gets_a_share_of_its_difference(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, pooler="mean", adapter=Lora(rank=2, alpha=6, targets=["query"]))
    encoder.save(tmp_path / "initial")
    for name, weight in encoder.named_parameters():
        if "lora_" in name:
            weight.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    encoder.save(tmp_path / "last")
    merge_with_initial(tmp_path / "initial", tmp_path / "last", tmp_path / "merged", 0.25)
    name = "encoder.layer.1.attention.self.query"
    adapter = load_file(tmp_path / "last" / "adapter" / "adapter_model.safetensors")
    low, high = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    start = load_file(tmp_path / "initial" / "model.safetensors")[f"{name}.weight"]
    want = start + 0.25 * (6 / 2) * high @ low
    torch.testing.assert_close(load_file(tmp_path / "merged" / "model.safetensors")[f"{name}.weight"], want)
    about = json.loads((tmp_path / "merged" / "adapter" / "adapter_config.json").read_text())
    assert about["lora_alpha"] == 0.25 * 6
    kept = load_file(tmp_path / "merged" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in adapter.items())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"adapter": SoftPrompts(length=2)}, "soft prompts"),
        ({"adapter": Lora(kind="dora")}, "kind=dora"),
        ({"head": "mlp", "export_head": True}, "exported head"),
    ],
)
def test_what_starts_at_random_is_refused_before_anything_is_written(tiny_bert, tmp_path, arguments, what):
    encoder = Encoder(tiny_bert, **arguments)
    for wish in (0.5, "mean"):
        run = make_run(tmp_path, tiny_bert, encoder=encoder, initial_weights=wish)
        refuses(f"(?s)trainer.initial_weights.*{what}.*fix: ", Trainer, run)
        assert not run.folder.exists()


def test_a_head_for_training_only_is_no_obstacle(tiny_bert, tmp_path):
    Trainer(make_run(tmp_path, tiny_bert, encoder=Encoder(tiny_bert, head="mlp"), initial_weights=0.5))


def test_slerp_walks_along_the_arc():
    """A third of the way from (2, 0) to (0, 2) is 30 degrees of the circle of radius 2."""
    found = combine([torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])], [2 / 3, 1 / 3], "slerp")
    torch.testing.assert_close(found, torch.tensor([3**0.5, 1.0]))
    along = combine([torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])], [0.5, 0.5], "slerp")
    torch.testing.assert_close(along, torch.tensor([2.0, 2.0]))


def test_the_command_merges_and_scores(pair, tmp_path, capsys):
    """Three checkpoints of which one has no share are as two; the scores are where `cse push` looks for them."""
    (initial, last), out = pair, tmp_path / "mean"
    assert cli.main(["merge", f"{last}", f"{initial}", f"{last}", "--weights", "0", "1", "3", "--out", str(out)]) == 0
    a, b, found = tensors(initial), tensors(last), tensors(out)
    for name, value in found.items():
        torch.testing.assert_close(value, 0.25 * a[name] + 0.75 * b[name])
    assert json.loads((out / "results.json").read_text())["average"]["value"] is not None
    assert capsys.readouterr().out.count("scored ") == 3


# The mean in a run: scored as it is exported, and exact after a resumption
def build(backbone, kind="whole"):
    torch.manual_seed(3)
    return Encoder(backbone, adapter=Lora(rank=2, alpha=6, targets=["query"]) if kind == "lora" else None)


def fit(folder, encoder, **options):
    return fitted(folder, "", encoder=encoder, **{"learning_rate": 1e-2, "initial_weights": "mean", **options})


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_every_weight_is_the_mean_and_what_is_scored_is_what_is_exported(pair, tmp_path, kind):
    start = str(pair[0])
    plain = fit(tmp_path / "plain", build(start, kind), initial_weights="auto")
    encoder = build(start, kind)
    mean = fit(tmp_path / "mean", encoder)
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
    for name, dev in (("last", log[-1]["dev"]), ("best", max(line["dev"] for line in log))):
        assert dev == pytest.approx(Spread()(Encoder.load(str(mean.folder / name)))["spread"], rel=1e-5)
    assert log[-1]["dev"] != pytest.approx(raw[-1]["dev"], rel=1e-2)
    if kind == "lora":
        about = json.loads((mean.folder / "last" / "adapter" / "adapter_config.json").read_text())
        assert about["lora_alpha"] == 3
    own = Encoder.load(str(plain.folder / "last")).encode(["the cat"])  # the encoder itself is as it was trained
    assert encoder.eval().encode(["the cat"]) == pytest.approx(own, abs=1e-5)


def test_without_an_evaluator_best_is_the_mean_as_well(tiny_bert, tmp_path):
    run = fit(tmp_path, Encoder(tiny_bert), evaluator=False)
    assert weights(run.folder / "best") == weights(run.folder / "last")


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_a_killed_run_resumes_exactly_also_with_the_encoder_that_was_in_memory(tiny_bert, tmp_path, kind):
    whole = fit(tmp_path / "whole", build(tiny_bert, kind))
    encoder = build(tiny_bert, kind)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "killed", encoder, callbacks=[Dies(5)])
    assert_same(fit(tmp_path / "killed", encoder, resume=True).folder, whole.folder)


def test_a_lora_that_was_trained_before_is_refused(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, adapter=Lora(rank=2))
    fit(tmp_path / "first", encoder, initial_weights="auto")
    refuses(r"(?s)trainer.initial_weights.*LoRA.*trained before.*fix: ", fit, tmp_path / "second", encoder)
    assert not (tmp_path / "second" / "run").exists()
