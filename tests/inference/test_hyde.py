"""HyDE against its authors' program (oracles), and its limits."""

import numpy as np
import pytest

from cse import hyde
from cse.encoder.model import Encoder
from cse.encoder.vectors import unit
from cse.errors import UserError
from tests.cases import cases, load


class Known:
    """An encoder whose vectors are given: the query, then the passages."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts, **_):
        return self.vectors[[int(text) for text in texts]]


@pytest.mark.parametrize("name", cases("hyde", has="passages"))
def test_every_case(name):
    data = {key: array.numpy() for key, array in load("hyde", name)[1].items()}
    passages = [str(i) for i in range(1, len(data["vectors"]))]
    found = hyde(Known(data["vectors"]), "0", passages)
    assert np.allclose(found, data["hyde"][0], atol=1e-6)
    assert np.argsort(-(data["index"] @ found), kind="stable")[:10].tolist() == data["top"].tolist()
    found = hyde(Known(unit(data["vectors"])), "0", passages)
    assert np.allclose(found, data["hyde_unit"], atol=1e-6)


def test_limits(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean", prompts={"query": "the cat ", "document": "a dog "}).eval()
    query = encoder.encode(["red sun"], prompt_name="query")[0]
    assert np.allclose(hyde(encoder, "red sun", [], prompt="query"), query)
    same = hyde(encoder, "red sun", ["red sun"] * 3, prompt="query", passage_prompt="query")
    assert np.allclose(same, query, atol=1e-6)
    other = hyde(encoder, "red sun", ["red sun"], prompt="query", passage_prompt="document")
    assert np.allclose(other, (query + encoder.encode(["red sun"], prompt_name="document")[0]) / 2, atol=1e-6)
    with pytest.raises(UserError, match="passages is 'a text', one text"):
        hyde(encoder, "red sun", "a text")
