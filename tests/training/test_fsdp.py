"""`trainer.parallel: fsdp`: every process has a share of every weight, and the numbers are those of one process."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from cse import cli, distributed
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.recipe.settings import Settings
from cse.training import fsdp, hardware, preflight
from cse.training.learner import Learner
from tests.objectives import contract
from tests.runs import (
    NO_DROPOUT,
    command,
    make_run,
    metrics,
    triplets_recipe,
    weights,
    write_recipe,
    write_texts,
    write_triplets,
)

REFUSED = {
    "ConGraT": "objective.log_scale of ConGraT is a single number",
    "EuCLIP": "objective.log_scale of EuCLIP is a single number",
    "SGOPT": "objective SGOPT reads weights of the encoder's layers",
    "Symile": "objective.log_scale of Symile is a single number",
}
FAST = ("MaskedLM", "Momentum", "SGOPT", "Symile")  # weights used outside of layers; a copy that follows; refusals


def sharded(learner: Learner, encoder: Encoder) -> tuple[Accelerator, nn.Module]:
    """The learner in shares, and its accelerator."""
    plugin = fsdp.plugin(encoder)
    settings = Settings(device="cpu", precision="fp32", parallel="fsdp")
    accelerator = hardware.accelerator(settings, Path("unused"), plugin=plugin)
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    return accelerator, fsdp.prepare(accelerator, plugin, learner, [torch.optim.AdamW(trained)])[0]


def loss_and_gradients(rank: int, backbone: str, name: str) -> tuple[float, dict] | str:
    """An objective's loss on the rows of all processes and every weight's gradient; or why it is refused."""
    encoder, objective = contract.build(name, backbone)
    learner, each = Learner(encoder, objective), contract.ROWS // distributed.world_size()
    batch = contract.batch_of(name, encoder, slice(rank * each, (rank + 1) * each))
    ctx = contract.context(encoder, batch)
    try:
        _, model = sharded(learner, encoder)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        assert sum(p.to_local().numel() for p in model.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
        if name in REFUSED:
            preflight.rehearse(learner, batch, ctx, Settings(parallel="fsdp"))
    except UserError as error:
        return str(error)
    loss = model.train()(batch, ctx)[1].loss
    loss.backward()
    return loss.item(), {n: fsdp.whole(p.grad).numpy() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in sorted(contract.OBJECTIVES)]
)
def test_shares_have_the_gradient_of_one_process(name, two_processes, tiny_bert):
    found = two_processes(loss_and_gradients, tiny_bert, name)
    if name in REFUSED:
        assert all(REFUSED[name] in text for text in found)
        return
    want, gradient = contract.loss_and_gradients(0, tiny_bert, name)
    for loss, got in found:
        assert loss == pytest.approx(want, rel=1e-10)
        contract.assert_equal(got, gradient)


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{path.name} {n}": t for path in sorted(folder.rglob("*.safetensors")) for n, t in load_file(path).items()}


LORA = {"adapter": {"class_path": "cse.encoder.Lora", "init_args": {"rank": 2}}}


@pytest.mark.parametrize(
    ("encoder", "trainer"),
    [
        ({"head": "mlp", "export_head": True}, {"chunk_size": 2}),
        pytest.param({}, {"accumulation": 2, "optimizer": "muon"}, marks=pytest.mark.slow),
        pytest.param(LORA, {}, marks=pytest.mark.slow),
        pytest.param({**LORA, "head": "mlp"}, {"chunk_size": 2}, marks=pytest.mark.slow),
        pytest.param({"head": "mlp"}, {"gradient_checkpointing": True, "layer_decay": 0.9}, marks=pytest.mark.slow),
    ],
)
def test_a_run_in_shares_is_that_of_ddp_and_of_one_process(two_processes, tiny_bert, tmp_path, encoder, trainer):
    """Losses and scores to 1e-5 as in DDP's test, and weights to 1e-6 while steps are small."""
    parts = {"backbone": tiny_bert, **NO_DROPOUT, **encoder}
    more = {"max_steps": 4, "learning_rate": 1e-4, **trainer}
    recipe = write_recipe(tmp_path, "Triplets", {"path": str(write_triplets(tmp_path))}, parts, trainer=more)
    runs = {name: tmp_path / name for name in ("one", "ddp", "fsdp")}
    assert command(0, "train", recipe, "--run-dir", str(runs["one"])) == 0
    for parallel in ("ddp", "fsdp"):
        words = ["train", recipe, "--run-dir", str(runs[parallel]), f"--trainer.parallel={parallel}"]
        assert two_processes(command, *words) == [0, 0]
    want = checkpoint(runs["one"] / "last")
    for run in (runs["ddp"], runs["fsdp"]):
        for a, b in zip(metrics(runs["one"]), metrics(run), strict=True):
            assert [b[k] for k in a] == pytest.approx([a[k] for k in a], rel=1e-5)
        got = checkpoint(run / "last")
        assert got.keys() == want.keys()
        assert max(float((got[n] - want[n]).abs().max()) for n in want) < (1e-4 if "optimizer" in trainer else 1e-6)
        assert checkpoint(run / "best").keys() == checkpoint(runs["one"] / "best").keys()  # of LoRA, a whole model


@pytest.mark.slow
def test_a_plain_backbone_has_its_whole_head(two_processes, tiny_bert, tmp_path):
    """Masked language modeling, whose checkpoints hold a head that is shared out with the weights of the encoder."""
    masked = {"class_path": "cse.data.Masked", "init_args": {"probability": 0.4, "views": {
        "class_path": "cse.data.TextViews", "init_args": {"max_length": 12, "views": 1}}}}  # fmt: skip
    parts = {"objective": {"class_path": "cse.objectives.masked_lm.MaskedLM"}, "collator": masked, "evaluator": None}
    data, encoder = {"path": str(write_texts(tmp_path))}, {"backbone": tiny_bert, **NO_DROPOUT}
    trainer = {"max_steps": 3, "learning_rate": 1e-4}
    recipe = write_recipe(tmp_path, "Texts", data, encoder, trainer=trainer, **parts)
    assert command(0, "train", recipe, "--run-dir", str(tmp_path / "one")) == 0
    words = ["train", recipe, "--run-dir", str(tmp_path / "two"), "--trainer.parallel=fsdp"]
    assert two_processes(command, *words) == [0, 0]
    want, got = (checkpoint(tmp_path / run / "best") for run in ("one", "two"))
    assert "model.safetensors cls.predictions.transform.dense.weight" in want
    assert got.keys() == want.keys()
    assert max(float((got[name] - want[name]).abs().max()) for name in want) < 1e-6


def test_a_run_in_shares_resumes_on_as_many_processes_and_on_one(two_processes, tiny_bert, tmp_path):
    """Bit-identical on as many; on another number equal but for rounding. A damaged share is refused by all."""
    whole, cut, alone = tmp_path / "whole", tmp_path / "cut", tmp_path / "alone"
    option = "--trainer.parallel=fsdp"
    recipe = triplets_recipe(tmp_path, tiny_bert)
    assert two_processes(command, "train", recipe, option, "--run-dir", str(whole)) == [0, 0]
    for folder in (cut, alone):
        recipe = triplets_recipe(
            tmp_path, tiny_bert, strikes={"step": 3, "marker": str(tmp_path / folder.name) + ".sent"}
        )
        assert two_processes(command, "train", recipe, option, "--run-dir", str(folder)) == [130, 130]
    assert two_processes(command, "train", "--resume", str(cut)) == [0, 0]
    assert metrics(cut) == metrics(whole)
    assert weights(cut / "last") == weights(whole / "last")
    share = next((alone / "state" / "shards").glob("__1_*"))
    content = share.read_bytes()
    share.write_bytes(content[:-1])
    assert two_processes(command, "train", "--resume", str(alone)) == [2, 2]
    share.write_bytes(content)
    assert cli.main(["train", "--resume", str(alone)]) == 0
    for a, b in zip(metrics(whole), metrics(alone), strict=True):
        assert [b[k] for k in a] == pytest.approx([a[k] for k in a], rel=1e-5)


@pytest.mark.slow
def test_four_processes_resume_what_two_began(two_processes, four_processes, tiny_bert, tmp_path):
    one, run = tmp_path / "one", tmp_path / "run"
    assert command(0, "train", triplets_recipe(tmp_path, tiny_bert), "--run-dir", str(one)) == 0
    recipe = triplets_recipe(tmp_path, tiny_bert, strikes={"step": 3, "marker": str(tmp_path / "sent")})
    words = ["train", recipe, "--run-dir", str(run), "--trainer.parallel=fsdp"]
    assert two_processes(command, *words) == [130, 130]
    assert four_processes(command, "train", "--resume", str(run)) == [0] * 4
    for a, b in zip(metrics(one), metrics(run), strict=True):
        assert [b[k] for k in a] == pytest.approx([a[k] for k in a], rel=1e-5)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"chunk_tokens": 64}, "trainer.chunk_tokens would cut unequal numbers of chunks"),
        ({"optimizer": "adafactor"}, "trainer.optimizer is adafactor, which needs whole weights"),
        ({"initial_weights": "mean"}, "trainer.initial_weights is mean"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tiny_bert, tmp_path, trainer, message):
    run = make_run(tmp_path, tiny_bert, parallel="fsdp", **trainer)
    with pytest.raises(UserError, match=message):
        preflight.check(run)


@pytest.mark.parametrize("name", hardware.ENGINES)
def test_other_engines_are_refused_with_a_pointer(name, monkeypatch, tmp_path):
    monkeypatch.setenv(hardware.ENGINES[name], "true")
    with pytest.raises(UserError, match=f"asks for {name}.*\nfix: .*--trainer.parallel=fsdp"):
        hardware.accelerator(Settings(device="cpu"), tmp_path)
