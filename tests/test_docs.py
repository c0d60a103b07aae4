"""The pages and the headers of recipes say what is true: links, commands, options and fields."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from cse import Encoder, cli
from cse import recipe as recipes
from cse.commands import verbs
from eval import method_table, systems
from tests.models import save_tiny

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", ".github/", "docs/", "recipes/", "eval/", "cse/**/")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}*.md"))
RECIPES = sorted(p for p in (ROOT / "recipes").rglob("*.yaml") if not p.name.startswith("_"))
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=map(name, PAGES))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_its_links_lead_somewhere(page):
    for target, anchor in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def commands(path: Path) -> list[str]:
    """The `cse` command lines that a page or a recipe's header shows, whole."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(BLOCK.findall(text))
    lines = [line.lstrip("# ").removeprefix("run ").strip() for line in re.sub(r"\\\n#?", " ", text).splitlines()]
    return [line for line in lines if line.startswith("cse ")]


SHOWN = [
    (path, line) for path in (*PAGES, *RECIPES) for line in commands(path) if "foo" not in line and " ... " not in line
]


@pytest.fixture(scope="module")
def models(tiny_bert, tmp_path_factory):
    """A folder with the models that the commands name."""
    folder = tmp_path_factory.mktemp("models")
    for model in ("my-bert", "my-embedder", "WORK/backbone"):
        shutil.copytree(tiny_bert, folder / model)
    save_tiny("llama", tiny_bert, folder / "my-llama")
    return folder


@cache
def load(recipe, overrides):
    """A recipe; many pages show the same command."""
    return recipes.load(recipe, overrides)


@pytest.mark.parametrize(("path", "line"), SHOWN, ids=[f"{name(p)}-{i}" for i, (p, _) in enumerate(SHOWN)])
def test_a_command_that_it_shows_parses(path, line, models, monkeypatch):
    monkeypatch.chdir(models)
    given = shlex.split(line, comments=True)[1:]
    if given[0] in {"0.1.0", "--help"}:  # the first line that a run prints
        return
    arguments, rest = cli._parser(given[0]).parse_known_args(cli._with_action([s.replace("$s", "42") for s in given]))
    assert not rest or arguments.takes_overrides
    recipe = getattr(arguments, "recipe", None) or getattr(arguments, "show", None)
    for one in [recipe] if isinstance(recipe, str) else recipe or []:
        if one in recipes.names():
            load(one, tuple(rest))


def test_each_method_is_on_the_page():
    table, sections = method_table.table(), method_table.sections()
    for path in (ROOT / "recipes").glob("[!_]*.yaml"):
        assert f"(../recipes/{path.name})" in table
    for objective in method_table.objectives():
        name = objective.__name__
        assert f"[{name}](#{name.lower()})" in table
        assert f"### {name}\n" in sections


@pytest.mark.parametrize("entry", systems.systems(), ids=lambda entry: entry["system"])
def test_what_is_said_of_a_system_exists(entry):
    """Each recipe, command and name; and each system that is not built has one reason."""
    assert len({"by", "later", "out"} & set(entry)) == 1
    for name in entry.get("by", ()):
        first, *rest = name.split()
        if first == "cse":
            command = verbs.COMMANDS.get(rest[0]) or import_module(f"cse.commands.{rest[0]}")
            assert rest[1:2] == [] or rest[1] in command.ACTIONS
        elif name.startswith("cse."):
            module, _, last = name.rpartition(".")
            assert getattr(import_module(module), last)
        else:
            assert systems.recipe(name).is_file()


@pytest.mark.parametrize("objective", method_table.objectives(), ids=lambda o: o.__name__)
def test_an_objective_has_a_sentence_and_an_equation_for_its_section(objective):
    """The docstring of its class begins with a sentence, and has an indented block with the equation."""
    summary, equation = method_table.of_docstring(objective)
    assert summary.endswith(".")
    assert re.search("[=(]", equation or summary)


def test_a_header_by_pencil(tmp_path):
    path, cost = tmp_path / "r.yaml", "2 forward passes per row (a), and 1 of the frozen x; y"
    paper = "# paper      P (arXiv:2104.08821), eq. 1;\n#            more"
    path.write_text(f"# A: b,\n# c.\n#\n{paper}\n# cost       {cost}\nseed: 1\n# not read")
    said = recipes.header(path)
    assert said == {"title": "A: b, c.", "paper": "P (arXiv:2104.08821), eq. 1; more", "cost": cost}
    assert method_table.paper(said["paper"]) == "[P](https://arxiv.org/abs/2104.08821)"
    assert method_table.passes(said["cost"]) == "2 + 1 frozen"
    with pytest.raises(ValueError, match="forward passes per row"):
        method_table.passes("an hour")


def test_the_readme_is_short_and_shows_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "make train RECIPE=simcse-unsup" in text
    assert "make test" in text


@pytest.fixture
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "leads"),
    [
        ("overview.md", "tree/main/recipes/paper"),
        ("methods.md", "blob/main/recipes/simcse-unsup.yaml"),
        ("recipes.md", "blob/main/examples/mean-of-runs.yaml"),
    ],
)
def test_links_of_the_site_lead_to_its_pages_or_to_the_repository(hooks, page, leads):
    about = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    config = SimpleNamespace(extra={"social": [{"link": "https://host/repo"}]})
    markdown = hooks.on_page_markdown((ROOT / "docs" / page).read_text(encoding="utf-8"), page=about, config=config)
    local = {target for target, _ in LINK.findall(markdown) if target}
    assert [target for target in local if not (ROOT / "docs" / target).is_file()] == []
    assert f"https://host/repo/{leads}" in markdown


def test_the_site_includes_files_that_exist(hooks):
    pages = hooks.pages()
    assert pages["README.md"] == "overview.md"
    assert [path for path in pages if not (ROOT / path).is_file()] == []
    named = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [p for p in (ROOT / "docs").rglob("*.md") if p.relative_to(ROOT / "docs").as_posix() not in named] == []


def test_every_public_name_has_its_reference():
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = tuple(f"{path}." for path in re.findall(r"^::: (\S+)", pages, re.MULTILINE))
    public = re.findall(
        r"^from (\S+) import (\w+)", (ROOT / "cse" / "__init__.pyi").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(public) > 100
    assert [f"{module}.{name}" for module, name in public if not f"{module}.{name}.".startswith(shown)] == []


def test_a_workflow_calls_what_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        jobs = yaml.safe_load(text)["jobs"]
        assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
        assert {job.get("needs", name) for name, job in jobs.items()} <= jobs.keys()
        assert all(Path(file).exists() for file in re.findall(r"\btests/\S+\.py", text))


@pytest.mark.slow
def test_the_page_of_four_gpus_shows_what_its_script_prints():
    done = subprocess.run([sys.executable, "examples/four_processes.py"], capture_output=True, text=True, cwd=ROOT)
    shown = next(
        b for b in BLOCK.findall((ROOT / "docs" / "four-gpus.md").read_text(encoding="utf-8")) if "$ python" in b
    )
    assert shown.split("\n", 1)[1] == done.stdout
    rows = {line[:50].strip(): line[50:].split() for line in done.stdout.splitlines()[1:]}
    assert rows["this package, in four processes"] == rows["one process"] == ["1.000", "1.000", "0.0%"]
    assert rows["FlagEmbedding, negatives_cross_device; SimCSE"] == ["0.250", "1.000", "75.0%"]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["text.md", "embedder.md", "compare.md"])
def test_a_way_in_runs_as_it_is_printed(page, tiny_bert, tmp_path, monkeypatch):
    """Its blocks in their order, beside the files that it says you have."""
    monkeypatch.chdir(tmp_path)
    triplets = [
        line.split("\t")
        for line in (ROOT / "cse/assets/triplets-mini.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    Path("my.txt").write_text("\n".join(row[0] for row in triplets))
    Path("pairs.csv").write_text("question,answer\n" + "".join(f'"{a}","{b}"\n' for a, b, *_ in triplets))
    Encoder(tiny_bert, pooler="mean").save("my-embedder")
    blocks = re.findall(
        r"^```(python)?\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) >= 2
    for language, block in blocks:
        if language:
            exec(compile(block, page, "exec"), {})
            continue
        for line in block.splitlines():
            assert cli.main(shlex.split(line)[1:]) == 0, line
