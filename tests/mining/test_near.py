"""Near texts as positives: the nearest by numpy, and what is refused; kills are tested with mined negatives."""

import numpy as np
import pytest

from cse import Dropout, Encoder, NearTexts, PccTuning, Texts, TextViews, TopK, Triplets, UserError
from cse.seeding import seed_dropout
from cse.teachers.copy import EncoderCopy
from cse.training import preflight
from tests.refusals import refuses
from tests.runs import make_run, write_texts, write_triplets


def spread(backbone, **options):
    """An encoder whose sentences are not all alike."""
    seed_dropout("near")
    encoder = Encoder(backbone, head="mlp", **options)
    for weight in encoder.parameters():
        weight.data *= 4
    return encoder


def near(**options):
    return NearTexts(**{"miner": TopK(last=6), "k": 2, "precision": "fp32", **options})


@pytest.mark.parametrize(
    ("first", "prompts"), [(1, {}), (3, {"anchor": "the ", "positive": "red sun ", "negative": "dog "})]
)
def test_they_are_the_nearest_by_numpy(tiny_bert, tmp_path, prompts, first):
    encoder, source = spread(tiny_bert).eval(), near(miner=TopK(first=first, last=6))
    data = Texts(str(write_texts(tmp_path, 24)))
    texts = [example.texts[0] for example in data]
    source.prompts = prompts
    source.setup(data, 3)
    rows, until = source.rows(0, encoder)
    assert until == 3

    def unit(role):
        vectors = encoder.encode(texts, prompt=prompts.get(role, "")).astype(float)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    cosine = unit("anchor") @ unit("positive").T
    np.fill_diagonal(cosine, -np.inf)
    for i, row in enumerate(rows):
        assert row.texts[0] == texts[i]
        assert (row.num_positives, row.row_id) == (2, data[i].row_id)
        assert len(set(row.texts)) == 3
        found = [cosine[i, texts.index(text)] for text in row.texts[1:]]
        want = np.sort(cosine[i])[::-1][first - 1 : first + 1]
        assert found == pytest.approx(want, abs=1e-6)  # of two that are as near, either will do


def test_an_encoder_without_dropout_may_learn_from_them(tiny_bert, tmp_path):
    """The views of a row are different texts, with which roles of prompts fit too."""
    plain = spread(tiny_bert, dropout=Dropout(attention=0.0, hidden=0.0))
    views, objective = TextViews(max_length=12, prompts={"positive": None}), PccTuning(teacher=EncoderCopy())
    run = make_run(tmp_path, tiny_bert, encoder=plain, collator=views, objective=objective)
    run.source = near()
    preflight.check(run)
    run.source = make_run(tmp_path / "fixed", tiny_bert).source
    refuses(r"the encoder has no dropout(.|\n)*collator.prompts.positive is None", preflight.check, run)


def test_what_is_refused(tiny_bert, tmp_path):
    for options, named in (({"k": 0}, "negatives.k is 0"), ({"epochs": 0.0}, "negatives.epochs is 0.0")):
        refuses(named, near, **options)
    with pytest.raises(UserError, match=r"takes single texts, and a row has 3\nfix: give data of single texts"):
        near().setup(Triplets(str(write_triplets(tmp_path))), 1)
    texts = Texts(str(write_texts(tmp_path, 6)))
    refuses(r"negatives.k is 6, and the data has 6 different texts\nfix: ", lambda: near(k=6).setup(texts, 1))
    few = near(miner=TopK(last=3), k=4)
    few.setup(texts, 1)
    refuses(r"negatives.k is 4, and the miner found 3 texts near row 0: 'the cat", few.rows, 0, spread(tiny_bert))
