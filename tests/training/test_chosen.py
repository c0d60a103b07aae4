"""What a run chooses for itself: its maximal length, and the steps between evaluations."""

from types import SimpleNamespace

import pytest

from cse import Encoder, Masked, Mixture, Pairs, Source, Texts, TextViews
from cse.evaluation.evaluators.held_out import HeldOut
from cse.training import fitted
from cse.training.callbacks import Console
from tests.runs import Dies, assert_resumes, make_run, metrics


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert, pooler="mean")


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
    assert chosen(encoder, Texts(texts), TextViews(max_length=None)) == length
    assert f"length     {length} tokens, {said} of 100 measured" in capsys.readouterr().out


def test_what_is_set_stays_and_a_collator_around_another_has_its_length(encoder, capsys):
    data = Pairs([("cat sat", "dog ran fast on a mat with a hat"), ("dog", "red moon")])
    assert chosen(encoder, data, TextViews(max_length=12)) == 12
    assert capsys.readouterr().out == ""
    around = Masked(views=TextViews(max_length=None))
    assert chosen(encoder, data, around) == around.views.max_length == 16  # 9 words and 2 special tokens


def test_a_source_with_a_collator_of_its_own_has_a_length_of_its_own(encoder):
    short, long = Texts(["cat sat", "dog ran"]), Texts(["a cat sat on a mat and a dog ran fast", "dog"])
    own, common = TextViews(max_length=None), TextViews(max_length=None)
    data = Mixture(sources={"short": Source(data=short, collator=own), "long": Source(data=long)})
    assert chosen(encoder, data, common) == 16
    assert own.max_length == 8


@pytest.mark.parametrize(("letters", "every"), [(0, 10), (100, 10), (1000, 25), (10**6, 100)])
def test_evaluations_cost_a_tenth(tiny_bert, tmp_path, letters, every):
    """100 steps of 4 rows, each of 2 views of 20 letters, thrice: 48,000, beside which 5,333 may be encoded."""
    run = make_run(tmp_path, tiny_bert, batch_size=4, eval_every=None)
    run.data, run.max_steps = Texts([f"{i:020d}" for i in range(50)]), 100
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
