"""Each sentence that SECURITY.md promises is held by tests, which are named here."""

import ast
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cse import Texts, UserError

ROOT = Path(__file__).resolve().parents[1]
HELD = {  # how a sentence begins -> the tests that hold it, part by part
    "A recipe is code": ["faults/test_recipes.py::test_what_a_stranger_may_name_is_checked_where_it_is_imported"],
    "For a model on a GPU": ["test_security.py::test_no_kernels_of_the_hub_unless_asked_for"],
    "A recipe may name classes": [
        "training/test_recipe_file.py::test_what_the_user_names_is_trusted",
        "training/test_recipe_file.py::test_the_environment_names_trusted_modules",
        "training/test_recipe_file.py::test_a_module_with_the_beginning_of_a_trusted_name_is_not_trusted",
    ],
    "Anything else is refused": ["faults/test_recipes.py::test_no_spelling_imports_the_module_of_a_stranger"],
    "No option is read": ["faults/test_recipes.py::test_no_option_is_read_from_a_file_or_a_text"],
    "YAML is read by": [
        "faults/test_recipes.py::test_yaml_has_no_objects",
        "training/test_recipe_file.py::test_it_is_refused",
    ],
    "Weights are read from": ["faults/test_models.py::test_a_strangers_model"],
    "`auto_map` and modules": [
        "encoder/test_bad_models.py::test_a_model_that_no_encoder_can_be_made_of_is_refused",
        "faults/test_models.py::test_a_strangers_model",
    ],
    "Files outside of": ["faults/test_models.py::test_a_strangers_model"],
    "Where `checkpoint.sha256`": ["faults/test_models.py::test_a_checkpoint_with_its_manifest"],
    "Sizes in a": ["faults/test_models.py::test_a_strangers_model"],
    "`state/state.pt` is read": [
        "faults/test_models.py::test_a_state_with_a_foreign_class_is_not_run",
        "training/test_trainer.py::test_a_damaged_state_is_refused",
    ],
    "Read as text": ["faults/test_mutations.py::test_a_file_of_rows"],
    "No pickle is read": [
        "test_security.py::test_nothing_reads_pickles_or_runs_code_of_a_repository",
        "test_security.py::test_data_run_no_code",
    ],
    "Names and texts": ["faults/test_rows.py::test_nothing_in_a_report_or_a_card_is_raw_html"],
    "A card cites": ["faults/test_recipes.py::test_the_card_of_a_run_imports_nothing_that_the_run_names"],
    "Models that cse": ["test_security.py::test_nothing_reads_pickles_or_runs_code_of_a_repository"],
    "The embedded assets": ["test_security.py::test_assets_are_pinned"],
    "Each is pinned": [
        "test_security.py::test_assets_are_pinned",
        "assets/test_assets.py::test_a_wheel_that_is_not_the_pinned_one_is_refused",
    ],
    "Data sets of benchmarks": ["test_security.py::test_tasks_name_a_commit_of_their_data"],
    "Other Hub ids": [],  # advice
    "`HF_TOKEN` goes to": ["test_secrets.py::test_feedback", "publish/test_hub.py::test_the_token_is_nowhere"],
    "Neither is written": [
        "test_secrets.py::test_a_run_a_dry_push_and_scores",
        "publish/test_verify.py::test_secrets_are_found_and_not_repeated",
        "publish/test_verify.py::test_local_paths",
        "faults/test_rows.py::test_what_would_be_sent_is_refused",
    ],
    "A key in `--extra`": ["faults/test_rows.py::test_what_would_be_sent_is_refused"],
    "`make audit` compares": ["test_security.py::test_the_audit_fails_where_pip_audit_does"],
}
CODE = {"cse/publish/verify_child.py"}  # reads what was staged here back, in a process of its own


def promises() -> list[str]:
    """The sentences of the parts that promise something."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Reporting")[0]
    lines = (line for line in text.splitlines() if not line.startswith(("#", "|---", "| input")))
    cells = re.sub(r"^\| [^|]+ \| (.*) \|$", r"\n\n\1\n\n", "\n".join(lines), flags=re.MULTILINE)
    sentences = (re.split(r"(?<=\.) (?=[A-Z`])", " ".join(part.split())) for part in cells.split("\n\n"))
    return [one for several in sentences for one in several if one]


def test_each_sentence_has_its_test():
    said = promises()
    assert len(said) > 20
    assert [one for one in said if not any(one.startswith(beginning) for beginning in HELD)] == []
    assert [beginning for beginning in HELD if not any(one.startswith(beginning) for one in said)] == []


@pytest.mark.parametrize("place", sorted({place for places in HELD.values() for place in places}))
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


def test_assets_are_pinned():
    from cse.assets import FETCHED, SHIPPED, resolve

    assert all(resolve(name).exists() for name in SHIPPED)
    assert FETCHED
    for asset in FETCHED.values():
        assert re.fullmatch(r"[0-9a-f]{64}", asset.wheel.sha256)
        assert re.fullmatch(r"\d+(\.\d+)+", asset.wheel.version)


class Writes:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["rows.pkl", "rows.py", "rows/rows.py"])
def test_data_run_no_code(name, tmp_path, monkeypatch):
    """Neither a pickle nor the script of a data set, which would write a file here."""
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    script = f"open({str(ran)!r}, 'w')\n"
    file.write_bytes(pickle.dumps(Writes(str(ran))) if name.endswith("pkl") else script.encode())
    with pytest.raises(UserError, match="rows"):
        Texts(name.partition("/")[0])
    assert not ran.exists()


@pytest.mark.parametrize("answer", [0, 1])
def test_the_audit_fails_where_pip_audit_does(answer, tmp_path):
    """With a Python that only writes down what it was asked."""
    (tmp_path / "bin").mkdir()
    asked = tmp_path / "asked"
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n[ "$2" != pip_audit ] || exit {answer}\n')
    python.chmod(0o755)
    (tmp_path / "ready").touch()  # the environment is made
    made = subprocess.run(["make", "audit", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (made.returncode != 0) == (answer != 0)
    assert ("audit      failed" in made.stderr) == (answer != 0)
    frozen, audited = asked.read_text().splitlines()
    assert frozen.startswith("-m pip freeze")
    assert audited.startswith("-m pip_audit --strict ")  # one that cannot be looked up fails too
    assert audited.endswith(f"-r {tmp_path}/installed.txt")


@pytest.mark.parametrize(("given", "used"), [(None, False), ("YES", True)])
def test_no_kernels_of_the_hub_unless_asked_for(given, used):
    """Seen by transformers in a process of its own; the rehearsal on CUDA fails if one is fetched."""
    script = "import cse; from transformers.integrations import hub_kernels; print(hub_kernels._kernels_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "USE_HUB_KERNELS"}
    environment |= {} if given is None else {"USE_HUB_KERNELS": given}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, check=True)
    assert ended.stdout.strip() == str(used)
