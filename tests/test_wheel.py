"""The distribution: what its texts tell to install, and the wheel in an environment without the checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cse

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = (".md", ".py", ".yaml", ".yml", ".ipynb", ".toml", ".cff", ".bib")


def texts() -> list[Path]:
    """The files of the project that a reader may copy a command from."""
    folders = ("cse", "eval", "recipes", "docs", "examples", ".github")
    below = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return [path for path in [*ROOT.iterdir(), *below] if path.suffix in TEXTS]


def test_every_line_that_installs_works_as_printed():
    extras = set(PROJECT["optional-dependencies"])
    found = []
    for path in texts():
        for arguments in re.findall(r"pip install (?:-\S+ )*('[^']+'|[\w\[\]{}.-]+)", path.read_text(encoding="utf-8")):
            name, _, extra = arguments.strip("'").rstrip("]").partition("[")
            if name in {"cse", PROJECT["name"]}:
                found.append(name)
                assert name == PROJECT["name"], f"{path}: pip install {arguments}"
                assert {*extra.split(",")} <= {*extras, "", "{extra}"}, f"{path}: pip install {arguments}"
                assert not extra or arguments.startswith("'"), f"{path}: the shell expands {arguments} without quotes"
    assert len(found) >= 3


def test_the_extra_that_a_message_names_exists():
    named = [
        extra
        for path in (ROOT / "cse").rglob("*.py")
        for extra in re.findall(r"require_package\([^)]*extra=\"(\w+)\"", path.read_text(encoding="utf-8"))
    ]
    assert len(named) >= 5
    assert set(named) <= set(PROJECT["optional-dependencies"])


def test_the_version_is_one():
    assert PROJECT["version"] == cse.__version__


# The wheel in a clean environment
def call(*command: str | Path, cwd: Path, cache: Path) -> str:
    """Run a command as a user would who has the wheel and no checkout; gives what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CSE_"))}
    environment = kept | {"HF_HUB_OFFLINE": "1", "CSE_CACHE": str(cache)}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    print(f"$ {' '.join(Path(str(part)).name for part in command)}\n{done.stdout}{done.stderr}")  # noqa: T201
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the source archive by the command of `make wheel`."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_cse_alone_and_its_recipes(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"cse", f"cse_embeddings-{cse.__version__}.dist-info"}
    own = {
        f"cse/recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in (ROOT / "recipes").rglob("*.yaml")
    }
    assert own
    assert own <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("versions", ["newest", "lowest"])
def test_a_clean_environment_trains_scores_and_would_push(wheel, versions, tmp_path):
    """With the base installation only: no extra, no network for the Hub, and folders that have the names of ours."""
    if versions == "lowest" and sys.version_info >= (3, 13):
        pytest.skip("the lowest versions have no wheels for this Python")
    python = tmp_path / "environment" / "bin" / "python"
    here, cache = tmp_path / "here", tmp_path / "cache"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, python.parent.parent], check=True)
    resolution = ["--resolution", "lowest-direct"] if versions == "lowest" else []
    # The same folders of wheels as pip is told to use: a machine may hold a build of torch there.
    found = [part for folder in os.environ.get("PIP_FIND_LINKS", "").split() for part in ("--find-links", folder)]
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *found, *resolution, wheel], check=True)
    for name in ("eval", "recipes"):
        (here / name).mkdir(parents=True)
    (here / "eval" / "__init__.py").write_text("raise SystemExit('the eval of the user was imported')\n")
    (here / "recipes" / "simcse-unsup.yaml").write_text("the recipe of the user: is not a recipe\n")
    words = ["cats", "dogs", "rivers", "trains", "apples", "teachers", "songs", "windows"]
    lines = [f"The {a} that we saw were near some {b}." for a in words for b in words]
    (here / "texts.txt").write_text("\n".join(lines))

    def run(*arguments: str) -> str:
        return call(python.parent / "cse", *arguments, cwd=here, cache=cache)

    assert "train a recipe" in run("--help")
    assert "simcse-unsup\n" in run("recipe", "list")
    small = ["encoder.backbone=asset:mini", "encoder.layers=null", "encoder.template=null", "encoder.pooler=mean"]
    small += ["encoder.adapter=null", "data.path=texts.txt", "trainer.batch_size=16", "trainer.max_steps=4"]
    trained = run("train", "simcse-unsup", "--run-dir", "run", *[f"--{option}" for option in small])
    assert "step     4/4" in trained
    assert "average" in run("eval", "run/best", "--tasks", "sts-mini")
    pushed = run("push", "run/best", "me/x", "--dry-run")
    assert "the Hub was not contacted" in pushed
    assert "in sentence-transformers (within" in pushed
    assert "simcse-unsup" in call(python, "-m", "cse", "recipe", "list", cwd=here, cache=cache)
    shutil.rmtree(python.parent.parent)
