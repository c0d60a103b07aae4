"""Publishing, against a Hub on this machine: what goes, what is refused, and what a broken connection leaves."""

import json
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import constants, snapshot_download

from cse import Encoder, UserError, push
from cse.cli import main
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.checkpoint.sums import write_sums
from cse.encoder.heads import Normalize
from cse.publish.hub import find_results, published
from tests.publish.conftest import TOKEN
from tests.publish.hub_server import Blob, User
from tests.refusals import refuses
from tests.runs import weights

TEXTS = ["the cat sat on a mat", "dog ran fast", "red moon"]
ALL = {"spearman": 76.2, "pearson": 75.0}
TASK = {"kind": "sts", "metric": "spearman", "value": 76.2, "measures": {}, "n": 9, "unit": "pairs", "all": ALL}
AVERAGE = {"requested": "sts", "metric": "spearman", "value": 76.2544, "all": {"spearman": 76.2544}, "missing": []}
RESULTS = {"schema": 2, "model": {"name": "best"}, "missing": {}, "tasks": {"STS12": TASK}, "average": AVERAGE}
LARGE = r"^/storage/"
COMMIT = r"/commit/"


def save(encoder, folder):
    """A checkpoint whose backbone says what it may be published under."""
    encoder.save(folder)
    (folder / "LICENSE").write_text("Apache License, Version 2.0\n")


@pytest.fixture(scope="module")
def best(tiny_bert, tmp_path_factory):
    """A run's best/ with a Dense, so with two files of weights."""
    run = tmp_path_factory.mktemp("run")
    encoder = Encoder(tiny_bert, head="mlp", export_head=True)
    encoder.post.append(Normalize())
    save(encoder, run / "best")
    return run / "best"


@pytest.fixture
def verified(monkeypatch):
    """Stands for `cse.publish.verify`, which takes a process of its own: what it was given."""
    calls = []

    def verify(folder, *, against, dimensions=None):
        calls.append(weights(folder))
        return SimpleNamespace(lines=lambda: ["gives the run's vectors"])

    monkeypatch.setattr("cse.publish.verify.verify", verify)
    return calls


@pytest.fixture
def published_once(hub, best, verified):
    push(best, "me/encoder")
    hub.requests.clear()
    return hub.repositories["me/encoder"]


# What goes
def test_the_repository_holds_the_model_in_one_commit(hub, best, verified):
    upload = push(best, "me/encoder")
    repository = hub.repositories["me/encoder"]
    assert upload.url == f"{hub.url}/me/encoder"
    assert repository.history() == ["Upload sentence encoder", "initial commit"]
    held = repository.files()
    assert set(held) == {*upload.files, ".gitattributes"}
    assert {path: len(data) for path, data in held.items() if path in upload.files} == upload.files
    assert held["model.safetensors"] == (best / "model.safetensors").read_bytes()
    assert held["2_Dense/model.safetensors"] == (best / "2_Dense" / "model.safetensors").read_bytes()
    assert held["README.md"].startswith(b"---\n")
    assert verified == [{path: data for path, data in held.items() if path in upload.files}]


def test_nothing_but_the_layout_goes(hub, best, verified, tmp_path):
    checkpoint = tmp_path / "best"
    save(Encoder.load(str(best)), checkpoint)
    (checkpoint / "state").mkdir()
    others = ["optimizer.pt", "pytorch_model.bin", "events.log", "state/state.pt", ".env", "train.py"]
    others += ["chat_template.jinja"]  # transformers reads it and writes it again
    for name in others:
        (checkpoint / name).write_bytes(b"x")
    before = weights(checkpoint)
    upload = push(checkpoint, "me/encoder")
    assert set(others) <= set(upload.left_out)
    assert not {*others} & set(hub.repositories["me/encoder"].files())
    assert verified[0].keys() == upload.files.keys()
    assert weights(checkpoint) == before


def test_code_goes_where_the_modules_name_it(tmp_path):
    (tmp_path / "modules.json").write_text('[{"type": "prefix_module.PrefixTransformer", "path": ""}]')
    (tmp_path / "prefix_module.py").write_text("import json\nfrom .prefix import prompted\n")
    for name in ("prefix.py", "setup.py", "json.py", "1_Pooling.py"):
        (tmp_path / name).write_text("")
    files, left_out = published(tmp_path)
    assert set(files) == {"modules.json", "prefix_module.py", "prefix.py"}
    assert set(left_out) == {"setup.py", "json.py", "1_Pooling.py"}


def test_a_width_is_published(hub, best, verified, tmp_path):
    """sentence-transformers gives the first dimensions, of unit length."""
    from sentence_transformers import SentenceTransformer

    assert main(["push", str(best), "me/narrow", "--dimensions", "4"]) == 0
    want = Encoder.load(str(best)).encode(TEXTS)[:, :4]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    folder = snapshot_download("me/narrow", cache_dir=tmp_path)
    np.testing.assert_allclose(SentenceTransformer(folder, device="cpu").encode(TEXTS), want, atol=1e-6)
    refuses("--dimensions 4 with --adapter", push, best, "me/narrow", adapter=True, dimensions=4)


def test_a_dry_run_lists_what_would_go_and_contacts_nothing(hub, best, verified, monkeypatch, capfd):
    monkeypatch.delenv("HF_TOKEN")
    dry = push(best, "me/encoder", dry_run=True)
    assert main(["push", str(best), "me/encoder", "--dry-run"]) == 0
    assert hub.requests == []
    printed = capfd.readouterr().out
    assert all(f"would send {path}   {size:,} B" in printed for path, size in dry.files.items())
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(best, "me/encoder").files == dry.files


def test_a_model_that_fails_verification_leaves_no_trace(hub, best, monkeypatch):
    def verify(folder, *, against, dimensions=None):
        raise UserError("it gives other vectors\nfix: publish another")

    monkeypatch.setattr("cse.publish.verify.verify", verify)
    refuses("other vectors", push, best, "me/encoder")
    assert hub.repositories == {}


def test_files_of_the_model_before_go_and_others_stay(published_once, best, tmp_path, tiny_bert):
    repository = published_once
    onto = repository.resolve("main")
    blob = repository.head().files["modules.json"]
    repository.commit("refs/heads/main", onto, {"LICENSE": blob, "onnx/model.json": blob}, set(), "extras", "me")
    save(Encoder(tiny_bert), tmp_path / "best")
    upload = push(tmp_path / "best", "me/encoder")
    assert "2_Dense/model.safetensors" in upload.removed
    held = set(repository.files())
    assert held == {*upload.files, ".gitattributes", "LICENSE", "onnx/model.json"}


# Where it goes
def test_private_is_asked_for(hub, best, verified):
    push(best, "team/encoder", private=True)
    assert hub.repositories["team/encoder"].private


def test_a_branch_is_made_and_used_again(published_once, best, tmp_path, tiny_bert):
    save(Encoder(tiny_bert), tmp_path / "best")
    main_before = published_once.resolve("main")
    upload = push(tmp_path / "best", "me/encoder", revision="v2", message="second")
    assert upload.url.endswith("/me/encoder/tree/v2")
    push(best, "me/encoder", revision="v2", message="third")
    assert published_once.history("v2")[:3] == ["third", "second", "Upload sentence encoder"]
    assert published_once.resolve("main") == main_before


def test_a_tag_an_odd_branch_and_a_public_repository_are_refused(published_once, best, hub):
    published_once.refs["refs/tags/v1"] = published_once.resolve("main")
    cases = (({"revision": "v1"}, "tag"), ({"revision": "a b"}, "cannot be a branch"), ({"private": True}, "public"))
    for options, message in cases:
        refuses(message, push, best, "me/encoder", **options)
    assert set(published_once.refs) == {"refs/heads/main", "refs/tags/v1"}
    assert len(published_once.history()) == 2


def test_a_pull_request_leaves_main(hub, best, verified, tiny_bert, tmp_path):
    hub.users["hf_other"] = User("you")
    push(best, "me/encoder")
    before = hub.repositories["me/encoder"].resolve("main")
    save(Encoder(tiny_bert), tmp_path / "best")
    os.environ["HF_TOKEN"] = "hf_other"  # may read; `hub` restores it
    upload = push(tmp_path / "best", "me/encoder", create_pr=True)
    repository = hub.repositories["me/encoder"]
    assert upload.url == f"{hub.url}/me/encoder/discussions/1"
    assert repository.resolve("main") == before
    assert "2_Dense/config.json" not in repository.files("refs/pr/1")
    assert repository.head("refs/pr/1").author == "you"
    refuses("--pr", push, best, "me/encoder")


def test_a_pull_request_needs_a_repository_and_main(hub, best):
    refuses("does not exist", push, best, "me/encoder", create_pr=True)
    refuses("against main", push, best, "me/encoder", create_pr=True, revision="v2")
    assert hub.repositories == {}


def test_the_message_has_the_score(hub, best, verified, tmp_path):
    results = tmp_path / "results.json"
    results.write_text(json.dumps(RESULTS))
    push(best, "me/encoder", results=results)
    assert hub.repositories["me/encoder"].history()[0] == "Upload sentence encoder: sts 76.25 (Spearman × 100, all)"


def test_scores_of_another_model_are_refused(hub, best, verified, tmp_path):
    results = tmp_path / "results.json"
    results.write_text(json.dumps({**RESULTS, "model": {"name": "best", "sha256": model_hash(best)}}))
    push(best, "me/encoder", results=results, dry_run=True)
    config = best / "config.json"
    config.write_text(config.read_text() + "\n")
    write_sums(best)
    refuses("scores of a model other than", push, best, "me/encoder", results=results)
    assert hub.repositories == {}


def test_results_are_found_in_the_run(tmp_path):
    best, last = tmp_path / "best", tmp_path / "last"
    assert find_results(best) is None
    for name in ("results-last-sts-mini.json", "results-sts-mini.json", "results-STSB-dev.json", "results.json"):
        (tmp_path / name).touch()
        if name == "results-sts-mini.json":
            assert find_results(best) == tmp_path / name
        if name == "results-STSB-dev.json":
            refuses(r"results-STSB-dev\.json, results-sts-mini\.json", find_results, best)
    assert find_results(best) == tmp_path / "results.json"
    assert find_results(last) == tmp_path / "results-last-sts-mini.json"


# A second time
def test_what_is_there_is_not_sent_again(published_once, best, hub):
    upload = push(best, "me/encoder")
    assert not upload.changed
    assert len(published_once.history()) == 2
    assert hub.asked("PUT", "") == [] == hub.asked("POST", COMMIT)


def test_someone_elses_commit_is_not_overwritten(published_once, best, hub, monkeypatch, tmp_path, tiny_bert):
    """Between the look at what is there and the commit, a user edits the card."""
    save(Encoder(tiny_bert), tmp_path / "best")
    seen = []

    def write_card(folder, repo, *, previous, **_):
        seen.append(previous)
        (folder / "README.md").write_text(previous + "mine")
        if len(seen) == 1:
            edit = {"README.md": Blob(b"---\nlicense: mit\n---\nedited, ")}
            published_once.commit("refs/heads/main", published_once.resolve("main"), edit, set(), "e", "me")

    monkeypatch.setattr("cse.publish.card.write_card", write_card)
    push(tmp_path / "best", "me/encoder", message="second")
    assert seen[1].endswith("edited, ")
    assert published_once.files()["README.md"].endswith(b"edited, mine")
    assert published_once.history()[:2] == ["second", "e"]


# What stands in the way
def test_a_bad_name_is_refused_with_what_is_wrong(best):
    for repo, wrong in (("encoder", "the owner is missing"), ("me/a b", "alphanumeric"), ("me/name.git", r"\.git")):
        refuses(rf"{wrong}(.|\n)*fix: give owner/name", push, best, repo)


def test_no_token_is_said(hub, best, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refuses("hf auth login", push, best, "me/encoder")
    assert hub.requests == []


def test_the_hubs_own_login_is_used(hub, best, verified, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    push(best, "me/encoder")
    assert "me/encoder" in hub.repositories


@pytest.mark.parametrize(
    ("token", "repo", "wrong"),
    [
        ("hf_unknown", "me/encoder", "does not accept the token"),
        ("hf_reader", "me/encoder", "is read-only"),
        (TOKEN, "others/encoder", r"cannot write to it.*\n.*me/encoder"),
    ],
)
def test_a_right_that_is_missing_is_said(hub, best, verified, monkeypatch, token, repo, wrong):
    hub.users["hf_reader"] = User("me", role="read")
    monkeypatch.setenv("HF_TOKEN", token)
    assert token not in refuses(wrong, push, best, repo)
    assert hub.repositories == {}


def test_a_refusal_is_given_in_the_hubs_words_without_the_token(hub, best, verified):
    hub.fail("POST", COMMIT, 400, message=f"no {TOKEN} here")
    with pytest.raises(UserError, match="400, no <token> here") as raised:
        push(best, "me/encoder")
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


# What breaks
@pytest.mark.parametrize("what", [503, 429, "cut"])
def test_a_hub_that_is_busy_is_said(hub, best, verified, what):
    hub.fail("GET", "whoami", what)
    refuses(r"the Hub cannot be reached, is busy, or closed the connection.*\n.*try later", push, best, "me/encoder")
    push(best, "me/encoder")


def test_a_cut_upload_leaves_the_remote_and_goes_on_where_it_was(published_once, hub, tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, head="mlp", export_head=True)
    with_new = next(encoder.backbone.parameters())
    with_new.data += 1
    save(encoder, tmp_path / "best")
    before = published_once.resolve("main")
    hub.fail("PUT", LARGE, "cut", times=None, skip=1)
    with pytest.raises(UserError, match="does not upload again"):
        push(tmp_path / "best", "me/encoder", message="second")
    assert published_once.resolve("main") == before
    assert len(published_once.objects) == 3  # two of the first upload, and one of this
    hub.faults.clear()
    hub.requests.clear()
    push(tmp_path / "best", "me/encoder", message="second")
    assert len(hub.asked("PUT", LARGE)) == 1
    assert published_once.history()[0] == "second"
    assert published_once.files()["model.safetensors"] == (tmp_path / "best" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("what", "opened"), [("lose", ["refs/pr/1"]), (504, [])])
def test_a_pull_request_is_not_opened_twice(published_once, hub, tiny_bert, tmp_path, what, opened):
    save(Encoder(tiny_bert), tmp_path / "best")
    hub.fail("POST", COMMIT, what)
    refuses("/discussions", push, tmp_path / "best", "me/encoder", create_pr=True)
    assert len(hub.asked("POST", COMMIT)) == 1
    assert sorted(published_once.refs) == ["refs/heads/main", *opened]


def test_the_token_is_nowhere(hub, best, verified, capfd, monkeypatch, tmp_path):
    """Not in what is printed, with the Hub's own debugging on, nor in files; `hub` looks at requests and logs."""
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    hub.fail("POST", "/preupload/", 503, times=1, message=TOKEN)
    hub.fail("POST", COMMIT, 403, times=1, message=TOKEN)
    with warnings.catch_warnings(record=True) as said:
        assert main(["push", str(best), "me/encoder"]) == 2
        assert main(["push", str(best), "me/encoder"]) == 0
    printed = capfd.readouterr()
    assert "published" in printed.out
    assert TOKEN not in printed.out + printed.err + "".join(str(w.message) for w in said)
    for data in [*hub.repositories["me/encoder"].files().values(), *weights(best.parent).values()]:
        assert TOKEN.encode() not in data
    assert list((tmp_path / "scratch").iterdir()) == []
