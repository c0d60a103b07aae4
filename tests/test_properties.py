"""Whatever a file, a recipe or a template holds: it is read as it was written, or refused with a UserError.

The inputs are drawn by hypothesis, the same ones in every run.
"""

import csv
import itertools
import json
import re
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cse import Texts, UserError, recipe
from cse.encoder.checkpoint.layout import ACTIVATION_PATHS, LEGACY, TRANSFORMER, Dense, Layout, module_list
from cse.encoder.poolers import POOLERS
from cse.encoder.template import bake, template_of
from cse.recipe import Recipe

FIXED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LETTERS = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
ROWS = st.lists(st.text(LETTERS, max_size=30), max_size=5).map(lambda texts: ["one", "two", *texts])


def stripped(texts):
    """The rows of a data set: texts without the blanks around them, each once, and no blank one."""
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def attempt(work):
    """What it returns, or None if it refuses its input in words."""
    try:
        return work()
    except UserError as error:
        message = str(error)
    assert "\nfix: " in message
    return None


def written(kind: str, texts, path: Path) -> None:
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
        else:
            file.write("\n".join([*(["text"] if kind == "tsv" else []), *texts]) + "\n")


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "jsonl", "memory"])
@FIXED
@given(texts=ROWS)
def test_any_text_comes_back_from_a_file(kind, texts):
    if kind in {"tsv", "txt"}:  # a row is a line, and nothing is quoted
        texts = [re.sub("[\t\n\r]", " ", text) for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rows.{kind}")
        written(kind, texts, path)
        assert [row.texts[0] for row in Texts(texts if kind == "memory" else str(path))] == stripped(texts)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(LETTERS, max_size=12))
PARTS = ["data", "encoder", "objective", "collator", "evaluator", "trainer", "sampler", "negatives", "callbacks"]
KEYS = st.sampled_from(
    [*PARTS, "seed", "expect", "for", "objects", "class_path", "init_args", "temperature", "path", "x"]
)
CLASSES = st.sampled_from(["cse.SimCSE", "cse.objectives.simcse.SimCSE", "cse.data.Texts", "os.system", "json", ""])
VALUES = st.recursive(
    st.one_of(SCALARS, CLASSES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
RECIPES = st.dictionaries(KEYS, VALUES, max_size=4)


@FIXED
@given(content=RECIPES, extends=st.booleans())
def test_any_mapping_is_a_recipe_or_refused(content, extends):
    base = {"extends": str(recipe.folder() / "simcse-unsup.yaml")} if extends else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "own.yaml")
        path.write_text(yaml.safe_dump({**base, **content}, allow_unicode=True), encoding="utf-8")
        assert isinstance(attempt(lambda: recipe.load(str(path))), Recipe | None)


TEMPLATES = st.lists(
    st.one_of(
        st.sampled_from(["{text}", "{mask}", "[MASK]", "[CLS]", "{", "}", "{other}", "the cat"]), st.text(LETTERS)
    ),
    max_size=5,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


@FIXED
@given(template=TEMPLATES)
def test_any_template_is_baked_or_refused(template, tokenizer):
    baked = attempt(lambda: bake(tokenizer, template))
    if baked is None:
        return
    whole = template.replace("{mask}", tokenizer.mask_token)
    prefix, suffix = whole.split("{text}")
    parts = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prefix, "the cat", suffix))
    ids = itertools.chain.from_iterable(parts)
    assert template_of(baked) == whole
    assert baked("the cat")["input_ids"] == [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]


SIZES = st.integers(1, 64)
DENSE = st.builds(Dense, SIZES, SIZES, st.booleans(), st.sampled_from(sorted(ACTIVATION_PATHS)))
NAMES = st.text(LETTERS, min_size=1, max_size=8)
PROMPTS = st.dictionaries(NAMES, st.text(LETTERS, max_size=12), max_size=3)


@st.composite
def layouts(draw):
    """Any layout that an encoder with its backbone in the folder has."""
    pooler = draw(st.sampled_from(sorted(set(POOLERS) - {"mask"})))
    return Layout(
        modules=module_list(f"{LEGACY}{TRANSFORMER}", pooler, draw(st.lists(st.one_of(st.none(), DENSE), max_size=3))),
        pooler=pooler,
        width=draw(SIZES),
        depth=draw(st.integers(3, 12)),
        architecture="bert",
        max_length=draw(st.integers(1, 600)),
        lower_case=draw(st.booleans()),
        prompts=draw(PROMPTS),
        similarity=draw(st.sampled_from(["cosine", "dot", "euclidean", None])),
        truncate_dim=draw(st.one_of(st.none(), SIZES)),
    )


@FIXED
@given(layout=layouts())
def test_a_layout_is_read_as_it_was_written(layout):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {"hidden_size": layout.width, "num_hidden_layers": layout.depth, "model_type": layout.architecture}
        (folder / "config.json").write_text(json.dumps(config))
        layout.write(folder)
        assert Layout.read(folder) == layout
