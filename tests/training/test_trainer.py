"""The loop: what it leaves, that it resumes exactly, and that accumulation is what it says."""

import json
import math
import os
import threading
from pathlib import Path

import pytest
import torch

import cse
from cse import cli
from cse.data.loader import StepBatches
from cse.data.tokens import TokenStore
from cse.seeding import seed_dropout
from cse.training import hardware
from cse.training.checkpoint import MetricsLog
from cse.training.learner import Encoded, Learner, diagnostics
from tests.refusals import refuses
from tests.runs import (
    MASKED,
    Dies,
    Spread,
    assert_resumes,
    assert_same,
    fitted,
    make_run,
    metrics,
    weights,
    write_recipe,
    write_texts,
)


def test_a_run_leaves_what_it_says_and_is_not_trained_again(tiny_bert, tmp_path):
    run = fitted(tmp_path, tiny_bert)
    log = metrics(run.folder)
    assert [line["step"] for line in log] == [0, 2, 4, 6]
    assert {"loss", "dev", "pos_cos", "neg_cos", "align", "uniform", "grad_norm", "lr"} <= set(log[-1])
    assert run.progress.best == max(line["dev"] for line in log)
    for name, dev in (("best", run.progress.best), ("last", log[-1]["dev"])):
        assert run.evaluator(cse.Encoder.load(str(run.folder / name)))["spread"] == pytest.approx(dev, rel=1e-5)
    assert not list(run.folder.glob("*/2_Dense"))
    assert "head" in str(torch.load(run.folder / "state" / "state.pt", weights_only=True)["learner"].keys())
    progress = json.loads((run.folder / "state" / "state.json").read_text())["progress"]
    assert (progress["step"], progress["finished"]) == (6, True)
    before = weights(run.folder)
    fitted(tmp_path, tiny_bert, resume=True)
    assert weights(run.folder) == before


@pytest.mark.parametrize(
    ("save_every", "event", "step"),
    [
        *[(None, *moment) for moment in (("step", 3), ("eval", 4), ("eval", 0))],
        *[(3, *moment) for moment in (("step", 2), ("step", 5), ("eval", 4), ("end", 6))],  # apart from evaluations
    ],
)
def test_a_killed_run_resumes_bit_for_bit(tiny_bert, tmp_path, save_every, event, step):
    assert_resumes(lambda folder: make_run(folder, tiny_bert, save_every=save_every), tmp_path, Dies(step, event))


def test_training_continues_while_the_state_of_a_step_is_written(tiny_bert, tmp_path, monkeypatch):
    """The writer of step 2 waits for step 3, and that of step 4 finds the state of step 2 complete."""
    save, third, seen = torch.save, threading.Event(), []

    class Third(cse.Callback):
        def on_step(self, run, metrics):
            if run.progress.step == 3:
                seen.append(json.loads((run.folder / "state" / "state.json").read_text())["progress"]["step"])
                third.set()

    def saved(content, path):
        if path.parents[1].name == "run" and len(seen) == 0 and content["optimizers"][0]["state"]:
            assert third.wait(60)
        assert len([*path.parents[1].glob("*state*")]) <= 2
        save(content, path)

    monkeypatch.setattr("cse.training.checkpoint.torch.save", saved)
    run = make_run(tmp_path / "slow", tiny_bert, save_every=2, eval_every=6)
    run.callbacks = [Third(), Dies(5)]
    with pytest.raises(RuntimeError, match="killed"):
        cse.Trainer(run).fit()
    assert seen == [0]
    assert json.loads((run.folder / "state" / "state.json").read_text())["progress"]["step"] == 4
    monkeypatch.undo()
    again = fitted(tmp_path / "slow", tiny_bert, save_every=2, eval_every=6, resume=True)
    assert_same(again.folder, fitted(tmp_path / "whole", tiny_bert, eval_every=6).folder)


LORAS = [cse.Lora(kind=kind, rank=2, targets=["query", "value"]) for kind in ("lora", "dora", "pissa")]


@pytest.mark.parametrize("options", [*({"adapter": lora} for lora in LORAS), {"optimizer": "muon"}])
def test_lora_and_two_optimizers_resume(tiny_bert, tmp_path, options):
    adapter, trainer = options.get("adapter"), {k: v for k, v in options.items() if k != "adapter"}

    def build(folder):
        seed_dropout(1)
        return make_run(folder, tiny_bert, encoder=cse.Encoder(tiny_bert, adapter=adapter), **trainer)

    _, again = assert_resumes(build, tmp_path)
    state = torch.load(again.folder / "state" / "state.pt", weights_only=True)["learner"]
    assert all("lora" in name for name in state) == (adapter is not None)


def test_a_damaged_state_is_refused(tiny_bert, tmp_path):
    path = fitted(tmp_path, tiny_bert).folder / "state" / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refuses(r"state\.pt is damaged", fitted, tmp_path, tiny_bert, resume=True)


def test_the_state_of_other_weights_is_refused(tiny_bert, tmp_path):
    fitted(tmp_path, tiny_bert, encoder=cse.Encoder(tiny_bert))
    with pytest.raises(cse.UserError, match=r"do not fit the recipe: encoder.head(.|\n)*fix: "):
        fitted(tmp_path, tiny_bert, encoder=cse.Encoder(tiny_bert, head="mlp"), resume=True)


def test_diagnostics_by_pencil():
    """Cosines of anchors with positives: 1 of three pairs, and 4 of the six others."""
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    want = {"pos_cos": 1 / 3, "neg_cos": 4 / 6, "align": 4 / 3, "uniform": math.log((2 * math.exp(-4) + 1) / 3)}
    assert diagnostics(Encoded(x, x), 1) == pytest.approx(want, rel=1e-5)


def test_accumulation_averages_parts_with_their_own_negatives(tiny_bert, tmp_path):
    encoder = cse.Encoder(tiny_bert, dropout=cse.Dropout(attention=0.0, hidden=0.0, embedding=1e-9))
    run = fitted(tmp_path, tiny_bert, encoder=encoder, accumulation=2, max_steps=1, learning_rate=1e-9, clip=1e9)
    run.collator.setup(TokenStore.build(run.data.unique_texts(), encoder.tokenizer, 12), 7)
    _, rows = StepBatches(len(run.data), 8, 2, 7, max_steps=1, epochs=1).of_step(0)
    losses = []
    for part in (rows[:4], rows[4:]):
        batch = run.collator([run.data[i] for i in part])
        losses.append(Learner(encoder, cse.SimCSE()).eval()(batch, cse.StepContext(encoder=encoder))[1].loss)
    torch.stack(losses).mean().backward()
    gradients = [weight.grad.flatten() for weight in encoder.parameters() if weight.grad is not None]
    last = metrics(run.folder)[-1]
    assert last["loss"] == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-4)
    assert last["grad_norm"] == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-3)


def test_a_gradient_is_clipped_and_no_two_steps_or_parts_draw_the_same_dropout(tiny_bert, tmp_path, monkeypatch):
    trainer = cse.Trainer(make_run(tmp_path, tiny_bert, clip=0.01, accumulation=2, max_steps=3, eval_every=1))
    norms, seeds, step, before = [], [], trainer.optimizers[0].step, seed_dropout

    def steps():
        gradients = [weight.grad for weight in trainer.learner.parameters() if weight.grad is not None]
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        step()

    monkeypatch.setattr(trainer.optimizers[0], "step", steps)
    monkeypatch.setattr("cse.training.trainer.seed_dropout", lambda *place: seeds.append(place) or before(*place))
    trainer.fit()
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)
    assert all(line["grad_norm"] > 0.1 for line in metrics(trainer.run.folder)[1:])
    assert len(set(seeds)) == len(seeds) == 6


def test_the_same_batches_whatever_the_number_of_processes():
    batches = StepBatches(103, 12, 2, 5, max_steps=20, epochs=1)
    single = [row for part in batches.of_process(3, 0, 1) for _, row in part]
    shares = [list(batches.of_process(3, rank, 3)) for rank in range(3)]
    assert [row for parts in zip(*shares, strict=True) for part in parts for _, row in part] == single
    epoch = [row for step in range(batches.steps_per_epoch) for row in batches.of_step(step)[1]]
    assert len(set(epoch)) == len(epoch) == 96


def test_early_stopping(tiny_bert, tmp_path):
    run = fitted(tmp_path, tiny_bert, max_steps=40, early_stopping=2, learning_rate=1e-2)
    assert run.progress.step == min(40, run.progress.best_step + 4)


def test_a_run_killed_after_it_decided_to_stop_early_does_not_go_on(tiny_bert, tmp_path, monkeypatch):
    options = {"max_steps": 40, "early_stopping": 2, "learning_rate": 1e-2}
    score, real = Spread.__call__, cse.Encoder.save
    monkeypatch.setattr(Spread, "__call__", lambda *given: {"spread": -score(*given)["spread"]})  # training widens it
    whole = fitted(tmp_path / "whole", tiny_bert, **options)
    assert whole.progress.step < 40

    def save(self, folder, **options):
        if folder.name == "last":
            raise RuntimeError("killed")
        real(self, folder, **options)

    monkeypatch.setattr(cse.Encoder, "save", save)
    with pytest.raises(RuntimeError, match="killed"):
        fitted(tmp_path / "killed", tiny_bert, **options)
    monkeypatch.setattr(cse.Encoder, "save", real)
    assert_same(fitted(tmp_path / "killed", tiny_bert, resume=True, **options).folder, whole.folder)


class Ends(cse.Callback):
    """Ends the run at an evaluation."""

    def on_eval(self, run, metrics):
        run.ended = run.progress.step == 4


def test_a_callback_may_end_a_run_at_an_evaluation(tiny_bert, tmp_path):
    run = fitted(tmp_path, tiny_bert, callbacks=[Ends()])
    assert (run.progress.finished, run.interrupted) == (True, False)
    assert metrics(run.folder) == metrics(fitted(tmp_path / "whole", tiny_bert).folder)[:3]
    assert fitted(tmp_path, tiny_bert, resume=True).progress.step == 4


def test_a_loss_that_is_not_finite_stops_the_run(tiny_bert, tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+.*best"):
        fitted(tmp_path, tiny_bert, learning_rate=1e30, schedule="constant", clip=1e30)
    assert (tmp_path / "run" / "best" / "modules.json").exists()


class Broken(cse.SimCSE):
    """A finite loss without a finite gradient: sqrt has an infinite derivative at 0, which is multiplied by 0."""

    def forward(self, views, batch, ctx):
        output = super().forward(views, batch, ctx)
        return cse.LossOutput(output.loss + (0 * views.anchor[:, 0]).sqrt().sum(), output.metrics)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 3}, {"accumulation": 2}])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_are_lost(tiny_bert, tmp_path, options):
    run = make_run(tmp_path, tiny_bert, objective=Broken(), **options)
    before = {name: p.clone() for name, p in run.encoder.named_parameters()}
    first = r"the gradient of encoder\.backbone\.embeddings\.word_embeddings\.weight is not finite at step 1, "
    with pytest.raises(FloatingPointError, match=first + r"so .* \(step 0\)\nfix: "):
        cse.Trainer(run).fit()
    assert all(torch.equal(p, before[name]) for name, p in run.encoder.named_parameters())


def test_the_log_is_json_where_a_number_is_not_finite(tmp_path):
    """As the norm of fp16's first steps is, whose scaled gradient is too large."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    size = log.append({"step": 2, "loss": 0.5, "grad_norm": math.inf, "correlation": math.nan})
    written = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(written, parse_constant=pytest.fail) == {"step": 2, "loss": 0.5}
    assert size == len(written)


class Unordered(cse.SimCSE):
    def forward(self, views, batch, ctx):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        if ctx.step == 1:  # what torch says of such an operation on a GPU
            raise RuntimeError("put_ does not have a deterministic implementation, but you set ...")
        return super().forward(views, batch, ctx)


def test_a_deterministic_run_computes_in_one_order_or_says_what_has_none(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    run = make_run(tmp_path, tiny_bert, objective=Unordered(), deterministic=True)
    refuses(r"trainer\.deterministic: put_ does not have", lambda: cse.Trainer(run).fit())
    assert run.progress.step == 1
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    monkeypatch.setattr(hardware, "available", lambda wanted: "cuda")
    monkeypatch.setattr(hardware, "native_bf16", lambda device: True)
    assert "another CUBLAS_WORKSPACE_CONFIG than :0:0" in "".join(hardware.problems(cse.Settings(deterministic=True)))


STILL = cse.Dropout(attention=0.0, hidden=0.0)
REFUSED = {  # tests/test_bad_commands.py has those of a recipe
    "objective MaskedLM needs Batch.masked_ids": {"objective": cse.MaskedLM()},
    "train encoder.head": {"objective": cse.MaskedLM(), "collator": cse.Masked(views=cse.TextViews(max_length=9))},
    r"no dropout(.|\n)*collator.max_length is 99(.|\n)*fix: (.|\n)*trainer.batch_size is 500": {
        "dropout": STILL,
        "collator": cse.TextViews(max_length=99),
        "batch_size": 500,
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_train_is_refused_at_once_before_anything_is_written(tiny_bert, tmp_path, message):
    options = dict(REFUSED[message])
    encoder = cse.Encoder(tiny_bert, head="mlp", dropout=options.pop("dropout", None))
    with pytest.raises(cse.UserError, match=message) as refused:
        fitted(tmp_path, tiny_bert, encoder=encoder, **options)
    assert all(fix.startswith("fix: ") for fix in str(refused.value).splitlines()[1::2])
    assert not (tmp_path / "run").exists()


class DiesInStage(cse.Callback):
    """Raises after the step of the stage that the environment names, `2:3`, as a kill would come."""

    def on_step(self, run, metrics):
        if os.environ.get("DIES") == f"{run.folder.name[0]}:{run.progress.step}":
            raise RuntimeError("killed")


@pytest.fixture
def recipes(tiny_bert, tmp_path):
    """A recipe of masked language modeling, and one of contrast that begins with another backbone."""
    data, made = {"path": str(write_texts(tmp_path))}, []
    objective = {"class_path": "cse.objectives.masked_lm.MaskedLM"}
    for name, parts in (("masked", {"objective": objective, "collator": MASKED, "evaluator": None}), ("pairs", {})):
        (tmp_path / name).mkdir()
        parts["callbacks"] = [{"class_path": "tests.training.test_trainer.DiesInStage"}]
        trainer = {"max_steps": 4, "initial_weights": "ignore"}
        backbone = tiny_bert if name == "masked" else "asset:mini"
        path = Path(write_recipe(tmp_path / name, "Texts", data, {"backbone": backbone}, trainer=trainer, **parts))
        made.append(str(path.rename(tmp_path / f"{name}.yaml")))
    return made


def test_stages_are_the_runs_of_their_recipes_and_resume_wherever_they_stopped(recipes, tmp_path, monkeypatch):
    first, second = recipes
    alone = cse.train(first, run_dir=tmp_path / "alone" / "1")
    after = cse.train(second, encoder=alone.best, run_dir=tmp_path / "alone" / "2", overrides=["--seed=9"])
    command = ["train", first, "--run-dir", str(tmp_path / "run"), "--resume", "auto", "--then", second, "--seed=9"]
    for place in ("1:3", "2:3"):  # between two checkpoints
        monkeypatch.setenv("DIES", place)
        with pytest.raises(RuntimeError, match="killed"):
            cli.main(command)
    monkeypatch.delenv("DIES")
    assert cli.main(command) == 0
    for name, run in (("1-masked", alone), ("2-pairs", after)):
        assert_same(tmp_path / "run" / name, run.folder)
    assert "run/1-masked/best" in (tmp_path / "run" / "2-pairs" / "recipe.yaml").read_text()


def test_other_places_that_cannot_hold_stages(recipes, tmp_path, capsys, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 1")
    assert cli.main(["train", recipes[0], "--run-dir", str(tmp_path / "run"), "--then", recipes[1]]) == 2
    assert "is a run, and stages are runs in a folder" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert cli.main(["train", recipes[0], "--then", recipes[1]]) == 2
    assert "--then starts the processes of each stage by itself" in capsys.readouterr().err
