"""Losses of vectors against their authors' programs: of every case the loss, its terms and the gradient of each input.

Objectives whose cases hold more than vectors are compared in files of their own, as are limits and slow loops.
"""

from functools import partial

import pytest
import torch

import cse
from tests.cases import cases, load, not_offered
from tests.objectives.helpers import Case, Given, agrees, run, sized, vectors

CASES = {  # of objectives without a file of their own
    **dict.fromkeys(
        ("DCL", "DCLW", "EuCLIP", "GCL", "GradedGCL", "GTE", "HCL", "HNNCE", "InfoLOOB", "KernelInfoNCE"), Case()
    ),
    "CLAIF": Case(texts=2),
    "CosineMSE": Case(even=True),
    "ListwiseKL": Case({"compare": "cosine", "student_temperature": 0.5}, even=True),
    "MarginMSE": Case({"compare": "cosine"}, even=True),
}
COMPARE = {"dot": "dot", "cos": "cosine"}
HNNCE_TERMS = {"anchor_to_positive": "loss_forward", "positive_to_anchor": "loss_backward"}


def program(family, objective, *beginnings, where=lambda about: True, **expected):
    """The cases of a program, as parameters.

    Args:
        family: The stem of the JSON file.
        objective: A function of (settings, arrays) that builds ours.
        beginnings: Those of the names, as `where` is for `cases`.
        where: See `cases`.
        expected: What `agrees` is told: the key of the loss, the suffix of the gradients, and the keys of terms.
    """
    names = cases(family, *beginnings, where=where)
    found = [(name, ()) if isinstance(name, str) else (None, name.marks) for name in names]
    return [
        pytest.param(family, name, objective, expected, id=f"{family}-{name}{expected.get('suffix', '')}", marks=marks)
        for name, marks in found
    ]


def dcl(about, data):
    if about["sigma"] is None:
        return cse.DCL(temperature=about["temperature"])
    return cse.DCLW(temperature=about["temperature"], sigma=about["sigma"])


def twice_dcl(about, data):
    """As in the program that sums the directions, and lets the weights have a gradient."""
    objective = dcl(about, data)
    objective.detach_weights = False
    return cse.WeightedSum(terms=[objective], weights=[2.0])


def above_rounding(about):
    """At a lower temperature, that program masks a view with itself by e^-103, which is not small there."""
    return 1 / about["temperature"] < 80


def gcl(about, data):
    if about["kind"] == "row_weights":
        return cse.GCL(temperature=about["temperature"], symmetric=about["symmetric"])
    return cse.GradedGCL(temperature=about["temperature"])


def all_pairs(about):
    return about["layout"] == "all_pairs"


def pairs_alone(about):
    return about["layout"] == "pairs"


def hcl(about, data):
    return cse.HCL(temperature=about["temperature"], beta=about["beta"], class_prior=about["tau_plus"])


def hnnce(about, data, **options):
    return cse.HNNCE(temperature=about["temperature"], alpha=about["alpha"], beta=about["beta"], **options)


def kernel_infonce(about, data, **options):
    given = {key: about[key] for key in ("gamma", "temperature", "mix")}
    return cse.KernelInfoNCE(combination={"origin": "none"}.get(about["kind"], about["kind"]), **given, **options)


def gistembed(about, data):
    names = ("temperature", "margin", "margin_strategy", "contrast_anchors", "contrast_positives")
    return cse.GISTEmbed(guide=Given(data["guide"]), **{name: about[name] for name in names})


def is_joint(about):
    """Whether the directions of a case of the symmetric loss share a softmax, as in GTE."""
    return about["partition"] == "joint" and len(about["directions"]) > 1


def symmetric(about, data):
    modes = {None: "all", "all_negatives": "all", "in_batch_negatives": "in_batch", "hard_negatives": "hard"}
    options = {"temperature": about["temperature"], "hardness_of": modes[about["hardness_mode"]]}
    options["hardness"] = about["hardness_strength"] if about["hardness_mode"] else 0.0
    if is_joint(about):
        return cse.GTE(directions=about["directions"], **options)
    if about["directions"] not in (["query_to_doc"], ["query_to_doc", "doc_to_query"]):
        not_offered(f"the directions {about['directions']}, each with a softmax of its own")
    return (cse.SimCSE if len(about["directions"]) == 1 else cse.SymmetricInfoNCE)(**options)


def listwise_kl(about, data):
    temperatures = {key: about[key] for key in ("student_temperature", "teacher_temperature")}
    return cse.ListwiseKL(compare=COMPARE[about["similarity"]], **temperatures)


PROGRAMS = [
    *program(
        "align_uniform_loss",
        lambda about, _: cse.AlignUniform(alpha=about["alpha"], t=about["t"], uniform_weight=about["weight"]),
        alignment="align",
        uniformity="uniform",
    ),
    *program("claif", lambda about, _: cse.CLAIF(), where=lambda about: "smooth" not in about),
    *program("dcl", dcl),
    *program("dcl", twice_dcl, where=above_rounding, loss="loss_sum_program", suffix="_sum_program"),
    *program("distill", lambda about, _: cse.CosineMSE(), "cosine_mse"),
    *program("distill", lambda _, data: sized(cse.FeatureDistillation, data["x"].shape[-1]), "feature_mse"),
    *program("distill", listwise_kl, "kl_"),
    *program("distill", lambda about, _: cse.MarginMSE(compare=COMPARE[about["similarity"]]), "marginmse_"),
    *program(
        "euclip",
        lambda about, _: cse.EuCLIP(
            temperature=1 / about["logit_scale"], squared=about["geometry"] == "euclidean-squared"
        ),
    ),
    *program("gcl", gcl),
    *program("gistembed", gistembed),
    *program("hnnce", hcl, where=all_pairs),
    *program("hnnce", hnnce, where=pairs_alone, **HNNCE_TERMS),
    *program(
        "hnnce",
        partial(hnnce, detach_weights=True),
        where=pairs_alone,
        suffix="_weights_held",
        **HNNCE_TERMS,
    ),
    *program(
        "infoloob",
        lambda about, _: cse.InfoLOOB(temperature=1 / about["inv_tau"], hopfield_beta=about["hopfield_beta"]),
        anchor_to_positive="loss_anchor_to_positive",
        positive_to_anchor="loss_positive_to_anchor",
    ),
    *program("kernel_infonce", kernel_infonce),
    *program("kernel_infonce", partial(kernel_infonce, epsilon=1e-6), loss="loss_released", suffix="_released"),
    *program("symmetric", symmetric),
    *program("triplet", lambda about, _: cse.Triplet(distance=about["distance"], margin=about["margin"])),
]


@pytest.mark.parametrize(("family", "name", "objective", "expected"), PROGRAMS)
def test_every_case(family, name, objective, expected):
    about, data = load(family, name)
    rows, leaves = vectors(data)
    fields = {"score": data.get("y"), "weight": data.get("weight"), "relevance": data.get("relevance")}
    if "teacher" in data:
        fields["teacher"] = data["teacher"].reshape(len(rows), -1)
    positives = data["positive"].shape[1] if "relevance" in data else 1
    agrees(run(objective(about, data), rows, positives, **fields), about, data, leaves, **expected)


@pytest.mark.parametrize(
    "objective",
    [cse.EuCLIP(squared=False), cse.HCL(temperature=0.05, class_prior=0.9), cse.KernelInfoNCE(gamma=0.5)],
    ids=str,
)
def test_equal_vectors_have_a_finite_gradient(objective):
    """Where a root or a floor has none: with the defaults, the contract tests say so of every objective."""
    rows = torch.randn(4, 1, 6).expand(4, 2, 6).clone().requires_grad_()
    run(objective, rows).loss.backward()
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize(
    "objective",
    [
        cse.DCL(),
        cse.DCLW(),
        cse.EuCLIP(),
        cse.GTE(),
        cse.HCL(),
        cse.HNNCE(),
        cse.KernelInfoNCE(),
        cse.SimCSE(),
        cse.SymmetricInfoNCE(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_a_copy_of_a_row_is_no_negative_of_it_and_shares_its_weight(objective):
    rows, ids = torch.randn(3, 2, 8, dtype=torch.float64), torch.arange(3)[:, None].expand(-1, 2)
    want = run(objective, rows, text_id=ids, weight=torch.tensor([1.0, 0, 0])).loss.item()
    rows, ids = (torch.cat([each, each[:1]]) for each in (rows, ids))
    got = run(objective, rows, text_id=ids, weight=torch.tensor([0.5, 0, 0, 0.5])).loss.item()
    assert got == pytest.approx(want, rel=1e-9)


def test_every_other_text_of_a_row_has_a_cosine_of_the_teacher():
    rows = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])  # cosines 1 and 0
    assert run(cse.CosineMSE(), rows, teacher=torch.tensor([[0.5, -1.0]])).loss.item() == pytest.approx((0.25 + 1) / 2)
