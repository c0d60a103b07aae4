"""Every recipe that is shipped, found on the disk; and how recipes are merged, overridden and built."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from cse import recipe as recipes
from cse.data.collators import Masked, TextViews
from cse.data.datasets import Texts
from cse.errors import UserError
from cse.objectives.masked_lm import MaskedLM
from cse.objectives.simcse import SimCSE
from cse.objectives.weighted_sum import WeightedSum
from tests.runs import write_texts

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
FILES = sorted(p for p in FOLDER.rglob("*.yaml") if not p.name.startswith("_"))
HEADER = ("paper", "expected", "cost", "run")
every_recipe = pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(FOLDER)) for p in FILES])


def on_disk() -> set[str]:
    """The same files, found another way."""
    found = set()
    for folder, _, names in os.walk(FOLDER):
        found |= {os.path.join(folder, n) for n in names if n.endswith((".yaml", ".yml")) and n[0] != "_"}
    return found


def class_paths(value) -> list[str]:
    """Every class_path of a parsed YAML, however deep."""
    if isinstance(value, dict):
        own = [value["class_path"]] if "class_path" in value else []
        return own + [path for item in value.values() for path in class_paths(item)]
    return [path for item in value for path in class_paths(item)] if isinstance(value, list) else []


def test_no_recipe_is_missed(monkeypatch):
    assert {str(p) for p in FILES} == on_disk()
    assert len(FILES) == len(on_disk()) > 0
    monkeypatch.chdir(FOLDER.parent)
    assert recipes.names() == sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FILES)


@every_recipe
def test_it_parses_and_its_resolved_text_parses_to_the_same(path, tmp_path):
    recipe = load(str(path))
    (tmp_path / "resolved.yaml").write_text(recipe.text)
    again = recipes.load(str(tmp_path / "resolved.yaml"))
    assert again.text == recipe.text
    assert again.expect == recipe.expect
    assert recipes.find(recipe_name(path)).resolve() == path
    given = recipes.read(path)
    given.pop("expect", None)
    assert within(given, yaml.safe_load(recipe.text)) == []


def within(given, resolved, place="") -> list[str]:
    """Places where the resolved recipe has another value than the recipe gave."""
    if isinstance(given, dict) and isinstance(resolved, dict):
        return [x for k in given for x in within(given[k], resolved.get(k, "missing"), f"{place}.{k}")]
    if isinstance(given, list) and isinstance(resolved, list) and len(given) == len(resolved):
        return [x for i, item in enumerate(given) for x in within(item, resolved[i], f"{place}[{i}]")]
    return [] if given == resolved else [f"{place}: {given} became {resolved}"]


load = cache(recipes.load)


def recipe_name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


@every_recipe
def test_every_class_that_it_names_is_there(path):
    paths = class_paths(yaml.safe_load(load(str(path)).text))
    assert len(paths) >= 4  # data, collator, encoder, objective
    for class_path in paths:
        module, _, name = class_path.rpartition(".")
        assert isinstance(getattr(import_module(module), name), type), class_path


@every_recipe
def test_it_opens_with_what_a_reader_needs(path):
    """Its first lines are comments that say paper, expected score, cost and how to run it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = "\n".join(lines[:end]).lower()
    assert [word for word in HEADER if word not in header] == []
    assert recipe_name(path) in header, "the command that runs it names it"


# -- Merging ---------------------------------------------------------------------------------------------------------


def test_merging_by_pencil():
    base = {"a": {"x": 1, "y": [1, 2, 3]}, "b": {"class_path": "m.A", "init_args": {"p": 1, "q": {"r": 2}}}, "c": 5}
    over = {"a": {"y": [9]}, "b": {"class_path": "m.A", "init_args": {"q": {"s": 3}}}, "d": 6}
    assert recipes.merge(base, over) == {
        "a": {"x": 1, "y": [9]},  # a list replaces its parent's
        "b": {"class_path": "m.A", "init_args": {"p": 1, "q": {"r": 2, "s": 3}}},
        "c": 5,
        "d": 6,
    }
    assert recipes.merge(base, {"b": {"init_args": {"p": 7}}})["b"]["init_args"] == {"p": 7, "q": {"r": 2}}
    switched = recipes.merge(base, {"b": {"class_path": "m.B", "init_args": {"z": 0}}})
    assert switched["b"] == {"class_path": "m.B", "init_args": {"z": 0}}  # the other class's arguments are gone
    assert recipes.merge(base, {"b": {"class_path": "m.B"}})["b"] == {"class_path": "m.B"}
    assert base["a"]["y"] == [1, 2, 3]


def write(folder: Path, name: str, content: dict) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def parent_of(folder: Path, backbone: str) -> dict:
    return {
        "data": {"class_path": "cse.data.Texts", "init_args": {"path": str(write_texts(folder))}},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": 12, "views": 3}},
        "encoder": {
            "class_path": "cse.encoder.Encoder",
            "init_args": {"backbone": backbone, "lora_targets": ["a", "b"]},
        },
        "objective": {"class_path": "cse.objectives.simcse.SimCSE", "init_args": {"temperature": 0.2}},
        "trainer": {"batch_size": 4, "max_steps": 2},
    }


def test_a_chain_of_parents_in_other_folders(tmp_path, tiny_bert):
    write(tmp_path, "_base.yaml", parent_of(tmp_path, tiny_bert))
    write(tmp_path, "middle.yaml", {"extends": "_base.yaml", "seed": 1, "trainer": {"max_steps": 5}})
    leaf = {
        "extends": "../middle.yaml",
        "seed": 2,
        "encoder": {"init_args": {"lora_targets": ["c"]}},
        "objective": {"class_path": "cse.objectives.masked_lm.MaskedLM"},
        "expect": {"dev": [1.0, 2.0]},
    }
    recipe = recipes.load(str(write(tmp_path, "paper/leaf.yaml", leaf)))
    assert recipe.name == "paper-leaf"
    assert recipe.expect == {"dev": [1.0, 2.0]}
    config = recipe.config
    assert (config.seed, config.trainer.max_steps, config.trainer.batch_size) == (2, 5, 4)
    assert config.encoder.init_args.lora_targets == ["c"]
    assert config.collator.init_args.views == 3
    assert "temperature" not in recipe.text


def test_an_argument_of_another_class_in_the_recipe_itself_is_an_error(tmp_path, tiny_bert):
    content = parent_of(tmp_path, tiny_bert)
    content["objective"] = {"class_path": "cse.objectives.masked_lm.MaskedLM", "init_args": {"temperature": 0.1}}
    with pytest.raises(UserError, match="temperature"):
        recipes.load(str(write(tmp_path, "odd.yaml", content)))


def test_overrides_come_last(tmp_path, tiny_bert):
    path = str(write(tmp_path, "plain.yaml", parent_of(tmp_path, tiny_bert)))
    config = recipes.load(
        path, ["--objective.init_args.temperature=0.3", "--trainer.max_steps=7", "--seed", "5"]
    ).config
    assert config.objective.init_args.temperature == 0.3
    assert (config.trainer.max_steps, config.trainer.batch_size, config.seed) == (7, 4, 5)


def test_a_seed_fixes_what_is_built_and_parts_may_be_nested(tmp_path, tiny_bert):
    content = parent_of(tmp_path, tiny_bert)
    content["encoder"]["init_args"] = {"backbone": tiny_bert, "head": "mlp"}
    content["collator"] = {"class_path": "cse.data.Masked", "init_args": {"views": content["collator"]}}
    terms = [content["objective"], {"class_path": "cse.objectives.masked_lm.MaskedLM"}]
    content["objective"] = {
        "class_path": "cse.objectives.weighted_sum.WeightedSum",
        "init_args": {"terms": terms, "weights": [1, 0.1]},
    }
    path = str(write(tmp_path, "nested.yaml", content))
    built = recipes.build(recipes.load(path))
    assert isinstance(built.data, Texts)
    assert isinstance(built.collator, Masked)
    assert isinstance(built.collator.views, TextViews)
    assert (built.collator.views.views, built.collator.max_length) == (3, 12)
    assert isinstance(built.objective, WeightedSum)
    assert [type(term) for term in built.objective.terms] == [SimCSE, MaskedLM]
    assert built.objective.terms[0].temperature == 0.2
    assert built.evaluator is None
    assert built.callbacks == []
    assert built.trainer.batch_size == 4
    head = built.encoder.head.linear.weight
    assert recipes.build(recipes.load(path)).encoder.head.linear.weight.equal(head)
    assert not recipes.build(recipes.load(path, ["--seed=7"])).encoder.head.linear.weight.equal(head)
