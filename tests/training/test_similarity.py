"""A run by distance: its dev score, its checkpoints and its notes say so; a run by cosine says cosine again."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

import cse
import cse.evaluation
from cse import Encoder, STSEvaluator, Trainer, UserError, export
from cse.encoder.checkpoint.layout import Layout
from cse.evaluation.encoding import comparison, nearness
from cse.inference.export import OnnxEncoder
from cse.training.callbacks import run_warnings
from cse.training.sources import similarities
from tests.runs import make_run, metrics, triplets_recipe
from tests.training.helpers import qa

CLOSE = 0.05  # of points; the last bits of vectors depend on the batch, and order pairs that are nearly tied


@pytest.fixture(scope="module")
def run(tiny_bert, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("euclip"), tiny_bert, objective=cse.EuCLIP(), max_steps=2, eval_every=1)
    run.evaluator = STSEvaluator(tasks="sts-mini-dev", precision="fp32")
    return Trainer(run).fit()


def spearman_of_distances(encoder):
    scored = STSEvaluator(tasks="sts-mini-dev")._found["sts-mini-dev"].subsets
    first, second, gold = ([x for p in scored.values() for x in getattr(p, k)] for k in ("first", "second", "gold"))
    vectors = np.stack([encoder.encode(first), encoder.encode(second)]).astype(np.float64)
    return 100 * spearmanr(-cdist(*vectors).diagonal(), gold).statistic


def test_the_dev_score_is_that_of_distances(run):
    best = Encoder.load(str(run.folder / "best"))
    want = spearman_of_distances(best)
    assert max(line["dev"] for line in metrics(run.folder)) == pytest.approx(want, abs=CLOSE)
    scored = cse.evaluate(run.folder / "best", "sts-mini-dev", precision="fp32")
    assert scored.scores["sts-mini-dev"] == pytest.approx(want, abs=CLOSE)
    assert scored.results["model"]["similarity"] == "euclidean"


def test_sentence_transformers_compares_and_we_score_its_model_by_distance(run):
    model = SentenceTransformer(str(run.folder / "best"))
    assert model.similarity_fn_name == "euclidean"
    got = STSEvaluator(tasks="sts-mini-dev", precision="fp32")(model)["dev"]
    assert got == pytest.approx(spearman_of_distances(Encoder.load(str(run.folder / "best"))), abs=CLOSE)


def test_an_export_is_scored_by_distance(run, tmp_path):
    pytest.importorskip("onnxruntime")
    export(Encoder.load(str(run.folder / "best")), tmp_path / "onnx")
    assert comparison(OnnxEncoder(tmp_path / "onnx")) is nearness


def test_a_run_by_cosine_says_cosine_again(run, tmp_path):
    again = make_run(tmp_path, "", encoder=Encoder(str(run.folder / "best")), max_steps=1)
    assert again.encoder.similarity == "euclidean"
    Trainer(again).fit()
    assert Layout.read(again.folder / "last").similarity == "cosine"
    assert "collapse" in run_warnings(again, {"neg_cos": 0.999})[0]
    assert run_warnings(run, {"neg_cos": 0.999}) == []  # a cosine says nothing about distances


def test_what_a_sum_inherits():
    other = cse.Triplet()
    other.note = "Keep them short."
    both = cse.WeightedSum(terms=[cse.MaskedLM(), cse.EuCLIP(), other, cse.EuCLIP()], weights=[1.0] * 4)
    assert (both.similarity, both.note) == ("euclidean", f"{cse.EuCLIP.note} Keep them short.")
    plain = cse.WeightedSum(terms=[cse.SimCSE(), cse.AlignUniform()], weights=[1.0, 0.1])
    assert (plain.similarity, plain.note) == ("cosine", "")


def test_the_note_is_kept_for_the_card(tiny_bert, tmp_path):
    recipe = triplets_recipe(tmp_path, tiny_bert, trainer={"max_steps": 1})
    for objective, note in ((cse.EuCLIP(), cse.EuCLIP.note), (cse.SimCSE(), None)):
        made = cse.train(recipe, objective=objective, run_dir=tmp_path / f"{note is None}")
        assert json.loads((made.folder / "env.json").read_text()).get("note") == note


def test_a_mixture_of_two_geometries_is_refused_by_name(tiny_bert, tmp_path):
    def mixed(weight, **objectives):
        sources = {name: cse.Source(qa(), objective=o, weight=weight) for name, o in objectives.items()}
        run = make_run(tmp_path, tiny_bert, max_steps=1, batch_size=4)
        run.data = cse.Mixture({**sources, "plain": cse.Source(qa())})
        return run

    with pytest.raises(UserError, match="different similarities: far: euclidean, words: cosine, plain: cosine"):
        Trainer(mixed(1.0, far=cse.EuCLIP(), words=cse.SimCSE()))
    assert similarities(mixed(1.0, words=cse.MaskedLM())) == {"plain": "cosine"}
    assert (
        Trainer(mixed(0.0, far=cse.EuCLIP())).run.encoder.similarity == "cosine"
    )  # a source without steps shapes nothing
