"""What objectives refuse: arguments out of range, arguments that do not fit each other, and batches.

That a field is missing is said by name, as the contract tests show of every objective.
"""

import math
from typing import get_type_hints

import pytest
import torch

import cse
from cse import PEARL, SimCSE
from tests.objectives.contract import OBJECTIVES, case_of, every_objective
from tests.objectives.helpers import refuses, run, sized

NEEDED = {  # besides the argument that is wrong
    "AdaptiveLayer": {"term": SimCSE()},
    "Matryoshka": {"term": SimCSE()},
    "OfViews": {"term": SimCSE()},
    "WeightedSum": {"terms": [SimCSE(), SimCSE()]},
}
ARGUMENTS = {  # class -> argument without a range in its annotation -> a value, or several, that it refuses by name
    "AdaptiveLayer": {"layers_per_step": -1, "kl_temperature": -0.1, "prior_weight": math.nan},
    "Matryoshka": {"dimensions": ([0, 4], [4, 4], []), "dimensions_per_step": 0},
    "OfViews": {"views": ([], [0, -1], [1, 1])},
    "RankCSE": {
        "temperature": 0.0,
        "teacher_temperature": -1.0,
        "first_weight": 1.5,
        "consistency_weight": -1.0,
        "ranking_weight": -0.1,
        "teachers": [],
    },
    "SupCLSeq": {"rates": ([], [0.0, 1.0])},
    "SymmetricInfoNCE": {"temperature": 0.0, "hardness": -1.0},
}


@every_objective
def test_what_its_annotation_excludes_is_refused_by_name(name, tiny_bert):
    """No range holds nan, and what else is outside of one is tested with the ranges themselves."""
    hints = get_type_hints(OBJECTIVES[name].__init__, include_extras=True)
    for option in [option for option, hint in hints.items() if "Annotated" in str(hint)]:
        given = case_of(name, tiny_bert).arguments | {option: math.nan}
        refuses(rf"objective\.{option} is nan", OBJECTIVES[name], **given)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_out_of_range(name):
    for argument, bad in ARGUMENTS[name].items():
        for value in bad if isinstance(bad, tuple) else (bad,):
            named = rf"{argument}(\[\d\])? (is|has|names|must)"
            refuses(named, getattr(cse, name), **NEEDED.get(name, {}), **{argument: value})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("BottleneckDecoder", {"predict": "next", "window": 0}, "window is 0"),
        ("BottleneckDecoder", {"window": 3}, "window is 3, and objective.predict is masked"),
        ("BottleneckDecoder", {"predict": "next", "decoder_start": "last"}, "decoder_start is last"),
        ("ClipKD", dict.fromkeys(("task", "fd", "ckd", "icl"), 0.0), "nothing is learned"),
        ("GTE", {"directions": ["doc_to_doc"]}, "add query_to_doc"),
        ("LogitDistillation", {"classes": 2}, "classes is 2, but a dot product is one logit"),
        ("LogitDistillation", {"head": "concat", "classes": 3}, "task is binary"),
        ("LogitDistillation", {"head": "concat", "task": "classes"}, "classes 1"),
        ("Matryoshka", {"dimensions": [4, 2], "weights": [1.0]}, "objective.weights has 1 entries"),
        ("Matryoshka", {"dimensions": [4], "weights": [-1.0]}, r"objective.weights\[0\] is -1.0"),
        ("Momentum", {"queue_size": 8, "queue_start": 9}, r"is 9.*room for 8\nfix: give an integer from 0 to 8"),
        ("SNCSE", {"least_gap": 0.4}, r"least_gap is 0.4 and objective.largest_gap is 0.3"),
        ("WeightedSum", {"weights": [1.0]}, "objective.weights has 1"),
        ("WeightedSum", {"weights": [1.0, 1.0], "decays": [1.0]}, "decays 1"),
        ("WeightedSum", {"weights": [1.0, 1.0], "starts": [3]}, "starts 1"),
        ("WeightedSum", {"weights": [1.0, 1.0], "starts": [0, -1]}, r"objective.starts\[1\] is -1"),
        ("WeightedSum", {"weights": [1.0, 1.0], "decays": [1.0, 0.0]}, "objective.decays"),
        ("WeightedSum", {"weights": [1.0, 1.0], "decays": [1.0, 1.5]}, "objective.decays"),
    ],
)
def test_arguments_that_do_not_fit(name, arguments, message):
    refuses(message, getattr(cse, name), **NEEDED.get(name, {}), **arguments)


OUTSIDE = [torch.tensor([0.5, bad, 0.1]) for bad in (1.5, -0.1, math.nan)]
IDS, LABELS = torch.arange(3), torch.tensor([0, 1, 2])


def numbers(count):
    """That many numbers of a teacher for each of three rows."""
    return {"teacher": torch.zeros(3, count)}


@pytest.mark.parametrize(
    ("objective", "views", "positives", "fields", "message"),
    [
        (cse.AlignUniform(), 1, 0, {}, r"collator\.views"),
        (cse.AnglE(), 2, 1, {}, "score"),
        (cse.AnglE(), 3, 2, {}, "one positive"),
        *(
            (cse.ArcCSE(), n, 1, {}, rf"four views.*has {n}\. Set collator to cse\.data\.NestedViews")
            for n in (2, 3, 5)
        ),
        *((kind(), 2, 1, {"score": s}, r"\[0, 1\]") for kind in (cse.CLAIF, cse.CoSENT) for s in OUTSIDE),
        *((kind(), 3, 1, {"score": torch.zeros(3)}, "two texts of a row") for kind in (cse.CLAIF, cse.CoSENT)),
        (cse.CLHAIF(), 3, 1, {"score": torch.tensor([0.5, 80.0, 0.1])}, r"\[0, 1\]"),
        (cse.CLHAIF(), 3, 2, {"score": torch.zeros(3)}, "2"),
        (sized(cse.ClipKD, 4), 2, 1, {}, r"ClipKD needs Batch\.teacher"),
        (sized(cse.ClipKD, 4), 2, 1, numbers(12), r"set objective\.dim to 6"),
        (sized(cse.CosineDistillation, 4), 2, 1, numbers(12), r"set objective\.dim to 6"),
        (cse.CosineMSE(), 2, 1, {"teacher": torch.full((3, 1), 7.0)}, "ranges from 7 to 7. MarginMSE"),
        (cse.CosineMSE(), 2, 1, numbers(2), "a row has 1, and Batch.teacher 2 numbers"),
        (cse.CosineMSE(), 1, 0, numbers(1), "this batch has one"),
        (cse.DCL(), 1, 0, {}, "rows have one view"),
        (cse.DPR(hard=2), 3, 1, {}, "DPR needs a positive and 2 hard passages; rows have 1 and 1"),
        (cse.EuCLIP(), 3, 2, {}, "one positive"),
        (sized(cse.FeatureDistillation, 4), 2, 1, numbers(12), r"set objective\.dim to 6"),
        (sized(cse.FeatureDistillation, 4), 2, 1, numbers(5), r"each of the 2 texts.*; Batch\.teacher has 5 numbers"),
        (cse.GTE(), 3, 2, {}, "one positive"),
        (cse.InfoLOOB(), 3, 2, {}, "one positive; got 2"),
        (cse.KernelInfoNCE(), 1, 0, {}, r"collator\.views"),
        (cse.ListwiseKL(), 4, 1, numbers(2), "a row has 3, and 2 scores"),
        (cse.ListwiseKL(), 2, 1, numbers(1), "two or more texts"),
        (sized(cse.LogitDistillation, 4, share=1.0), 2, 1, numbers(3), r"has 1 logits; Batch\.teacher has 3 numbers"),
        (
            sized(cse.LogitDistillation, 4, head="concat", task="classes", classes=2),
            2,
            1,
            {**numbers(2), "label": LABELS},
            "more labels",
        ),
        (cse.MarginMSE(), 4, 1, numbers(4), "3 scores of the positive .* or 2 margins; Batch.teacher has 4"),
        (cse.MarginMSE(), 2, 1, numbers(1), "hard negatives"),
        (cse.MEQ(), 3, 1, {}, "MEQ needs rows of a question, a positive, and at the end a paraphrase"),
        (cse.OfViews(term=SimCSE(), views=[0, 3]), 3, 2, {}, r"objective\.views names view 3, and rows have 3"),
        (cse.OfViews(term=cse.AlignUniform(), views=[0]), 3, 2, {}, "AlignUniform needs two views"),
        (cse.PccTuning(), 3, 1, {"score": torch.rand(3)}, "the two texts of a row; this batch has 3"),
        (cse.PccTuning(), 1, 0, {"score": torch.rand(3)}, "this batch has one in each"),
        (sized(PEARL, 4, types=3), 3, 2, {"label": LABELS}, "PEARL compares two views of a phrase; rows have 3"),
        *((cse.PolyView(form=f), 1, 0, {}, r"collator\.views") for f in ("geometric", "arithmetic", "sufficient")),
        *((cse.RankCSE(), n, n - 1, {}, f"one positive per row; got {n - 1}") for n in (1, 3)),
        (
            cse.SetCSE(form="inter_set"),
            1,
            0,
            {"label": torch.full((3,), 2)},
            "compares sets, and all rows have one label",
        ),
        (SimCSE(negatives="own"), 2, 1, {}, "needs hard negatives in its rows"),
        (cse.SNCSE(), 3, 2, {}, "SNCSE needs rows of one positive; this batch has 2"),
        (cse.Symile(), 3, 1, {"row_id": IDS}, "hard negatives"),
        (cse.Symile(), 1, 0, {"row_id": IDS}, r"collator\.views"),
        (cse.SymmetricInfoNCE(), 3, 2, {}, "one positive"),
        *((cse.Triplet(), n, n - 1, {}, f"a hard negative in each row; this batch has {n - 1} and 0") for n in (1, 2)),
        (sized(cse.WhitenedCSE, 4, group_size=4), 2, 1, {}, "batch_size is 3 and group_size 4"),
        (sized(cse.WhitenedCSE, 4, group_size=3), 2, 1, {}, "group_size is 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else None,
)
def test_batches(objective, views, positives, fields, message):
    """Of three rows with some views each."""
    refuses(message, run, objective, torch.randn(3, views, 4), positives, **fields)


@pytest.mark.parametrize(
    ("objective", "views"),
    [
        (cse.AlignUniform(), 2),
        (cse.InfoLOOB(), 2),
        (sized(PEARL, 4, types=3), 2),
        *((cse.PolyView(form=form), 3) for form in ("geometric", "arithmetic", "sufficient")),
        (SimCSE(), 2),
        (cse.SymmetricInfoNCE(), 2),
        (cse.GTE(), 2),
    ],
)
def test_a_batch_of_one_row(objective, views):
    refuses("batch_size is 1", run, objective, torch.randn(1, views, 4), views - 1, label=torch.tensor([0]))
