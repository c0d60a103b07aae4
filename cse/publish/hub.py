"""Publishing a checkpoint to the Hugging Face Hub: staged, verified, and uploaded as one commit.

The token is that of huggingface_hub (HF_TOKEN or `hf auth login`). It is sent to the Hub in a header and nowhere else.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.environment import secret_in
from cse.errors import UserError
from cse.files import DAMAGED, read_json

if TYPE_CHECKING:
    from cse.publish.remote import Repository

ROUNDS = 3  # attempts to commit; an attempt fails if someone else commits to the branch in the meantime
MODEL = re.compile(
    r"""modules\.json | config_sentence_transformers\.json | sentence_bert_config\.json
      | (config|quantization|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json
      | (vocab|merges)\.txt
      | (model(-\d{5}-of-\d{5})?|prompts|adapter_model)\.safetensors | model\.safetensors\.index\.json
      | adapter_config\.json | (weights|checkpoint)\.sha256 | \d+_[A-Za-z]\w*/(config\.json|model\.safetensors)""",
    re.VERBOSE,
)
BRANCH = re.compile(r"(?!.*(\.lock(/|$)|\.\.|//|/\.))\w[\w./-]*(?<![./])", re.ASCII)
TEXT = re.compile(r"README\.md|scores-by-dimensions\.svg|LICENSE(\.txt|\.md)?|NOTICE")


@dataclass(frozen=True)
class Upload:
    """Hold what was sent to the Hub, or what a dry run would have sent."""

    files: dict[str, int]  # the sizes of the files in bytes, by path in the repository
    left_out: list[str]  # files of the checkpoint that are not published
    verified: list[str]  # the findings of `cse.publish.verify`, one line for each
    results: Path | None  # the file that the scores on the card come from
    message: str
    url: str = ""  # the address of the repository, its branch, or the pull request; empty for a dry run
    removed: Sequence[str] = ()  # files of an earlier upload that the model no longer has
    changed: bool = False  # whether a new commit was made; False for a dry run


def push(
    checkpoint: str | PathLike[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    results: Path | None = None,
    license: str | None = None,
    adapter: bool = False,
    base: str | None = None,
    dimensions: int | None = None,
    dry_run: bool = False,
) -> Upload:
    """Publish a checkpoint as a model on the Hub.

    The checkpoint is staged in a temporary folder, where a card is written and the model is reloaded and compared with
    the run. The folder is uploaded as one commit, so the Hub never holds parts of two models. Large files that the Hub
    has already are not sent again.

    Args:
        checkpoint: The folder best/ or last/ of a run.
        repo: The repository, you/name; it is created if it does not exist.
        private: Create the repository as a private one.
        revision: The branch to commit to; it is created from main if it does not exist. None: main.
        create_pr: Open a pull request instead of committing to the branch.
        message: The commit message. None: a message with the score.
        results: Scores for the card. None: the results.json in the checkpoint or its run, if there is one.
        license: The license, as the Hub names it: apache-2.0, mit and so on. None: the license of the backbone.
        adapter: Publish only the adapter of a LoRA run, for peft; see `cse.publish.stage`.
        base: With `adapter`, the Hub id of the backbone, if the run used a local one.
        dimensions: Publish the first N dimensions of the vectors only; sentence-transformers then gives these.
        dry_run: List what would be sent; the Hub is not contacted.

    Raises:
        UserError: `checkpoint` is not a checkpoint or fails the verification, an argument is wrong, or the Hub cannot
            be reached or refuses the upload.
    """
    from cse.evaluation.benchmark import file_of
    from cse.publish.card import write_card
    from cse.publish.remote import Repository
    from cse.publish.stage import find_adapter, stage, stage_adapter
    from cse.publish.verify import verify, verify_adapter

    checkpoint = Path(checkpoint)
    check_name(repo)
    _check_branch(revision, create_pr)
    if secret := secret_in(message or ""):
        raise UserError(f"--message contains {secret}\nfix: remove it, and revoke it if it was ever shared")
    if base is not None and not adapter:
        raise UserError(f"--base {base} only applies with --adapter\nfix: add --adapter, or leave out --base")
    if dimensions is not None and adapter:
        raise UserError(
            f"--dimensions {dimensions} with --adapter: an adapter has no vectors of its own\n"
            "fix: publish the whole model, or leave out --dimensions"
        )
    results, bench = results or find_results(checkpoint), file_of(checkpoint)
    bench = bench if bench is not None and bench.is_file() else None
    _check_model("--results", results, checkpoint, f"run `cse eval {checkpoint}`, or give the file of this checkpoint")
    _check_model("benchmark", bench, checkpoint, f"run `cse bench-model {checkpoint}`, or remove the file")
    if adapter or dimensions is not None:
        bench = None  # it is the table of another model than the published one
    if dimensions is not None:
        message = message or f"Upload sentence encoder, {dimensions} dimensions"  # the score is that of all
    message = message or describe(results)
    alone = find_adapter(checkpoint, base) if adapter else None
    run = checkpoint.parent if (checkpoint.parent / "recipe.yaml").is_file() else None
    card: dict[str, Any] = {"run": run, "results": results, "license": license, "adapter": alone, "bench": bench}

    def finish(previous: str | None) -> Upload:
        """Write the card, keeping the user's part of the published one, and verify the files that are uploaded."""
        write_card(folder, repo, previous=previous, checkpoint=checkpoint.name, **card)
        files, others = published(folder)
        for path in others:
            (folder / path).unlink()
        if alone is None:
            report = verify(folder, against=checkpoint, dimensions=dimensions)
        else:
            report = verify_adapter(folder, alone)
        left_out = sorted({*others, *_paths(checkpoint)} - set(files))
        return Upload(files, left_out, report.lines(), results, message)

    with tempfile.TemporaryDirectory(prefix="cse-push-") as scratch, _room(scratch):
        folder = Path(scratch) / "model"
        remote = None if dry_run else Repository(repo, private=private, revision=revision, create_pr=create_pr)
        stage(checkpoint, folder, dimensions) if alone is None else stage_adapter(alone, folder)
        return _upload(remote, folder, finish) if remote else finish(None)


def _check_branch(revision: str | None, create_pr: bool) -> None:
    """Refuse what Git does not take as the name of a branch, and a pull request against another one than main."""
    if revision is not None and not BRANCH.fullmatch(revision):
        raise UserError(
            f"--revision is {revision!r}, which cannot be a branch\n"
            "fix: give letters, digits, `_` and `-`, with single `.` or `/` between them, such as v2 or try/large"
        )
    if create_pr and revision not in {None, "main"}:
        raise UserError(
            f"--revision {revision} with --pr: the Hub opens pull requests against main only\n"
            "fix: leave out one of the two"
        )


def _check_model(what: str, file: Path | None, checkpoint: Path, fix: str) -> None:
    """Refuse a file of scores that belong to another model."""
    from cse.encoder.checkpoint.identity import model_hash

    if file is None:
        return
    try:
        scored = read_json(file)["model"]["sha256"]
    except DAMAGED:
        return  # write_card reports what is wrong with the file
    if scored != model_hash(checkpoint):
        raise UserError(f"{what} {file} holds the scores of a model other than {checkpoint}\nfix: {fix}")


def _upload(remote: Repository, folder: Path, finish: Callable[[str | None], Upload]) -> Upload:
    """Commit the folder on top of the branch; if the branch moves meanwhile, write the card again and repeat."""
    from cse.publish.remote import Moved

    for _ in range(ROUNDS):
        state = remote.look()
        found = finish(state.readme)
        stale = sorted(path for path in state.files if MODEL.fullmatch(path) and path not in found.files)
        try:
            url, changed = remote.commit(folder, list(found.files), stale, found.message, onto=state)
        except Moved:
            continue
        return replace(found, url=url, removed=stale, changed=changed)
    raise UserError(
        f"repository {remote.repo}: others committed to it during each of {ROUNDS} uploads\nfix: try again later"
    )


@contextmanager
def _room(scratch: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the model cannot be staged in {scratch}: {error.strerror or error}\n"
            "fix: set TMPDIR to a writable folder with enough space for a copy of the model"
        ) from error


def published(folder: Path) -> tuple[dict[str, int], list[str]]:
    """The sizes of the files that may be published, by path, and the paths of those that may not.

    Files of `cse.encoder.checkpoint.layout` may be published: weights, settings, the tokenizer, the card, and the
    Python files that modules.json names.
    """
    paths, code = _paths(folder), _code(folder)
    going = [path for path in paths if MODEL.fullmatch(path) or TEXT.fullmatch(path) or path in code]
    files = {path: (folder / path).stat().st_size for path in going}
    return files, [path for path in paths if path not in files]


def _paths(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _code(folder: Path) -> set[str]:
    """Python files in the root folder that modules.json names, and the files beside them that they import."""
    import ast

    from cse.encoder.checkpoint.layout import Layout

    waiting, found = [module.type.split(".")[0] for module in Layout.read(folder).modules], set[str]()
    while waiting:
        path = folder / f"{waiting.pop()}.py"
        if path.name in found or not path.is_file():
            continue
        found.add(path.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting += [node.module] if node.module else [name.name for name in node.names]
    return found


def check_name(repo: str) -> None:
    """Check the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not in __all__

    wrong = "" if "/" in repo else "the owner is missing"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        wrong = str(error)
    if wrong:
        raise UserError(f"repository {repo!r}: {wrong}\nfix: give owner/name, such as me/my-encoder")


def find_results(checkpoint: Path) -> Path | None:
    """The results file of a checkpoint; None if there is none.

    It lies in the checkpoint, or in its run under the name that `cse eval` gives it. Results on STS come first; without
    them, the only other results file is taken.
    """
    start = "results" if checkpoint.name == "best" else f"results-{checkpoint.name}"
    whole = [checkpoint / "results.json", checkpoint.parent / f"{start}.json"]
    if found := next((path for path in whole if path.is_file()), None):
        return found
    others = sorted(checkpoint.parent.glob(f"{start}-*.json"))
    if checkpoint.name == "best":
        others = [path for path in others if not path.name.startswith("results-last")]
    if len(others) > 1:
        names = ", ".join(path.name for path in others)
        raise UserError(
            f"--results is not given, and {checkpoint.parent} has {names}\nfix: choose one with --results FILE"
        )
    return others[0] if others else None


def describe(results: Path | None) -> str:
    """The commit message, with the score if there is one."""
    from cse.evaluation.results import read

    average = {} if results is None else read(results).get("average") or {}
    score, metric = average.get("value"), average.get("metric")
    what = "Spearman × 100, all" if metric == "spearman" else f"{metric} × 100"
    said = "" if score is None else f": {average['requested']} {score:.2f} ({what})"
    return f"Upload sentence encoder{said}"


def shown_size(count: int) -> str:
    """A size in bytes as text: B below a million, else MB."""
    return f"{count:,} B" if count < 1_000_000 else f"{count / 1e6:,.1f} MB"
