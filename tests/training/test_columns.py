"""Weights, labels, relevances and a teacher's numbers: from columns of the data to the loss, and what does not fit.

That several processes have the loss of one is a contract of every objective.
"""

import pytest

from cse.data.datasets import Pairs, Texts, Triplets
from cse.errors import UserError
from cse.objectives.gcl import GradedGCL
from cse.objectives.margin_mse import MarginMSE
from cse.objectives.simcse import SimCSE
from cse.training.trainer import Trainer
from tests.runs import make_run, metrics
from tests.training.helpers import TEXTS, Unweighted


def weighted(weights, columns="w"):
    rows = [{"a": TEXTS[2 * i], "b": TEXTS[2 * i + 1], "w": w} for i, w in enumerate(weights)]
    return Pairs(rows, columns=("a", "b"), weight_column=columns)


def graded(relevances, columns=("r1", "r2")):
    """A query, two documents and their relevances per row."""
    rows = [
        {"q": TEXTS[3 * i], "d1": TEXTS[3 * i + 1], "d2": TEXTS[3 * i + 2], "r1": one, "r2": two}
        for i, (one, two) in enumerate(relevances)
    ]
    return Pairs(rows, columns=("q", "d1", "d2"), relevance_columns=columns)


def taught(scores, columns=("t", "u"), blank=None):
    """Triplets with a teacher's scores of the positive and of the negative; one may have another negative."""
    rows = [
        {"a": TEXTS[3 * i], "p": TEXTS[3 * i + 1], "n": TEXTS[3 * i + 2], "m": None, "t": one, "u": two}
        for i, (one, two) in enumerate(scores)
    ]
    if blank is not None:
        rows[blank]["m"] = "another text"
    return Triplets(rows, columns=("a", "p", "n", "m")[: 3 if blank is None else 4], teacher_columns=columns)


def fit(folder, backbone, data, objective):
    run = make_run(folder, backbone, objective=objective, max_steps=1)
    run.data = data
    return metrics(Trainer(run).fit().folder)[-1]["loss"]


@pytest.mark.parametrize(
    ("data", "objective", "rows", "same", "other"),
    [
        (weighted, SimCSE, [1] * 8, [2] * 8, [5, 1] * 4),  # a factor of all weights
        (graded, GradedGCL, [(1, 0)] * 8, [(2, 0)] * 8, [(1, 3)] * 8),  # a factor of a row's relevances
        (taught, MarginMSE, [(1, 0)] * 8, [(9, 8)] * 8, [(1, -1)] * 8),  # a constant that is added to a row's scores
    ],
)
def test_the_numbers_reach_the_loss(tiny_bert, tmp_path, data, objective, rows, same, other):
    losses = [fit(tmp_path / str(i), tiny_bert, data(r), objective()) for i, r in enumerate((rows, same, other))]
    assert losses[0] == losses[1] != losses[2]


EIGHT = [(1, 0)] * 8
REFUSED = [
    (graded(EIGHT), SimCSE(), r"data.relevance_columns grades .* SimCSE does not use\nfix: remove"),
    (graded(EIGHT, None), GradedGCL(), "GradedGCL needs a relevance in every row"),
    (taught(EIGHT), SimCSE(), r"data\.teacher_columns gives .* SimCSE does not use\nfix: remove"),
    (taught(EIGHT, None), MarginMSE(), r"MarginMSE needs a teacher in every row.*\nfix: .*teacher_columns=\[NAME\]"),
    (taught(EIGHT, blank=2), MarginMSE(), "unequal numbers of texts"),
    (weighted([1, 2] * 4), Unweighted(), r"data.weight_column gives rows weights, which objective Unweighted"),
]


@pytest.mark.parametrize(("data", "objective", "message"), REFUSED)
def test_what_does_not_fit_is_refused(tiny_bert, tmp_path, data, objective, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, tiny_bert, data, objective)


def test_a_column_of_weights_and_one_of_labels(tmp_path):
    def table(*weights):
        path = tmp_path / "rows.tsv"
        path.write_text("\n".join(["a\tb\tw\tc", *(f"x{i}\ty{i}\t{w}\tc{i % 2}" for i, w in enumerate(weights))]))
        return str(path)

    path, columns = table(1, 0.5, "2e0"), ("a", "b")
    data = Pairs(path, columns=columns, weight_column="w", label_column="c")
    assert [(e.weight, e.label) for e in data] == [(1.0, 0), (0.5, 1), (2.0, 0)]
    plain, alone = Pairs(path, columns=columns), Pairs(path, columns=columns, label_column="c")
    assert plain[0].weight is None
    assert len({data.hash, plain.hash, alone.hash}) == 3
    assert Texts(path, column="a", label_column="b")[2].label == 2
    assert Triplets(path, columns=("a", "b", "c"), weight_column="w")[1].weight == 0.5
    for bad in ("-1", "inf", "nan", "much", ""):
        with pytest.raises(UserError, match=rf"data.weight_column: .*rows.tsv:3 has the weight '{bad}'"):
            Pairs(table(1, bad), columns=columns, weight_column="w")
    with pytest.raises(UserError, match=r"data.label_column: .*rows.tsv:3 has no label"):
        Pairs(table(1, ""), columns=columns, label_column="w")
