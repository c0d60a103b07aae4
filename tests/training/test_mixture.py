"""Runs on several sources: each step is a step of one source's own run."""

import itertools
import json

import pytest
import torch

import cse
from cse.training.callbacks import DataCheck, header
from tests.runs import Dies, assert_resumes, make_run, metrics, weights
from tests.training.helpers import TEXTS, Unweighted, WithHead, graded, nli, qa


def three(**changes):
    """Sources that differ in everything that a source may have of its own."""
    made = {
        "nli": cse.Source(nli(), weight=2),
        "qa": cse.Source(qa(), batch_size=6, sampler=cse.NoDuplicates(), objective=cse.SimCSE(temperature=0.1)),
        "graded": cse.Source(graded(), batch_size=10, collator=cse.TextViews(max_length=8), objective=cse.CoSENT()),
    }
    return made | changes


def mixture_run(folder, backbone, sources, *, schedule="proportional", temperature=None, **options):
    run = make_run(folder, backbone, **options)
    run.data = cse.Mixture(sources, schedule=schedule, temperature=temperature)
    return run


def plain_run(folder, backbone, source: cse.Source, **options):
    """The run of a source alone."""
    options = {"batch_size": source.batch_size or 8} | options
    run = make_run(folder, backbone, collator=source.collator, objective=source.objective, **options)
    run.data, run.sampler = source.data, source.sampler
    return run


def test_a_mixture_of_one_source_is_the_run_of_that_source(tiny_bert, tmp_path):
    name = "qa"
    plain = cse.Trainer(plain_run(tmp_path / "plain", tiny_bert, three()[name])).fit()
    only = {other: cse.Source(s.data, weight=0) for other, s in three().items() if other != name}
    for sources in ({**only, name: three()[name]}, {name: three()[name]}):
        run = cse.Trainer(mixture_run(tmp_path / str(len(sources)), tiny_bert, sources)).fit()
        assert weights(run.folder / "last") == weights(plain.folder / "last")
        for a, b in zip(metrics(run.folder), metrics(plain.folder), strict=True):
            assert {key: a[key] for key in b} == b
            assert a[f"asked_{name}"] == 1


def recorded(trainer):
    """Whatever the trainer's steps compute: the weights before each step, and the gradients of it."""
    seen, real = [], trainer.accelerator.clip_grad_norm_

    def note(parameters, clip):
        named = dict(trainer.learner.named_parameters())
        gradients = {n: p.grad.clone() for n, p in named.items() if p.grad is not None}
        seen.append(({n: p.detach().clone() for n, p in named.items()}, gradients))
        return real(parameters, clip)

    trainer.accelerator.clip_grad_norm_ = note
    return seen


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2, "accumulation": 2}])
def test_every_step_is_the_step_of_the_sources_own_run(tiny_bert, tmp_path, options):
    """Bit for bit: the n-th step of a source has the rows, dropout and gradient of the n-th step of its own run."""
    run = mixture_run(tmp_path, tiny_bert, three(), max_steps=9, **options)
    trainer = cse.Trainer(run)
    seen = recorded(trainer)
    trainer.fit()
    visits, alone = dict.fromkeys(three(), 0), {}
    for name, source in three().items():
        alone[name] = cse.Trainer(plain_run(tmp_path / name, tiny_bert, source, max_steps=9, **options))
    for step, (before, gradient) in enumerate(seen):
        figures = [trainer.batches.figures(s) for s in (step, step + 1)]
        then, now = ({n: round(f[f"drawn_{n}"] * (step + i)) for n in visits} for i, f in enumerate(figures))
        (name,) = [n for n in visits if now[n] > then[n]]
        plain, own = alone[name], recorded(alone[name])
        plain.learner.encoder.load_state_dict(
            {n.removeprefix("encoder."): w for n, w in before.items() if n.startswith("encoder.")}, strict=False
        )
        parts = next(iter(plain._load(plain.run.data, visits[name], visits[name] + 1)))
        plain.run.progress.step = step
        plain.wrapped.train()
        plain._step(parts, probe=False)
        assert own[0][1].keys() == gradient.keys()
        assert all(torch.equal(own[0][1][n], gradient[n]) for n in gradient)
        visits[name] += 1
    assert all(visits.values())


def test_a_killed_run_ends_as_the_unbroken_one(tiny_bert, tmp_path):
    options = {"schedule": "temperature", "temperature": 0.5, "max_steps": 12}
    assert_resumes(lambda folder: mixture_run(folder, tiny_bert, three(), **options), tmp_path, Dies(7))


def test_weights_of_an_objective_move_in_its_own_steps_alone(tiny_bert, tmp_path):
    sources = {"nli": cse.Source(nli()), "qa": cse.Source(qa(), objective=WithHead()), "more": cse.Source(qa(32))}
    run = mixture_run(tmp_path, tiny_bert, sources, schedule="round_robin", max_steps=6, weight_decay=0.1)
    trainer = cse.Trainer(run)
    seen = recorded(trainer)
    trainer.fit()
    head = next(n for n in seen[0][0] if "head.weight" in n and not n.startswith("encoder."))
    moved = [not torch.equal(a[0][head], b[0][head]) for a, b in itertools.pairwise(seen)]
    assert moved == [False, True, False, False, True]
    state = torch.load(run.folder / "state" / "state.pt", weights_only=True)
    assert head in state["learner"]
    assert "head" not in " ".join(str(p) for p in (run.folder / "last").rglob("*"))


def refused(run) -> list[str]:
    with pytest.raises(cse.UserError) as error:
        cse.Trainer(run).fit()
    assert not run.folder.exists()
    lines = str(error.value).splitlines()
    assert all(fix.startswith("fix: ") for fix in lines[1::2])
    return lines[::2]


WEIGHTED = [{"a": a, "b": b, "w": 1 + i % 2} for i, (a, b) in enumerate(itertools.pairwise(TEXTS[:40]))]
WEIGHED = cse.Pairs(WEIGHTED, columns=("a", "b"), weight_column="w")
ONE_ANCHOR = cse.Pairs([("one", text) for text in TEXTS[:20]])
ASKED = {"anchor": "query", "negative": "query"}
NEEDS = "objective CoSENT needs a score in every row"
BAD = {  # what is said of a source behind its name -> the sources that are changed
    "qa: data.sources.qa.batch_size is 64, but list in memory 40 pairs has 40": {"qa": cse.Source(qa(), batch_size=64)},
    f"qa: {NEEDS}": {"qa": cse.Source(qa(), objective=cse.CoSENT())},
    f"graded: {NEEDS}": {"graded": cse.Source(nli(), objective=cse.CoSENT())},
    "graded: data.sources.graded.prompts.negative is 'query', but the rows of": {
        "graded": cse.Source(graded(), objective=cse.CoSENT(), prompts=ASKED)
    },
    "qa: data.sources.qa.prompts.anchor is 'question', which is not a prompt of the encoder": {
        "qa": cse.Source(qa(), prompts={"anchor": "question"})
    },
    "qa: data.sources.qa.collator.max_length is 99": {"qa": cse.Source(qa(), collator=cse.TextViews(max_length=99))},
    "nli: objective MaskedLM needs Batch.masked_ids": {"nli": cse.Source(nli(), objective=cse.MaskedLM())},
    "qa: data.sources.qa.data.weight_column gives rows weights, which objective Unweighted": {
        "qa": cse.Source(WEIGHED, objective=Unweighted())
    },
    "qa: sampler NoDuplicates finds no 8": {"qa": cse.Source(ONE_ANCHOR, sampler=cse.NoDuplicates())},
    "nli: data.sources.nli.prompts.negative is 'passage'; qa: data.sources.qa.batch_size is 64": {
        "qa": cse.Source(qa(), batch_size=64),
        "nli": cse.Source(nli(), prompts={"negative": "passage"}),
    },
    f"nli: {NEEDS}; qa: {NEEDS}": {
        name: cse.Source(make(), objective=cse.CoSENT()) for name, make in (("qa", qa), ("nli", nli))
    },
}


@pytest.mark.parametrize("said", BAD)
def test_a_source_that_cannot_train_is_named(tiny_bert, tmp_path, said):
    encoder = cse.Encoder(tiny_bert, prompts={"query": "the ", "document": "a "})
    problems = refused(mixture_run(tmp_path, tiny_bert, three(**BAD[said]), encoder=encoder))
    for problem, start in zip(problems, said.split("; "), strict=True):
        assert problem.startswith(f"data.sources.{start}")


def test_what_a_mixture_as_a_whole_cannot_be(tiny_bert, tmp_path):
    two = {"a": cse.Source(nli()), "b": cse.Source(qa())}
    masked = cse.Source(nli(), collator=cse.Masked(views=cse.TextViews(max_length=12)), objective=cse.MaskedLM())
    mined = mixture_run(tmp_path, tiny_bert, three())
    mined.source = cse.RefreshNegatives(miner=cse.TopK())
    for run, wanted in (  # the first is said once
        (mixture_run(tmp_path, tiny_bert, two, collator=cse.TextViews(max_length=99)), "collator.max_length is 99"),
        (mined, "negatives is RefreshNegatives, which finds the negatives of all rows among the same texts"),
        (
            mixture_run(tmp_path, tiny_bert, three(nli=masked), chunk_size=4),
            "data.sources.nli: trainer.chunk_size is 4, but objective MaskedLM",
        ),
    ):
        (problem,) = refused(run)
        assert problem.startswith(wanted)


def test_the_header_has_a_line_for_each_source(tiny_bert, tmp_path):
    encoder = cse.Encoder(tiny_bert, prompts={"query": "the ", "document": "a "})
    prompts = {"anchor": "query", "positive": "document"}
    sources, options = three(qa=cse.Source(qa(), prompts=prompts)), {"schedule": "weights", "accumulation": 2}
    run = mixture_run(tmp_path, tiny_bert, sources, encoder=encoder, **options)
    cse.Trainer(run)
    nli_line, qa_line, graded_line = (text for key, text in header(run) if key == "source")
    assert "24 triplets, 50% of steps · 8 rows; 3 in-batch and 4 hard negatives (among" in nli_line
    assert qa_line.endswith("TextViews, max 12 tokens · anchor query, positive document")
    assert "· 10 rows (among the 5 rows of a part" in graded_line


def test_the_texts_of_all_sources_are_checked_and_the_shares_that_were_drawn_are_logged(tiny_bert, tmp_path):
    run = mixture_run(tmp_path, tiny_bert, three(), schedule="weights", max_steps=4, eval_every=4)
    run.callbacks = [DataCheck()]
    last = metrics(cse.Trainer(run).fit().folder)[-1]
    assert [last[f"asked_{name}"] for name in three()] == [0.5, 0.25, 0.25]
    drawn = [last[f"drawn_{name}"] for name in three()]
    assert sum(drawn) == 1
    assert all((4 * share).is_integer() for share in drawn)
    report = json.loads((run.folder / "data.json").read_text())
    assert report["rows"] == 94
    assert {name: each["rows"] for name, each in report["sources"].items()} == {"nli": 24, "qa": 40, "graded": 30}
    assert all("tokens" in each and "overlap" in each for each in report["sources"].values())
