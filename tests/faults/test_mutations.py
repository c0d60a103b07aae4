"""Each field of a stranger's model, of another type, range or size, or absent: the same vectors, or one error."""

import copy
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cse.encoder.model import Encoder
from cse.errors import UserError

TEXTS = ["the cat sat", "a dog ran fast on a mat"]
ABSENT = "(absent)"
VALUES = [ABSENT, None, True, False, "", "x", "256", [], {}, [1], {"a": 1}, -1, 0, 1, 3, 10**9, 10**18, 1.5, 1e308]
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "sentence_bert_config.json"]
FILES += ["config_sentence_transformers.json", "1_Pooling/config.json", "2_Dense/config.json"]
OTHERS = {
    "is_decoder",
    "layer_norm_eps",
    "num_attention_heads",
    "model",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
}


def places(content, *, depth=4):
    """The path of each value of a JSON file down to a depth."""
    found = [()]
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside if depth else ():
        found += [(key, *rest) for rest in places(value, depth=depth - 1)]
    return found


@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations") / "whole"
    Encoder(tiny_bert, pooler="mean", head="mlp", export_head=True, max_length=20, prompts={"q": "the "}).save(folder)
    (folder / "checkpoint.sha256").unlink()
    contents = {name: json.loads((folder / name).read_text()) for name in FILES}
    return folder, contents, Encoder.load(str(folder)).encode(TEXTS)


@pytest.mark.parametrize("name", FILES)
def test_a_field_of_a_model(name, whole, tmp_path):
    folder, contents, want = whole
    every = [place for place in places(contents[name]) if place]

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(place=st.sampled_from(every), value=st.sampled_from(VALUES))
    def mutate(place, value):
        content = copy.deepcopy(contents[name])
        at = content
        for key in place[:-1]:
            at = at[key]
        if value is ABSENT:
            del at[place[-1]]
        else:
            at[place[-1]] = value
        shutil.copytree(folder, tmp_path / "D", dirs_exist_ok=True)
        (tmp_path / "D" / name).write_text(json.dumps(content))
        try:
            found = Encoder.load(str(tmp_path / "D")).encode(TEXTS)
        except UserError as error:
            lines = str(error).splitlines()
        else:
            lines = ["", "fix: "]
            assert np.isfinite(found).all()
            assert place[0] in OTHERS or np.array_equal(found, want), (place, value)
        assert any(line.startswith("fix: ") for line in lines[1:5])
        assert len(lines) <= 5

    mutate()
