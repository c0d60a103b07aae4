"""Adapters of domains over one backbone, and the mixture of experts that they stand for."""

import numpy as np
import pytest
import torch

import cse
from cse import Encoder, Lora, cli
from cse.objectives.parts.functional import contrast
from tests.cases import cases, load
from tests.encoder.helpers import learn
from tests.models import save_tiny
from tests.objectives.helpers import agrees
from tests.refusals import refuses


def save_expert(backbone, folder, seed, rank=2, whole=True, kind="lora", **options):
    """A checkpoint whose adapter differs from 0."""
    torch.manual_seed(seed)
    encoder = learn(Encoder(str(backbone), pooler="mean", adapter=Lora(rank=rank, kind=kind), **options))
    encoder.save(folder, whole=whole)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_bert, tmp_path_factory):
    place = tmp_path_factory.mktemp("experts")
    labels = enumerate(["legal", "U.S. news"])
    return {label: save_expert(tiny_bert, place / str(i), i, rank=1 + i) for i, label in labels}


def test_what_cannot_be_an_expert(folders, tiny_bert, tmp_path):
    experts = cse.Experts(folders, device="cpu")
    refuses("no adapter for 'sports'", experts.encode, ["a"], ["sports"])
    refuses("2 texts and 1 labels", experts.encode, ["a", "b"], ["legal"])
    refuses("has no checkpoint", cse.Experts, {})
    Encoder(tiny_bert, pooler="mean").save(tmp_path / "plain")
    long = save_expert(tiny_bert, tmp_path / "long", 1, max_length=7)
    other = save_tiny("bert", tiny_bert, tmp_path / "other", max_position_embeddings=40, seed=5)
    alien = save_expert(other, tmp_path / "alien", 1)
    wrong = {
        "no adapter/": tmp_path / "plain",
        "in its modules, template, length": long,
        "its vectors differ by": alien,
        "a DoRA, which": save_expert(tiny_bert, tmp_path / "dora", 1, kind="dora"),
    }
    for message, folder in wrong.items():
        refuses(message, cse.Experts, {"legal": folders["legal"], "x": folder}, device="cpu")


def write_rows(folder, rows):
    (folder / "rows.tsv").write_text("text\tdomain\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return str(folder / "rows.tsv")


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_is_encoded_by_the_adapters_of_its_labels(tiny_bert, tmp_path, whole):
    """From best/, with the backbone, and from last/, which is the adapter alone; in shards too."""
    labels = enumerate(["law", "art"])
    folders = {label: save_expert(tiny_bert, tmp_path / label, i, whole=whole) for i, label in labels}
    rows = [("the cat sat", "law"), ("a dog ran fast", "art"), ("the sun", "law"), ("", "art"), ("the cat sat", "art")]
    line = ["encode", ",".join(f"{label}={folder}" for label, folder in folders.items()), write_rows(tmp_path, rows)]
    line += ["--label-column", "domain", "--precision", "fp32", "--device", "cpu", "--save-every", "2", "--out"]
    assert cli.main([*line, str(tmp_path / "v.npy")]) == 0
    alone = {label: Encoder.load(str(folder)).encode([text for text, _ in rows]) for label, folder in folders.items()}
    want = np.stack([alone[label][i] for i, (_, label) in enumerate(rows)])
    assert np.abs(np.load(tmp_path / "v.npy") - want).max() < 1e-5
    assert cli.main([*line, str(tmp_path / "shards"), "--shards", "2"]) == 0
    assert np.abs(np.asarray(cse.open_vectors(tmp_path / "shards")) - want).max() < 1e-5
    out = tmp_path / "w.npy"
    cse.encode(folders, line[2], out, label_column="domain", device="cpu", precision="fp32", normalize=True)
    assert np.abs(np.load(out) - want / np.linalg.norm(want, axis=1, keepdims=True)).max() < 1e-5


@pytest.fixture(scope="module")
def domains(tiny_bert, tmp_path_factory):
    """The adapters of law and art alone, and an alien of another backbone."""
    place = tmp_path_factory.mktemp("domains")
    other = save_tiny("bert", tiny_bert, place / "other", max_position_embeddings=40, seed=5)
    backbones = {"law": tiny_bert, "art": tiny_bert, "alien": other}
    return {name: save_expert(each, place / name, i, whole=False) for i, (name, each) in enumerate(backbones.items())}


BY = ["--label-column", "domain"]
BAD = [  # the models, the second label, more options, what is said
    ("law={law},art={art}", "sport", BY, "rows.tsv:3 has the label 'sport', and there are adapters for law, art"),
    ("law={law},art={art}", "", BY, "rows.tsv:3 has no label, and there are adapters for law, art"),
    ("law={law},art={art}", "art", ["--label-column", "topic"], "--label-column"),
    ("law={law},art={art}", "art", [], "there is an adapter for each of law, art, and --label-column is not given"),
    ("{law}", "art", BY, "--label-column is domain, and there is one model for all rows"),
    ("law={law},art", "art", BY, "has 'art', which is not LABEL=CHECKPOINT"),
    ("law={law},law={art}", "art", BY, "names 'law' twice"),
    ("law={law},sport={alien}", "sport", BY, "was trained on another backbone than"),
    ("law={law},sport=nothing", "sport", BY, "nothing is not a checkpoint"),
]


@pytest.mark.parametrize(("model", "label", "options", "said"), BAD)
def test_bad_experts_are_named_before_anything_is_written(domains, tmp_path, capsys, model, label, options, said):
    rows = write_rows(tmp_path, [("the cat sat", "law"), ("a dog ran", label)])
    line = ["encode", model.format(**domains), rows, "--out", str(tmp_path / "v.npy"), "--device", "cpu"]
    assert cli.main([*line, *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("v.npy*"))


def test_a_file_of_lines_has_no_labels(domains, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("the cat sat\n")
    line = ["encode", "law={law},art={art}".format(**domains), str(tmp_path / "lines.txt"), "--out", "v.npy", *BY]
    assert cli.main(line) == 2
    assert "a .txt file has one text per line" in capsys.readouterr().err


@pytest.mark.parametrize("name", cases("moe", has="loss_mnr"))
def test_the_loss_of_the_mixture_is_one_call_of_the_kernel(name):
    """Plain inner products, no temperature, one way; the symmetric loss is the mean of both ways."""
    about, data = load("moe", name)
    leaves = {key: data[key].double().requires_grad_() for key in "ab"}
    x, y = (torch.nn.functional.normalize(z, dim=-1) if about["normalize"] else z for z in leaves.values())
    logits, own = x @ y.T, torch.eye(len(x), dtype=torch.float64)
    both = (contrast(logits, own).loss + contrast(logits.T, own).loss).item() / 2
    agrees(contrast(logits, own).loss, about, data, leaves, loss="loss_mnr")
    diagonal = data["plus_target"].tolist() == list(range(len(x)))
    assert diagonal == about["plus_targets_are_diagonal"]
    # The targets of `mnr_plus` are the nearest rows of the same side: by inner product, a long row is everybody's.
    # Then it is another loss, which is not built.
    assert (both == pytest.approx(about["loss_mnr_plus"], rel=1e-5)) == diagonal
