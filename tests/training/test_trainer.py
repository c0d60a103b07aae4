"""The loop: what it leaves, that it resumes exactly, and that accumulation is what it says."""

import json
import math
import os

import pytest
import torch

from cse.batch import LossOutput
from cse.data.collators import TextViews
from cse.data.masked import Masked
from cse.data.tokens import TokenStore
from cse.encoder.dropout import Dropout
from cse.encoder.lora import Lora
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.masked_lm import MaskedLM
from cse.objectives.simcse import SimCSE
from cse.seeding import seed_dropout
from cse.training import hardware
from cse.training.checkpoint import MetricsLog
from cse.training.learner import Encoded, Learner, diagnostics
from cse.training.run import Callback
from cse.training.settings import Settings
from cse.training.trainer import Trainer
from tests.runs import Spread, make_run, metrics, weights


class Dies(Callback):
    """Raises at a given moment, as a kill would come."""

    def __init__(self, event, step):
        self.event, self.at = event, step

    def _maybe(self, event, run):
        if event == self.event and run.progress.step == self.at:
            raise RuntimeError("killed")

    def on_step(self, run, metrics):
        self._maybe("step", run)

    def on_eval(self, run, metrics):
        self._maybe("eval", run)


def test_a_run_leaves_what_it_says(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert)
    Trainer(run).fit()
    log = metrics(run.folder)
    assert [line["step"] for line in log] == [0, 2, 4, 6]
    assert {"loss", "dev", "pos_cos", "neg_cos", "align", "uniform", "grad_norm", "lr"} <= set(log[-1])
    assert run.progress.best == max(line["dev"] for line in log)
    best = Encoder.load(str(run.folder / "best"))
    scored = run.evaluator(best)["spread"]
    assert scored == pytest.approx(run.progress.best, rel=1e-5)
    assert run.evaluator(Encoder.load(str(run.folder / "last")))["spread"] == pytest.approx(log[-1]["dev"], rel=1e-5)
    assert not list(run.folder.glob("*/2_Dense"))
    assert "head" in str(torch.load(run.folder / "state" / "state.pt", weights_only=True)["learner"].keys())


@pytest.mark.parametrize(
    ("event", "step"),
    [("step", 3), pytest.param("step", 4, marks=pytest.mark.slow), ("eval", 4), ("eval", 0)],
)
def test_a_killed_run_resumes_bit_for_bit(tiny_bert, tmp_path, event, step):
    whole = make_run(tmp_path / "whole", tiny_bert)
    Trainer(whole).fit()
    killed = make_run(tmp_path / "killed", tiny_bert)
    killed.callbacks = [Dies(event, step)]
    with pytest.raises(RuntimeError, match="killed"):
        Trainer(killed).fit()
    again = make_run(tmp_path / "killed", tiny_bert)
    Trainer(again).fit(resume=(again.folder / "state").exists())
    assert metrics(again.folder) == metrics(whole.folder)
    for name in ("best", "last"):
        assert weights(again.folder / name) == weights(whole.folder / name)


def test_a_finished_run_is_not_trained_again(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert)
    Trainer(run).fit()
    before = weights(run.folder)
    again = make_run(tmp_path, tiny_bert)
    Trainer(again).fit(resume=True)
    assert weights(run.folder) == before


def test_lora_resumes_and_leaves_the_backbone_alone(tiny_bert, tmp_path):
    def encoder():
        seed_dropout(1)
        return Encoder(tiny_bert, adapter=Lora(rank=2, targets=["query", "value"]))

    whole = make_run(tmp_path / "whole", tiny_bert, encoder=encoder())
    Trainer(whole).fit()
    killed = make_run(tmp_path / "killed", tiny_bert, encoder=encoder())
    killed.callbacks = [Dies("step", 3)]
    with pytest.raises(RuntimeError):
        Trainer(killed).fit()
    again = make_run(tmp_path / "killed", tiny_bert, encoder=encoder())
    Trainer(again).fit(resume=True)
    assert weights(again.folder / "last") == weights(whole.folder / "last")
    state = torch.load(again.folder / "state" / "state.pt", weights_only=True)["learner"]
    assert all("lora" in name for name in state)


def test_a_damaged_state_is_refused(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert)
    Trainer(run).fit()
    path = run.folder / "state" / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = make_run(tmp_path, tiny_bert)
    with pytest.raises(UserError, match=r"state\.pt is damaged"):
        Trainer(again).fit(resume=True)


def test_the_state_of_other_weights_is_refused(tiny_bert, tmp_path):
    Trainer(make_run(tmp_path, tiny_bert, encoder=Encoder(tiny_bert))).fit()
    with pytest.raises(UserError, match=r"do not fit the recipe: encoder.head(.|\n)*fix: "):
        Trainer(make_run(tmp_path, tiny_bert, encoder=Encoder(tiny_bert, head="mlp"))).fit(resume=True)


def test_diagnostics_by_pencil():
    """Cosines of anchors with positives: 1 of three pairs, and 4 of the six others."""
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    assert diagnostics(Encoded(x, x), 1) == {
        "pos_cos": pytest.approx(1 / 3),
        "neg_cos": pytest.approx(4 / 6),
        "align": pytest.approx(4 / 3),
        "uniform": pytest.approx(math.log((2 * math.exp(-4) + 1) / 3), rel=1e-5),
    }


def test_a_full_disk_leaves_the_previous_checkpoint(tiny_bert, tmp_path, monkeypatch):
    run = make_run(tmp_path, tiny_bert)
    Trainer(run).fit()
    before = weights(run.folder / "best")
    real = torch.save

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        run.encoder.save(run.folder / "best")
    assert real is torch.save
    assert weights(run.folder / "best") == before
    assert not [p for p in run.folder.iterdir() if "tmp" in p.name]


def test_accumulation_averages_parts_with_their_own_negatives(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, dropout=Dropout(attention=0.0, hidden=0.0, embedding=1e-9))
    run = make_run(tmp_path, tiny_bert, encoder=encoder, accumulation=2, max_steps=1, learning_rate=1e-9, clip=1e9)
    Trainer(run).fit()
    tokens = TokenStore.build(run.data.unique_texts(), encoder.tokenizer, 12)
    run.collator.setup(tokens, 7)
    from cse.data.loader import StepBatches

    _, rows = StepBatches(len(run.data), 8, 2, 7, max_steps=1, epochs=1).of_step(0)
    losses = []
    for part in (rows[:4], rows[4:]):
        batch = run.collator([run.data[i] for i in part])
        losses.append(Learner(encoder, SimCSE()).eval()(batch, StepContext(encoder=encoder))[1].loss)
    torch.stack(losses).mean().backward()
    gradients = [weight.grad.flatten() for weight in encoder.parameters() if weight.grad is not None]
    last = metrics(run.folder)[-1]
    assert last["loss"] == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-4)
    assert last["grad_norm"] == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-3)


def test_a_gradient_is_clipped_and_no_two_steps_or_parts_draw_the_same_dropout(tiny_bert, tmp_path, monkeypatch):
    trainer = Trainer(make_run(tmp_path, tiny_bert, clip=0.01, accumulation=2, max_steps=3, eval_every=1))
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
    from cse.data.loader import StepBatches

    batches = StepBatches(103, 12, 2, 5, max_steps=20, epochs=1)
    single = [row for part in batches.of_process(3, 0, 1) for _, row in part]
    shares = [list(batches.of_process(3, rank, 3)) for rank in range(3)]
    together = [row for parts in zip(*shares, strict=True) for part in parts for _, row in part]
    assert together == single
    epoch = [row for step in range(batches.steps_per_epoch) for row in batches.of_step(step)[1]]
    assert len(set(epoch)) == len(epoch) == 96


def test_early_stopping(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, max_steps=40, early_stopping=2, learning_rate=1e-2)
    Trainer(run).fit()
    last = run.progress.step
    assert last == min(40, run.progress.best_step + 4)


def test_a_run_killed_after_it_decided_to_stop_early_does_not_go_on(tiny_bert, tmp_path, monkeypatch):
    options = {"max_steps": 40, "early_stopping": 2, "learning_rate": 1e-2}
    score = Spread.__call__
    monkeypatch.setattr(Spread, "__call__", lambda *given: {"spread": -score(*given)["spread"]})  # training widens it
    whole = make_run(tmp_path / "whole", tiny_bert, **options)
    Trainer(whole).fit()
    assert whole.progress.step < 40
    killed = make_run(tmp_path / "killed", tiny_bert, **options)
    real = Encoder.save

    def save(self, folder, **options):
        if folder.name == "last":
            raise RuntimeError("killed")
        real(self, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "save", save)
        with pytest.raises(RuntimeError, match="killed"):
            Trainer(killed).fit()
    again = make_run(tmp_path / "killed", tiny_bert, **options)
    Trainer(again).fit(resume=True)
    assert metrics(again.folder) == metrics(whole.folder)
    assert weights(again.folder / "last") == weights(whole.folder / "last")


def test_what_the_objective_refuses_is_said_before_anything_is_written(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, batch_size=1)
    with pytest.raises(UserError, match=r"batch_size is 1(.|\n)*trainer.batch_size 1"):
        Trainer(run).fit()
    assert not run.folder.exists()


def test_a_loss_that_is_not_finite_stops_the_run(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, learning_rate=1e30, schedule="constant", clip=1e30)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+.*best"):
        Trainer(run).fit()
    assert (run.folder / "best" / "modules.json").exists()


def test_the_log_is_json_where_a_number_is_not_finite(tmp_path):
    """As the norm of fp16's first steps is, whose scaled gradient is too large."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    size = log.append({"step": 2, "loss": 0.5, "grad_norm": math.inf, "correlation": math.nan})
    written = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(written, parse_constant=pytest.fail) == {"step": 2, "loss": 0.5}
    assert size == len(written)


class Broken(SimCSE):
    """A finite loss without a finite gradient: sqrt has an infinite derivative at 0, which is multiplied by 0."""

    def forward(self, views, batch, ctx):
        output = super().forward(views, batch, ctx)
        return LossOutput(output.loss + (0 * views.anchor[:, 0]).sqrt().sum(), output.metrics)


class Unordered(SimCSE):
    def forward(self, views, batch, ctx):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        if ctx.step == 1:  # what torch says of such an operation on a GPU
            raise RuntimeError("put_ does not have a deterministic implementation, but you set ...")
        return super().forward(views, batch, ctx)


def test_a_deterministic_run_computes_in_one_order_or_says_what_has_none(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    run = make_run(tmp_path, tiny_bert, objective=Unordered(), deterministic=True)
    with pytest.raises(UserError, match=r"trainer\.deterministic: put_ does not have"):
        Trainer(run).fit()
    assert run.progress.step == 1
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    monkeypatch.setattr(hardware, "available", lambda wanted: "cuda")
    monkeypatch.setattr(hardware, "native_bf16", lambda device: True)
    assert "another CUBLAS_WORKSPACE_CONFIG than :0:0" in "".join(hardware.problems(Settings(deterministic=True)))


@pytest.mark.parametrize("options", [{}, {"chunk_size": 3}, {"accumulation": 2}])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_are_lost(tiny_bert, tmp_path, options):
    run = make_run(tmp_path, tiny_bert, objective=Broken(), **options)
    before = {name: p.clone() for name, p in run.encoder.named_parameters()}
    first = r"the gradient of encoder\.backbone\.embeddings\.word_embeddings\.weight is not finite at step 1, "
    with pytest.raises(FloatingPointError, match=first + r"so .* \(step 0\)\nfix: "):
        Trainer(run).fit()
    assert all(torch.equal(p, before[name]) for name, p in run.encoder.named_parameters())


def fit(folder, backbone, **options):
    run = make_run(folder, backbone, **options)
    Trainer(run).fit()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 4, "accumulation": 3}, "trainer.batch_size is 4"),
        ({"batch_size": 500}, "trainer.batch_size is 500"),
        ({"learning_rate": 0.0}, "trainer.learning_rate is 0.0"),
        ({"max_steps": 0}, "trainer.max_steps is 0"),
        ({"device": "cuda"}, "trainer.device is cuda"),
        ({"collator": TextViews(max_length=99)}, "collator.max_length is 99"),
        ({"objective": MaskedLM()}, "MaskedLM needs Batch.masked_ids"),
        (
            {"objective": MaskedLM(), "collator": Masked(views=TextViews(max_length=9))},
            "train encoder.head",
        ),
    ],
)
def test_what_cannot_train_is_refused_before_anything_is_written(tiny_bert, tmp_path, options, named):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UserError, match=named):
        fit(tmp_path, tiny_bert, **options)
    assert not (tmp_path / "run").exists()


def test_views_without_dropout_are_refused(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, dropout=Dropout(attention=0.0, hidden=0.0))
    run = make_run(tmp_path, tiny_bert, encoder=encoder)
    with pytest.raises(UserError, match="dropout"):
        Trainer(run).fit()


def test_state_json_says_where_the_run_is(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert)
    Trainer(run).fit()
    about = json.loads((run.folder / "state" / "state.json").read_text())
    assert about["progress"]["step"] == 6
    assert about["progress"]["finished"]


class Ends(Callback):
    """Ends the run at an evaluation."""

    def __init__(self, step):
        self.step = step

    def on_eval(self, run, metrics):
        run.ended = run.progress.step == self.step


def test_a_callback_may_end_a_run_at_an_evaluation(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert)
    run.callbacks = [Ends(4)]
    Trainer(run).fit()
    assert [line["step"] for line in metrics(run.folder)] == [0, 2, 4]
    assert run.progress.finished
    assert not run.interrupted
    whole = make_run(tmp_path / "whole", tiny_bert)
    Trainer(whole).fit()
    assert metrics(run.folder) == metrics(whole.folder)[:3]
    again = make_run(tmp_path, tiny_bert)
    Trainer(again).fit(resume=True)
    assert again.progress.step == 4
