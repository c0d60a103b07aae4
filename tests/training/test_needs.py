"""What an objective needs of rows, a run gives it or is refused, by name and before anything is written.

That several processes have the loss of one is a contract of every objective.
"""

import pytest

from cse.data.datasets import Pairs, Texts, Triplets
from cse.data.views.texts import TextViews
from cse.objectives.cosent import CoSENT
from cse.objectives.dcl import DCL
from cse.objectives.feature_distillation import FeatureDistillation
from cse.objectives.gcl import GradedGCL
from cse.objectives.margin_mse import MarginMSE
from cse.objectives.simcse import SimCSE
from cse.objectives.supclseq import SupCLSeq
from cse.objectives.supcon import SupCon
from cse.teachers.frozen import FrozenEncoder
from cse.training.trainer import Trainer
from tests.refusals import refuses
from tests.runs import make_run, metrics
from tests.training.helpers import TEXTS, Unweighted


def weighted(weights):
    rows = [{"a": TEXTS[2 * i], "b": TEXTS[2 * i + 1], "w": w} for i, w in enumerate(weights)]
    return Pairs(rows, columns=("a", "b"), weight_column="w")


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


def labelled(labels):
    return Texts(
        [{"text": text, "class": label} for text, label in zip(TEXTS, labels, strict=False)], label_column="class"
    )


def losses(folder, backbone, objective, data=None, views=2, **options):
    """The losses of a run, on texts unless there are other data."""
    collator = TextViews(max_length=12, views=views)
    run = make_run(folder, backbone, objective=objective, collator=collator, **options)
    run.data = data or run.data
    return [line["loss"] for line in metrics(Trainer(run).fit().folder) if "loss" in line]


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
    (None, FeatureDistillation(teacher=FrozenEncoder(source="./nobody")), "nobody"),
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
