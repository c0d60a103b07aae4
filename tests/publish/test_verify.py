"""Before publishing: what a folder must not hold, and that a clean process makes the run's vectors of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cse import Encoder, SoftPrompts, UserError
from cse.encoder.checkpoint.sums import check_sums
from cse.encoder.heads import Normalize
from cse.publish import verify_child
from cse.publish.stage import stage
from cse.publish.verify import _environment, compare, scan, verify
from tests.refusals import refuses


@pytest.fixture(scope="module")
def best(tiny_bert, tmp_path_factory):
    """A checkpoint with a Dense."""
    torch.manual_seed(0)
    encoder = Encoder(tiny_bert, pooler="first_last_embeddings", head="mlp", export_head=True)
    torch.nn.init.normal_(encoder.post[0].linear.weight)
    folder = tmp_path_factory.mktemp("run") / "best"
    encoder.save(folder)
    return folder


@pytest.fixture
def staged(best, tmp_path):
    stage(best, tmp_path / "staged")
    return tmp_path / "staged"


def test_a_staged_folder_gives_the_runs_vectors(best, staged):
    report = verify(staged, against=best)
    assert set(report.difference) == {"sentence-transformers", "transformers"}
    assert max(report.difference.values()) < 1e-6
    assert set(report.files) == {p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file()}
    assert set(report.files) - set(check_sums(staged)) <= {"checkpoint.sha256", "README.md", "LICENSE"}
    assert (report.dimensions, report.needs) == (16, "needs no code from the folder")


@pytest.mark.slow  # a process that loads torch and transformers, as are the three below
@pytest.mark.parametrize("normalize", [False, True])
def test_a_width_loads_without_cse(best, tmp_path, normalize):
    encoder = Encoder.load(str(best))
    if normalize:
        encoder.append(Normalize())
    encoder.save(tmp_path / "best")
    stage(tmp_path / "best", tmp_path / "staged", 5)
    report = verify(tmp_path / "staged", against=tmp_path / "best", dimensions=5)
    assert report.dimensions == 5
    assert max(report.difference.values()) < 1e-6
    refuses("5 dimensions, but those of the run have 16", verify, tmp_path / "staged", against=tmp_path / "best")


@pytest.mark.slow
def test_soft_prompts_load_without_cse(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, adapter=SoftPrompts(length=3))
    torch.nn.init.normal_(encoder.adapter.prompts.weight)
    encoder.save(tmp_path / "best")
    stage(tmp_path / "best", tmp_path / "staged")
    report = verify(tmp_path / "staged", against=tmp_path / "best")
    assert report.needs == "needs trust_remote_code=True"
    assert set(report.difference) == {"sentence-transformers"}
    encoder.save(tmp_path / "needs cse", whole=True)
    with pytest.raises(UserError, match=r"cannot be loaded without cse and network: .*cse"):
        verify(tmp_path / "needs cse", against=tmp_path / "best")


def test_soft_prompts_without_their_backbone_are_refused(tiny_bert, tmp_path):
    Encoder(tiny_bert, adapter=SoftPrompts(length=3)).save(tmp_path / "best")
    with pytest.raises(UserError, match=r"refers to the backbone .*, which it does not contain"):
        verify(tmp_path / "best", against=tmp_path / "best")


@pytest.mark.slow
def test_another_pooling_is_seen(best, staged):
    """Only the vectors can show it: the folder loads."""
    assert json.loads((staged / "2_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    shutil.rmtree(staged / "1_WeightedLayerPooling")
    modules = [m for m in json.loads((staged / "modules.json").read_text()) if "Weighted" not in m["type"]]
    (staged / "modules.json").write_text(json.dumps(modules))
    (staged / "checkpoint.sha256").unlink()

    refuses(r"not give the vectors of the run: they differ by .*, and 1e-06 is allowed", verify, staged, against=best)


def add_tensor(folder, name):
    path = folder / "model.safetensors"
    save_file(load_file(path) | {name: torch.zeros(2)}, path, metadata={"format": "pt"})
    (folder / "checkpoint.sha256").unlink()


@pytest.mark.slow
def test_weights_that_the_model_does_not_read(best, staged):
    add_tensor(staged, "encoder.layer.9.output.dense.bias")
    refuses(r"model\.safetensors contains encoder\.layer\.9.*a training-only head", verify, staged, against=best)


def test_damaged_weights_are_named_before_anything_is_loaded(best, staged):
    path = staged / "3_Dense" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refuses(r"3_Dense/model\.safetensors is damaged or changed", verify, staged, against=best)
    refuses(r"3_Dense/model\.safetensors is damaged or changed", stage, staged, staged.parent / "again")
    assert not (staged.parent / "again").exists()


def test_the_limit_is_a_millionth_of_a_long_vectors_length():
    want = np.array([[3.0, 4.0], [0.3, 0.4]])  # lengths 5 and 0.5, so that 5e-6 and 1e-6 are allowed
    assert compare(want + np.array([[4e-6, 0], [0, 0]]), want, "it") == pytest.approx(8e-7)
    assert compare(want + np.array([[0, 0], [9e-7, 0]]), want, "it") == pytest.approx(9e-7)
    for off in ([[6e-6, 0], [0, 0]], [[0, 0], [2e-6, 0]], [[np.nan, 0], [0, 0]]):
        refuses("it does not give the vectors of the run", compare, want + np.array(off), want, "it")
    refuses("it gives vectors of 1 dimensions", compare, want[:, :1], want, "it")


TOKEN = "hf_" + "aB3" * 12
SECRETS = {
    "a Hugging Face token": TOKEN,
    "an API key": "sk-" + "proj-" + "aB3_" * 6,
    "an AWS access key": "AKIA" + "ABCDEFGH" * 2,
    "a private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "a password in an address": "https://me:" + "secret@example.com/x",
}


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.parametrize("name", ["README.md", "config.json", "notes.txt"])
def test_secrets_are_found_and_not_repeated(staged, what, name):
    (staged / name).write_text(f"a line\nanother with {SECRETS[what]} in it")
    assert SECRETS[what] not in refuses(f"{name}:2 contains {what}", scan, staged)


def test_secrets_in_weights_and_of_this_machine(staged, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "quite-a-plain-word")
    (staged / "NOTICE").write_text("as quite-a-plain-word says")
    refuses("NOTICE:1 contains the value of MY_SERVICE_TOKEN", scan, staged)
    (staged / "NOTICE").unlink()
    save_file({"linear.weight": torch.zeros(1)}, staged / "3_Dense" / "model.safetensors", metadata={"by": TOKEN})
    refuses(r"3_Dense/model\.safetensors:1 contains a Hugging Face token", scan, staged)


LOCAL = [
    "backbone: /home/me/models/bert",
    '"path": "/Users/me/data.tsv"',
    "path = C:\\Users\\me\\data.tsv",
    "see /tmp/x/run",
]
ELSEWHERE = "https://example.com/home/page and and/or, 1/2, a / b, /usr, LOCAL/data.tsv, runs/simcse/best, ~"


def test_local_paths(staged):
    for line in LOCAL:
        (staged / "README.md").write_text(f"first\n{line}\n")
        refuses(r"README\.md:2 contains a (local path|path of this machine)", scan, staged)
    (staged / "README.md").write_text(ELSEWHERE)
    scan(staged)


def test_this_machines_paths_also_in_vocabularies(staged, tmp_path, monkeypatch):
    """Entries of a vocabulary may look like paths; those of this machine may not be there either."""
    text = (staged / "tokenizer.json").read_text()
    (staged / "tokenizer.json").write_text(text.replace('"moon"', '"/home/moon"'))
    scan(staged)
    monkeypatch.chdir(tmp_path)
    (staged / "tokenizer.json").write_text(text.replace('"moon"', f'"{tmp_path}/x"'))
    refuses(r"tokenizer\.json:\d+ contains a path of this machine", scan, staged)


def test_the_clean_process_reaches_nothing_and_knows_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SOME_API_KEY", "quite-a-plain-word")
    environment = _environment(tmp_path)
    assert not {TOKEN, "quite-a-plain-word"} & set(environment.values())
    assert environment["HF_HUB_OFFLINE"] == "1"
    script = f"""
import sys, socket
sys.path.insert(0, {str(Path(verify_child.__file__).parent)!r})
import verify_child
verify_child.cut_off()
sys.meta_path.insert(0, verify_child.WithoutCse())
attempts = [lambda: socket.create_connection(("127.0.0.1", 9)), lambda: socket.getaddrinfo("example.com", 80)]
attempts += [lambda: socket.socket().connect_ex(("127.0.0.1", 9)), lambda: __import__("cse")]
for attempt in attempts:
    try:
        attempt()
    except Exception as error:
        print(type(error).__name__, error)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    blocked = "OSError the network is blocked while a folder is verified"
    assert done.stdout.splitlines() == [blocked] * 3 + ["ModuleNotFoundError No module named 'cse'"]
