"""The layers: a file imports only from its own folder and from lower ones, wherever in the file the import stands."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [  # low to high; what stands on one line is one layer, whose folders do not know each other
    {"errors", "seeding", "distributed", "files", "environment", "console"},
    {"batch"},
    {"assets"},
    {"encoder"},
    {"interfaces"},
    {"augment"},
    {"data"},
    {"recipe"},
    {"teachers"},
    {"objectives"},
    {"inference"},
    {"mining", "feedback"},
    {"evaluation"},
    {"training"},
    {"publish", "search"},
    {"api"},
    {"adapting"},
    {"commands"},
    {"cli", "__main__", "__init__"},
]
MUTUAL = [LAYERS[0], LAYERS[-1]]  # these may import each other, short of a circle of files
FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in ROOT.glob("cse/**/*.py")
}


def imports(module: str) -> set[str]:
    """The modules of cse that a module imports: at its top, under TYPE_CHECKING or within a function."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in FILES} - {module}


GRAPH = {module: imports(module) for module in FILES}


def part(module: str) -> str:
    """The folder or file at the top of cse that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def test_imports_go_down():
    wrong = []
    for module, imported in GRAPH.items():
        for other in imported:
            a, b = part(module), part(other)
            same = a == b or any({a, b} <= layer for layer in MUTUAL)
            if not same and level(b) >= level(a):
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_no_circle_of_files():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", ["cse.cli", "cse.training.trainer"])
def test_imports_are_seen_wherever_they_stand(module):
    """That the walk finds something: both import from several folders."""
    assert len({part(other) for other in GRAPH[module]}) > 2


def test_few_files_lie_at_the_top():
    at_the_top = sorted(path.name for path in (ROOT / "cse").glob("*.py"))
    assert len(at_the_top) <= 12, at_the_top


UNIX = {"resource", "fcntl", "termios", "pwd", "grp"}


def test_no_module_of_unix_is_imported_at_the_top_of_a_file():
    """So that cse is imported on Windows, too."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "cse").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found.setdefault(str(path), set()).update(name.partition(".")[0] for name in names)
    assert len(found) > 100
    assert {path: names & UNIX for path, names in found.items() if names & UNIX} == {}


# What cse/ may measure: a change that needs more raises the number on purpose, and says what it removed.
MOST_LINES, MOST_FILES = 45096, 282


def test_the_house_does_not_grow_unnoticed():
    """`pytest -s tests/test_layers.py` prints the lines and the files of each folder."""
    files = [path for pattern in ("*.py", "*.pyi") for path in ROOT.glob(f"cse/**/{pattern}")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    folders = Counter()
    for path, count in lines.items():
        folders[path.relative_to(ROOT / "cse").parts[0] if path.parent != ROOT / "cse" else "."] += count
    print("".join(f"\n{count:7,} {name}" for name, count in folders.most_common()))  # noqa: T201
    assert sum(lines.values()) <= MOST_LINES
    assert len(files) <= MOST_FILES
