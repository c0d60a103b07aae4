"""`trainer.parallel: fsdp`: every process has a share of every weight, and the numbers are those of one process."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from cse import Encoder, Settings, UserError, cli, distributed
from cse.training import fsdp, hardware, preflight
from cse.training.learner import Learner
from tests.objectives import contract
from tests.runs import (
    MASKED,
    NO_DROPOUT,
    assert_same,
    command,
    make_run,
    triplets_recipe,
    write_recipe,
    write_texts,
    write_triplets,
)
from tests.training.helpers import assert_near, trained_by

FSDP = "--trainer.parallel=fsdp"

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
    one = trained_by(None, recipe, tmp_path / "one")
    want = checkpoint(one / "last")
    for parallel in ("ddp", "fsdp"):
        run = trained_by(two_processes, recipe, tmp_path / parallel, f"--trainer.parallel={parallel}")
        assert_near(run, one)
        got = checkpoint(run / "last")
        assert got.keys() == want.keys()
        assert max(float((got[n] - want[n]).abs().max()) for n in want) < (1e-4 if "optimizer" in trainer else 1e-6)
        assert checkpoint(run / "best").keys() == checkpoint(one / "best").keys()  # of LoRA, a whole model


@pytest.mark.slow
def test_a_plain_backbone_has_its_whole_head(two_processes, tiny_bert, tmp_path):
    """Masked language modeling, whose checkpoints hold a head that is shared out with the weights of the encoder."""
    parts = {"objective": {"class_path": "cse.objectives.masked_lm.MaskedLM"}, "collator": MASKED, "evaluator": None}
    data, encoder = {"path": str(write_texts(tmp_path))}, {"backbone": tiny_bert, **NO_DROPOUT}
    trainer = {"max_steps": 3, "learning_rate": 1e-4}
    recipe = write_recipe(tmp_path, "Texts", data, encoder, trainer=trainer, **parts)
    one = trained_by(None, recipe, tmp_path / "one")
    two = trained_by(two_processes, recipe, tmp_path / "two", FSDP)
    want, got = (checkpoint(run / "best") for run in (one, two))
    assert "model.safetensors cls.predictions.transform.dense.weight" in want
    assert got.keys() == want.keys()
    assert max(float((got[name] - want[name]).abs().max()) for name in want) < 1e-6


def struck(processes, backbone: str, folder: Path, name: str) -> Path:
    """The folder of a run in shares that Ctrl-C ended in step 3."""
    recipe = triplets_recipe(folder, backbone, strikes={"step": 3, "marker": str(folder / f"{name}.sent")})
    return trained_by(processes, recipe, folder / name, FSDP, code=130)


def test_a_run_in_shares_resumes_on_as_many_processes_and_on_one(two_processes, tiny_bert, tmp_path):
    """Bit-identical on as many; on another number equal but for rounding. A damaged share is refused by all."""
    whole = trained_by(two_processes, triplets_recipe(tmp_path, tiny_bert), tmp_path / "whole", FSDP)
    cut, alone = (struck(two_processes, tiny_bert, tmp_path, name) for name in ("cut", "alone"))
    assert two_processes(command, "train", "--resume", str(cut)) == [0, 0]
    assert_same(cut, whole)
    share = next((alone / "state" / "shards").glob("__1_*"))
    content = share.read_bytes()
    share.write_bytes(content[:-1])
    assert two_processes(command, "train", "--resume", str(alone)) == [2, 2]
    share.write_bytes(content)
    assert cli.main(["train", "--resume", str(alone)]) == 0
    assert_near(alone, whole)


@pytest.mark.slow
def test_four_processes_resume_what_two_began(two_processes, four_processes, tiny_bert, tmp_path):
    one = trained_by(None, triplets_recipe(tmp_path, tiny_bert), tmp_path / "one")
    run = struck(two_processes, tiny_bert, tmp_path, "run")
    assert four_processes(command, "train", "--resume", str(run)) == [0] * 4
    assert_near(run, one)


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
