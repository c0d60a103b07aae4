"""Docstrings, comments, messages, pages and recipes avoid English that reads as translated.

`python tests/test_prose.py FOLDER ...` lists the offending lines.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("cse", "eval", "recipes", "docs", ".github", "README.md", "CHANGELOG.md", "CITATION.cff", "mkdocs.yml")

PER = "row|step|second|minute|line|term|batch|seed|view|pair|command|task|process|file|token|method|anchor"
COUNTED = (
    "negatives?|positives?|texts?|scores?|views?|sentences?|tokens?|requests?|passes|pass|lines?|rows?|one|files?|more|"
    "keys?|numbers?|vectors?|samples?|marks?|times|questions?|answers?|batch|batches|pairs?|weights?"
)
EVERYWHERE = {
    "British spelling": r"\w*(?:normalis|tokenis|initialis|optimis(?!tic|m)|quantis|minimis|maximis|organis|generalis|"
    r"summaris|serialis|parallelis|recognis|penalis|standardis|vectoris|randomis|synchronis|materialis|utilis|customis|categoris|"
    r"honour|neighbour|colour|behaviour|favour|labell(?:ed|ing|er)|modell(?:ed|ing)|cancell(?:ed|ing)|analys(?:e|ed|ing)\b|"
    r"licence|artefact|catalogue|centred?\b|whilst|judgement)\w*",
    "'to be had'": r"\b(?:to be|be|can be|cannot be) had\b",
    "'goes on': resumes, continues": r"\b(?:go|goes|went|gone|going) on (?:with|at|as|from|where|after)\b|"
    r"\bgo(?:es)? on(?:\.|;|$)",
    "'as of': same as in": r"\b[Aa]s of [`A-Z]",
    "'so many': N": r"\bso many\b",
    "'anew': again": r"\banew\b",
    "'whole or not at all': completely": r"\bwhole or not at all\b",
    "'mend': fix": r"\b[Mm]end(?:s|ed|ing)?\b",
    "'is no X': is not a X": r"(?<![Tt]here )(?<!here )\b(?:is|are|was|were|be) no (?!longer\b|more than\b|less than\b|"
    r"later\b|earlier\b|larger\b|smaller\b|one\b)\w+",
    "'is there': exists": r"\b(?:it|that|which|is|are|what|where|nothing|one) (?:is|are) there\b"
    r"(?! (?:a|an|any|no|to)\b)|\b(?:is|are) there and\b|\b(?:is|are|was|were) (?:not|already) there\b",
    "'a row': per row": rf"\b(?:{COUNTED}) an? (?:{PER})\b",
    "'see there'": r"\b[Ss]ee there\b|\bin its own words\b",
    "'Of what'": r"\bOf what\.",
}
EXCEPTION = re.compile(r"\s*\w+(?:Error|Exception): (?:As|It|They|There is none)\b")
ARGUMENT = re.compile(r"\s*(?:\w+: )?(Of|As|Which|From|By|How|Where|Whose|Who)\b(?!:)")
SECTION = re.compile(
    r"\s*(Args|Arguments|Attributes|Returns|Raises|Yields|Deviations|Example|Examples|Note|Notes):\s*$"
)
SECOND_LINE = re.compile(r"\n(?!fix: |$|\s)(\S[^\n]{0,60})")
CODE = re.compile(r"`[^`\n]*`|https?://\S+|--[\w.-]+|\b\w+\.(?:py|yaml|md|json|tsv)\b")


def found(text: str) -> Iterator[tuple[int, str]]:
    """(line from 0, why and what) for each bad pattern of a text; `code` and options do not count."""
    for number, line in enumerate(text.splitlines()):
        plain = CODE.sub("x", line)
        for why, pattern in EVERYWHERE.items():
            for match in re.finditer(pattern, plain):
                yield number, f"{why}: {match[0]!r} in {line.strip()[:100]!r}"


def arguments(doc: str) -> Iterator[tuple[int, str]]:
    """Argument and attribute texts that begin without a subject."""
    inside, indent = False, None
    for number, line in enumerate(doc.splitlines()):
        section = SECTION.match(line)
        if section:
            inside, indent = section[1] in {"Args", "Arguments", "Attributes"}, None
        elif inside and line.strip():
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            text = re.match(r"\s*\*{0,2}\w+: +(.*)", line) if depth == indent else None
            if text and ARGUMENT.match(text[1]):
                yield number, f"argument text: {line.strip()[:100]!r}"
        elif EXCEPTION.match(line):
            yield number, f"exception without its subject: {line.strip()[:100]!r}"


def strings(node: ast.AST) -> str:
    """The literal text within an expression, with what is formatted into it left out."""
    parts = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return "".join(n.value for n in sorted(parts, key=lambda n: (n.lineno, n.col_offset)))


def docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    """Bad patterns of the docstring of a module, class or function."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        for offset, text in (*found(first.value.value), *arguments(first.value.value)):
            yield first.value.lineno + offset, text


def raised(message: str) -> Iterator[str]:
    """Bad patterns of the message of an exception."""
    yield from (text for _, text in found(message))
    line = SECOND_LINE.search(message)
    if line and "\nfix: " not in message:
        yield f"second line of a message is not 'fix: ...': {line[1]!r}"


def option(message: str) -> Iterator[str]:
    """Bad patterns of the help text of an option or a command."""
    yield from (text for _, text in found(message))
    if re.match(r"(of|as|which|from|by|how|where|whose|who)\b", message):
        yield f"help text: {message[:100]!r}"


def python(source: str) -> Iterator[tuple[int, str]]:
    """Bad patterns of the docstrings, comments, raised messages and help texts of a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from docstring(node)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield from ((node.lineno, text) for text in raised(strings(node.exc)))
        elif isinstance(node, ast.keyword) and node.arg in {"help", "description", "epilog"}:
            yield from ((node.value.lineno, text) for text in option(strings(node.value)))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            for _, text in found(token.string):
                yield token.start[0], text


def markdown(source: str) -> Iterator[tuple[int, str]]:
    """Bad patterns of a page outside its code blocks."""
    prose = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), source, flags=re.DOTALL | re.MULTILINE)
    for offset, text in found(prose):
        yield offset + 1, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Bad patterns of the comments of a recipe or another YAML file."""
    for number, line in enumerate(source.splitlines()):
        for _, text in found(line.partition("#")[2]):
            yield number + 1, text


KINDS = {".py": python, ".md": markdown, ".yaml": comments, ".yml": comments, ".cff": comments}


def offenders(*places: Path) -> list[str]:
    """`file:line: text` for each bad pattern in files and folders."""
    files = sorted(
        {f for place in places for f in (place.rglob("*") if place.is_dir() else [place]) if f.suffix in KINDS}
    )
    assert files, "there is nothing to read"
    return [
        f"{file}:{line}: {text}"
        for file in files
        for line, text in sorted(set(KINDS[file.suffix](file.read_text(encoding="utf-8"))))
    ]


def test_plain_english():
    assert offenders(*(ROOT / place for place in PLACES)) == []


def test_the_patterns():
    """Each pattern refuses what it is for, and lets plain English pass."""
    bad = (
        'def f(a):\n    """Do it.\n\n    Args:\n        a: Of the run.\n    """\n',
        'def f(a):\n    """It is not to be had."""\n',
        'def f():\n    raise E(f"{x} is no number\\nMend it")\n',
        "x = 1  # normalise, and go on with the rest\n",
        'p.add_argument("--k", help="of the data; one negative a row")\n',
    )
    for source in bad:
        assert list(python(source)), source
    good = (
        'def f(a):\n    """Do it.\n\n    Args:\n        a: The run; None if there is no run.\n    """\n',
        'def f():\n    raise E(f"k is {k}; it must be >= 0\\nfix: --k 1")\n',
        "x = 1  # `neighbours.py` normalizes\n",
    )
    for source in good:
        assert list(python(source)) == [], source


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in offenders(*map(Path, sys.argv[1:]))))
