"""What an objective needs of rows, a run gives it or is refused, by name and before anything is written.

That several processes have the loss of one is a contract of every objective.
"""

import re
from types import SimpleNamespace

import pytest
import torch

import cse
from cse import DCL, CoSENT, FeatureDistillation, GradedGCL, MarginMSE, SimCSE, SupCLSeq, SupCon, Trainer, cli
from cse.encoder import device
from cse.evaluation.evaluators.held_out import HeldOut
from cse.recipe import load
from cse.training import fitted, hardware, start
from cse.training.callbacks import Console
from cse.training.learner import Learner
from tests.refusals import refuses
from tests.runs import Dies, assert_resumes, make_run, metrics, write_recipe, write_texts
from tests.training.helpers import TEXTS, Unweighted


def weighted(weights):
    rows = [{"a": TEXTS[2 * i], "b": TEXTS[2 * i + 1], "w": w} for i, w in enumerate(weights)]
    return cse.Pairs(rows, columns=("a", "b"), weight_column="w")


def graded(relevances, columns=("r1", "r2")):
    """A query, two documents and their relevances per row."""
    rows = [
        {"q": TEXTS[3 * i], "d1": TEXTS[3 * i + 1], "d2": TEXTS[3 * i + 2], "r1": one, "r2": two}
        for i, (one, two) in enumerate(relevances)
    ]
    return cse.Pairs(rows, columns=("q", "d1", "d2"), relevance_columns=columns)


def taught(scores, columns=("t", "u"), blank=None):
    """Triplets with a teacher's scores of the positive and of the negative; one may have another negative."""
    rows = [
        {"a": TEXTS[3 * i], "p": TEXTS[3 * i + 1], "n": TEXTS[3 * i + 2], "m": None, "t": one, "u": two}
        for i, (one, two) in enumerate(scores)
    ]
    if blank is not None:
        rows[blank]["m"] = "another text"
    return cse.Triplets(rows, columns=("a", "p", "n", "m")[: 3 if blank is None else 4], teacher_columns=columns)


def labelled(labels):
    return cse.Texts(
        [{"text": text, "class": label} for text, label in zip(TEXTS, labels, strict=False)], label_column="class"
    )


def losses(folder, backbone, objective, data=None, views=2, **options):
    """The losses of a run, on texts unless there are other data."""
    collator = cse.TextViews(max_length=12, views=views)
    run = make_run(folder, backbone, objective=objective, collator=collator, **options)
    run.data = data or run.data
    return [line["loss"] for line in metrics(cse.Trainer(run).fit().folder) if "loss" in line]


@pytest.mark.parametrize(
    ("data", "objective", "rows", "same", "other"),
    [
        (weighted, SimCSE, [1] * 8, [2] * 8, [5, 1] * 4),  # a factor of all weights
        (graded, GradedGCL, [(1, 0)] * 8, [(2, 0)] * 8, [(1, 3)] * 8),  # a factor of a row's relevances
        (taught, MarginMSE, [(1, 0)] * 8, [(9, 8)] * 8, [(1, -1)] * 8),  # a constant that is added to a row's scores
        (labelled, SupCon, "aabb" * 2, "bbaa" * 2, "abab" * 2),  # other names of the same classes
    ],
)
def test_the_numbers_reach_the_loss(tiny_bert, tmp_path, data, objective, rows, same, other):
    first, second, third = (
        losses(tmp_path / str(i), tiny_bert, objective(), data(r), max_steps=1)
        for i, r in enumerate((rows, same, other))
    )
    assert first == second != third


EIGHT = [(1, 0)] * 8
REFUSED = [  # the rows, or None for texts; the objective; what is said
    (None, SupCon(), r"SupCon needs a label in every row, and .* has none\nfix: name its column: --data.label_column"),
    (None, SupCLSeq(), "objective SupCLSeq needs a label in every row"),
    (None, CoSENT(), "objective CoSENT needs a score in every row"),
    (None, FeatureDistillation(teacher=cse.FrozenEncoder(source="./nobody")), "nobody"),
    (graded(EIGHT), SimCSE(), r"data.relevance_columns grades .* SimCSE does not use\nfix: remove"),
    (graded(EIGHT, None), GradedGCL(), "GradedGCL needs a relevance in every row"),
    (taught(EIGHT), SimCSE(), r"data\.teacher_columns gives .* SimCSE does not use\nfix: remove"),
    (taught(EIGHT, None), MarginMSE(), r"MarginMSE needs a teacher in every row.*\nfix: .*teacher_columns=\[NAME\]"),
    (taught(EIGHT, blank=2), MarginMSE(), "unequal numbers of texts"),
    (weighted([1, 2] * 4), Unweighted(), r"data.weight_column gives rows weights, which objective Unweighted"),
]


@pytest.mark.parametrize(("data", "objective", "said"), REFUSED)
def test_what_does_not_fit_is_refused(tiny_bert, tmp_path, data, objective, said):
    refuses(said, losses, tmp_path, tiny_bert, objective, data)
    assert not (tmp_path / "run").exists()


def test_rows_with_one_view_are_refused(tiny_bert, tmp_path):
    refuses(r"objective DCL: rows have one view.*set collator.views to 2", losses, tmp_path, tiny_bert, DCL(), views=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("weight", ["inf", "nan", "much", ""])
def test_a_weight_that_is_no_number_is_refused(weight):
    refuses(f"row 2 has the weight '{weight}'", weighted, [1, weight])


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return cse.Encoder(tiny_bert, pooler="mean")


def chosen(encoder, data, collator):
    fitted.fit_lengths(SimpleNamespace(encoder=encoder, data=data, collator=collator))
    return collator.max_length


@pytest.mark.parametrize(
    ("words", "length", "said"),
    [
        ([3] * 100, 8, "the least that leaves 98 % of the texts whole (100.0%"),  # and 2 special tokens
        ([3] * 98 + [20] * 2, 8, "the least that leaves 98 % of the texts whole (98.0%"),
        ([3] * 97 + [9] * 3, 16, "the least that leaves 98 % of the texts whole (100.0%"),  # 11, and so 16
        ([50] * 100, 38, "the most that the model reads (0.0%"),
    ],
)
def test_the_length_by_counting(encoder, words, length, said, capsys, monkeypatch):
    texts = [" ".join(["cat", "sat", *["mat"] * (n - 3), str(i)]) for i, n in enumerate(words)]
    monkeypatch.setattr(encoder, "max_length", 38)
    assert chosen(encoder, cse.Texts(texts), cse.TextViews(max_length=None)) == length
    assert f"length     {length} tokens, {said} of 100 measured" in capsys.readouterr().out


def test_what_is_set_stays_and_a_collator_around_another_has_its_length(encoder, capsys):
    data = cse.Pairs([("cat sat", "dog ran fast on a mat with a hat"), ("dog", "red moon")])
    assert chosen(encoder, data, cse.TextViews(max_length=12)) == 12
    assert capsys.readouterr().out == ""
    around = cse.Masked(views=cse.TextViews(max_length=None))
    assert chosen(encoder, data, around) == around.views.max_length == 16  # 9 words and 2 special tokens


def test_a_source_with_a_collator_of_its_own_has_a_length_of_its_own(encoder):
    short, long = cse.Texts(["cat sat", "dog ran"]), cse.Texts(["a cat sat on a mat and a dog ran fast", "dog"])
    own, common = cse.TextViews(max_length=None), cse.TextViews(max_length=None)
    data = cse.Mixture(sources={"short": cse.Source(data=short, collator=own), "long": cse.Source(data=long)})
    assert chosen(encoder, data, common) == 16
    assert own.max_length == 8


@pytest.mark.parametrize(("letters", "every"), [(0, 10), (100, 10), (1000, 25), (10**6, 100)])
def test_evaluations_cost_a_tenth(tiny_bert, tmp_path, letters, every):
    """100 steps of 4 rows, each of 2 views of 20 letters, thrice: 48,000, beside which 5,333 may be encoded."""
    run = make_run(tmp_path, tiny_bert, batch_size=4, eval_every=None)
    run.data, run.max_steps = cse.Texts([f"{i:020d}" for i in range(50)]), 100
    assert fitted.spacing(run, letters)[0] == every


def test_a_resumed_run_is_evaluated_at_the_same_steps(tiny_bert, tmp_path, capsys):
    """The interval is part of the state, since only the first evaluation tells what one costs."""

    def build(folder):
        run = make_run(folder, tiny_bert, triplets=True, max_steps=20, eval_every=None, batch_size=8)
        run.evaluator, run.callbacks = HeldOut(share=0.1), [Console()]
        run.data = run.evaluator.take(run.data)
        return run

    whole, _ = assert_resumes(build, tmp_path, Dies(9))
    assert len(metrics(whole.folder)) > 2
    assert "scoring    every " in capsys.readouterr().out


T4 = {"cuda": "12.8", "name": "Tesla T4", "capability": (7, 5)}
NONE, HIDDEN = {"cuda": None}, {"cuda": "12.8", "visible": "7"}


def trained(**settings):
    return lambda: hardware.require_machine(cse.Settings(**settings))


def encoded(precision, place):
    return lambda: device.resolved(precision, torch.device(place))


BAD = {
    "no CUDA": (NONE, trained(device="cuda"), r"trainer.device is cuda, and torch .* is built without CUDA"),
    "no CUDA, encoding": (NONE, lambda: device.choose("cuda"), r"--device is cuda, and torch .* without CUDA"),
    "no such number": (HIDDEN, trained(device="cuda"), "and no GPU .* has a number in CUDA_VISIBLE_DEVICES='7'"),
    "a number": (T4, lambda: load("simcse-unsup", ["--trainer.device=cuda:3"]), "cuda:3\nfix: give one of auto, cpu"),
    "bf16": (T4, trained(precision="bf16"), "trainer.precision is bf16, which Tesla T4 .*\nfix: use auto or fp16"),
    "bf16, encoding": (T4, encoded("bf16", "cuda"), "precision is bf16, which Tesla T4 .*\nfix: use fp16 or fp32"),
    "fp16 on the CPU": (NONE, encoded("fp16", "cpu"), "precision is fp16, which needs a CUDA GPU"),
    "no NCCL": (T4, lambda: hardware.require_gpus("cuda"), "is built without NCCL.*\nfix: use one process"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_machine_cannot_do_is_one_line(case, monkeypatch):
    machine, call, said = BAD[case]
    monkeypatch.setitem(device.ACCELERATORS, "cuda", lambda: "name" in machine)
    monkeypatch.setattr(torch.version, "cuda", machine["cuda"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: machine["name"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: machine["capability"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", machine.get("visible", "0"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(refuses(said, call).splitlines()) == 2


# BERT-base in bf16: a token keeps 12 layers x 768 x 34 bytes, or if recomputed 12 x 768 x 2 and those of one layer.
BASE = {"rows": 512, "of_row": 64, "kept": 12 * 768 * 34, "recomputed": 12 * 768 * 2 + 768 * 34, "cacheable": True}


def test_a_plan_says_what_a_run_would_be_and_writes_nothing(tiny_bert, tmp_path, capsys):
    """Of 8 rows with two views of 7 tokens: 34 bytes in 32 bits for each of 16 numbers, in each of two layers."""
    recipe = write_recipe(tmp_path, "Texts", {"path": str(write_texts(tmp_path))}, {"backbone": tiny_bert})
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["train", recipe, "--dry-run", "--run-dir", str(tmp_path / "run")]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    run = start.assemble(load(recipe), tmp_path / "run")
    weights, states = Trainer(run).rehearse()
    numbers = sum(p.numel() for p in run.encoder.parameters())
    assert (weights, states) == (16 * numbers, 8 * 2 * 7 * (2 * 34 * 16 * 2))
    assert said["batch"].startswith("8 rows × 6 steps")
    assert f"{weights / 2**30:.1f} GB of weights" in said["memory"]
    assert said["run"].startswith(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("settings", "changed", "fits"),
    [
        # 32,768 tokens take 10.3 GB, half of them 5.1, a quarter 2.6; recomputed, all take 1.5.
        ({}, {}, ["gradient_checkpointing=true", "chunk_tokens=16384", "batch_size=256"]),
        ({}, {"room": 4e9}, ["gradient_checkpointing=true", "chunk_tokens=8192", "batch_size=128"]),
        ({}, {"room": 1e9}, ["chunk_tokens=2048", "batch_size=32"]),
        ({}, {"cacheable": False}, ["gradient_checkpointing=true", "batch_size=256"]),
        ({"gradient_checkpointing": True}, {"room": 1e9}, ["chunk_tokens=16384", "batch_size=256"]),
        ({"chunk_tokens": 16384}, {"room": 4e9}, ["gradient_checkpointing=true", "chunk_tokens=8192"]),
        ({"chunk_size": 256}, {"room": 4e9}, ["gradient_checkpointing=true", "chunk_tokens=8192"]),
        ({"accumulation": 2}, {}, ["gradient_checkpointing=true", "chunk_tokens=16384", "batch_size=512"]),
        ({}, {"room": 20e9}, ["gradient_checkpointing=true", "chunk_tokens=16384", "batch_size=256"]),
        ({}, {"room": -1.0}, []),
    ],
)
def test_what_would_fit_by_pencil(settings, changed, fits):
    found = hardware.fitting(cse.Settings(**settings), **{**BASE, "room": 8e9, **changed})
    assert found == [f"--trainer.{option}" for option in fits]


def test_a_step_without_memory_names_what_would_fit(tiny_bert, monkeypatch):
    learner, ids = Learner(cse.Encoder(tiny_bert), SimCSE()), torch.ones(8, 2, 8, dtype=torch.int64)
    weights = sum(p.numel() for p in learner.parameters())
    room = 128 * 2 * 16 * 34 // 2  # half of what 128 tokens take in 2 layers of 16 numbers
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 16 * weights + room))
    said = r"at step 1, on a GPU .*8 rows of 2 texts of up to 8 .*\nfix: .*chunk_tokens=32 or .*batch_size=2 fits$"
    with (
        pytest.raises(cse.UserError, match=said),
        hardware.explained(learner, cse.Settings(), cse.Batch(ids, ids), 1, wide=False),
    ):
        raise torch.OutOfMemoryError
