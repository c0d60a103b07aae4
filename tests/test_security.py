"""Each sentence that SECURITY.md promises is held by a test, which is named here."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HELD = {  # how a sentence begins -> the test that holds it
    "A recipe is code": "faults/test_recipes.py::test_what_a_stranger_may_name_is_checked_where_it_is_imported",
    "A recipe may name classes": "training/test_recipe_file.py::test_what_the_user_names_is_trusted",
    "Anything else is refused": "faults/test_recipes.py::test_no_spelling_imports_the_module_of_a_stranger",
    "No option is read": "faults/test_recipes.py::test_no_option_is_read_from_a_file_or_a_text",
    "YAML is read by": "training/test_recipe_file.py::test_it_is_refused",
    "Weights are read from": "faults/test_models.py::test_a_strangers_model",
    "`auto_map` and modules": "encoder/test_bad_models.py::test_a_model_that_no_encoder_can_be_made_of_is_refused",
    "Files outside of": "faults/test_models.py::test_a_strangers_model",
    "Where `checkpoint.sha256`": "faults/test_models.py::test_a_checkpoint_with_its_manifest",
    "Sizes in a": "faults/test_models.py::test_a_strangers_model",
    "`state/state.pt` is read": "faults/test_models.py::test_a_state_with_a_foreign_class_is_not_run",
    "Read as text": "faults/test_mutations.py::test_a_file_of_rows",
    "No pickle is read": "test_security.py::test_nothing_reads_pickles_or_runs_code_of_a_repository",
    "Names and texts": "faults/test_rows.py::test_nothing_in_a_report_or_a_card_is_raw_html",
    "A card cites": "faults/test_recipes.py::test_the_card_of_a_run_imports_nothing_that_the_run_names",
    "Models that cse": "test_security.py::test_nothing_reads_pickles_or_runs_code_of_a_repository",
    "The embedded assets": "assets/test_assets.py::test_the_shipped_tables",
    "Each is pinned": "assets/test_assets.py::test_a_wheel_that_is_not_the_pinned_one_is_refused",
    "Data sets of benchmarks": "test_security.py::test_tasks_name_a_commit_of_their_data",
    "Other Hub ids": "",  # advice
    "`HF_TOKEN` goes to": "test_secrets.py::test_feedback",
    "Neither is written": "test_secrets.py::test_a_run_a_dry_push_and_scores",
    "A key in `--extra`": "faults/test_rows.py::test_what_would_be_sent_is_refused",
}
CODE = {"cse/publish/verify_child.py"}  # reads what was staged here back, in a process of its own


def promises() -> list[str]:
    """The sentences of the parts that promise something."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Checks")[0]
    lines = (line for line in text.splitlines() if not line.startswith(("#", "|---", "| input")))
    cells = re.sub(r"^\| [^|]+ \| (.*) \|$", r"\n\n\1\n\n", "\n".join(lines), flags=re.MULTILINE)
    sentences = (re.split(r"(?<=\.) (?=[A-Z`])", " ".join(part.split())) for part in cells.split("\n\n"))
    return [one for several in sentences for one in several if one]


def test_each_sentence_has_its_test():
    said = promises()
    assert len(said) > 20
    assert [one for one in said if not any(one.startswith(beginning) for beginning in HELD)] == []
    assert [beginning for beginning in HELD if not any(one.startswith(beginning) for one in said)] == []


@pytest.mark.parametrize("place", sorted({place for place in HELD.values() if place}))
def test_the_test_exists(place):
    file, _, name = place.partition("::")
    assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_nothing_reads_pickles_or_runs_code_of_a_repository():
    """By reading the code: what could run a stranger's code is called nowhere, or with the argument that forbids it."""
    found = []
    for path in (ROOT / "cse").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                runs = called.rpartition(".")[0].endswith("pickle") or options.get("allow_pickle") == "True"
                runs |= called == "torch.load" and options.get("weights_only") != "True"
                runs |= options.get("trust_remote_code", "False") != "False"
                found += [path.relative_to(ROOT).as_posix()] if runs else []
    assert {*found} == CODE


def test_tasks_name_a_commit_of_their_data():
    from cse.evaluation.evaluators import sts_rows

    hubs = [task.hub for task in sts_rows.tasks().values() if task.hub]
    assert hubs
    assert all(re.fullmatch(r"[0-9a-f]{40}", hub["revision"]) for hub in hubs)
