"""`cse export`: onnxruntime gives the checkpoint's vectors, and what does not is not written."""

import json
import shutil

import numpy as np
import pytest
import torch

from cse import Encoder, Lora, SoftPrompts, UserError, cli
from cse.commands.verbs import ONNX
from cse.encoder.heads import Dense, Normalize
from cse.inference import export
from cse.inference.export import OnnxEncoder
from tests.conftest import WORDS
from tests.models import save_tiny
from tests.refusals import refuses

pytest.importorskip("onnxruntime")
TEMPLATE = "the cat sat on a {text} mat"
LENGTHS = [3, 0, 1, 7, 60, 2, 33]
TEXTS = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(length)) for i, length in enumerate(LENGTHS)]


def randomise(module: torch.nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)


def saved(encoder: Encoder, folder) -> Encoder:
    encoder.save(folder)
    return encoder.eval()


def supervised(backbone: str, folder) -> Encoder:
    """Mean over tokens in a template, SimCSE's head, whitening to fewer dimensions, unit length."""
    encoder = Encoder(backbone, pooler="mean", head="mlp", export_head=True, template=TEMPLATE, layers=1)
    encoder.post.extend([Dense(16, 5, activation="identity"), Normalize()])
    randomise(encoder.post)
    return saved(encoder, folder)


def causal(backbone: str, folder, **options) -> Encoder:
    """The last token of a Llama in a template, with LoRA that is not 0."""
    save_tiny("llama", backbone, folder / "llama", num_hidden_layers=1, num_key_value_heads=1)
    encoder = Encoder(str(folder / "llama"), pooler="last", template=TEMPLATE, adapter=Lora(rank=2))
    randomise(torch.nn.ParameterList([p for n, p in encoder.named_parameters() if "lora_" in n]))
    return saved(encoder, folder / "best")


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory):
    """A supervised checkpoint, its encoder and its export."""
    folder = tmp_path_factory.mktemp("bert")
    encoder = supervised(tiny_bert, folder / "best")
    assert cli.main(["export", str(folder / "best"), "--out", str(folder / "onnx")]) == 0
    return encoder, folder


def assert_same(onnx: OnnxEncoder, encoder: Encoder) -> None:
    """The export's vectors in batches of several sizes are those of each text alone."""
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    for size in (1, 2, 5, len(TEXTS)):
        np.testing.assert_allclose(onnx.encode(TEXTS, batch_size=size, max_tokens=10**6), alone, atol=2e-5)
    np.testing.assert_allclose(onnx.encode(TEXTS), alone, atol=2e-5)
    shuffled = [TEXTS[i] for i in (3, 1, 6, 0, 2, 5, 4)]
    np.testing.assert_allclose(onnx.encode(shuffled), alone[[3, 1, 6, 0, 2, 5, 4]], atol=2e-5)


def test_windows_of_long_texts(bert):
    encoder, folder = bert
    onnx = OnnxEncoder(folder / "onnx")
    assert "windows" in onnx.about["longer_texts"]
    room = encoder.max_length - 8  # special tokens and template
    for step in (room, room - 5):
        np.testing.assert_allclose(onnx.encode(TEXTS, windows=step), encoder.encode(TEXTS, windows=step), atol=2e-5)
    long = TEXTS[4:5]
    assert np.abs(onnx.encode(long, windows=room) - onnx.encode(long)).max() > 1e-3


# The same vectors
def test_template_mean_head_whitening_and_unit_length(bert):
    encoder, folder = bert
    assert_same(OnnxEncoder(folder / "onnx"), encoder)
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == ["export.json", "model.onnx", "tokenizer.json"]


def test_weights_in_bf16(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="mean", layers=1).save(tmp_path / "best", precision="bf16")
    assert cli.main(["export", str(tmp_path / "best"), "--out", str(tmp_path / "onnx")]) == 0
    assert_same(OnnxEncoder(tmp_path / "onnx"), Encoder.load(str(tmp_path / "best")).float())


def test_template_last_token_and_merged_lora(tiny_bert, tmp_path, capsys):
    encoder = causal(tiny_bert, tmp_path)
    assert cli.main(["export", str(tmp_path / "best"), "--out", str(tmp_path / "onnx")]) == 0
    assert_same(OnnxEncoder(tmp_path / "onnx"), encoder)
    said = capsys.readouterr().out
    assert "float32: cosine 1.0000" in said
    assert "16 dimensions" in said


@pytest.mark.slow
@pytest.mark.parametrize("pooler", ["cls", "mean_last_two", "first_last_embeddings", "first_last_layer1"])
def test_other_poolers_and_no_special_tokens(tiny_bert, tmp_path, pooler):
    encoder = Encoder(tiny_bert, pooler=pooler).eval()
    export.export(encoder, tmp_path / "onnx")
    assert_same(OnnxEncoder(tmp_path / "onnx"), encoder)


def test_soft_prompts_of_an_encoder_that_is_left_as_it_was(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, layers=1, adapter=SoftPrompts(length=3)).train()
    randomise(encoder.adapter.prompts)
    before = [p.requires_grad for p in encoder.parameters()]
    export.export(encoder, tmp_path / "onnx")
    assert encoder.training
    assert [p.requires_grad for p in encoder.parameters()] == before
    assert_same(OnnxEncoder(tmp_path / "onnx"), encoder.eval())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "mpnet", "distilbert", "qwen2", "qwen3", "mistral"])
def test_other_architectures(tiny_bert, tmp_path, kind):
    causal = kind in {"qwen2", "qwen3", "mistral"}
    sizes = {"num_key_value_heads": 1, "head_dim": 8} if causal else {}
    if kind == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    backbone = save_tiny(kind, tiny_bert, tmp_path / kind, max_position_embeddings=64, **sizes)
    encoder = Encoder(backbone, pooler="last" if causal else "mean").eval()
    export.export(encoder, tmp_path / "onnx")
    assert_same(OnnxEncoder(tmp_path / "onnx"), encoder)


def test_the_lines_in_the_help_give_the_vectors(bert):
    encoder, folder = bert
    texts = [text for text in TEXTS if text]
    names = {"texts": texts}
    lines = [line.strip() for line in ONNX.splitlines() if line.startswith("  ")]
    exec("\n".join(lines).replace("DIR", str(folder / "onnx")), names)
    np.testing.assert_allclose(names["vectors"], encoder.encode(texts), atol=2e-5)


def test_lower_case_is_kept(bert, tmp_path):
    encoder, folder = bert
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    about = tmp_path / "onnx" / "export.json"
    about.write_text(about.read_text().replace('"do_lower_case": false', '"do_lower_case": true'))
    found = OnnxEncoder(tmp_path / "onnx").encode(["THE Cat"])
    np.testing.assert_allclose(found, encoder.encode(["the cat"]), atol=2e-5)


def test_the_harness_scores_an_export(bert, tmp_path):
    from cse.encoder.checkpoint.identity import model_hash
    from cse.evaluation.loading import load_model

    encoder, folder = bert
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    model = load_model(str(tmp_path / "onnx"))
    assert (model.loader, model.as_dict()["max_length"]) == ("onnxruntime float32", 40)
    np.testing.assert_allclose(model.encoder.encode(TEXTS, batch_size=3), encoder.encode(TEXTS), atol=2e-5)
    with (tmp_path / "onnx" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert load_model(str(folder / "onnx")).sha256 == model.sha256
    assert model_hash(tmp_path / "onnx") != model.sha256


# int8
def _as_exported(folder, monkeypatch) -> None:
    """Spare the tracing: what is written is a copy of an earlier export."""

    def write(encoder, out):
        shutil.copytree(folder, out, dirs_exist_ok=True)
        return json.loads((out / "export.json").read_text())

    monkeypatch.setattr(export, "_write", write)


def test_int8_says_what_it_costs(bert, tmp_path, monkeypatch, capsys):
    import onnx

    encoder, folder = bert
    _as_exported(folder / "onnx", monkeypatch)
    arguments = ["export", str(folder / "best"), "--out", str(tmp_path / "int8"), "--quantize", "int8"]
    assert cli.main(arguments) == 0
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    assert any(node.op_type == "MatMulInteger" for node in graph.node)
    got = OnnxEncoder(tmp_path / "int8").encode(export.SENTENCES, batch_size=1)
    cosines = (got * encoder.encode(export.SENTENCES)).sum(1)  # of unit vectors
    assert 0.9 < cosines.min() < 0.99999
    said = capsys.readouterr().out
    least = float(said.split("on average, ")[1].split()[0])
    assert 0.9 < least <= round(float(cosines.min()), 4)
    assert "cse eval compare" in said


# What is refused
def test_a_graph_that_gives_other_vectors_is_not_written(bert, tiny_bert, tmp_path, monkeypatch):
    _, folder = bert
    _as_exported(folder / "onnx", monkeypatch)
    other = Encoder.load(str(folder / "best"))
    with torch.no_grad():
        next(other.post.parameters()).mul_(1.5)
    with pytest.raises(UserError, match="the vectors of the graph differ from those of the checkpoint: cosine 0"):
        export.export(other, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_that_cannot_be_traced(tiny_bert, tmp_path, monkeypatch):
    def forward(self, input_ids, attention_mask):
        return self.encoder.backbone(input_ids[:, : int(attention_mask.sum())]).last_hidden_state[:, 0]

    monkeypatch.setattr(export.Graph, "forward", forward)
    refuses("Encoder \\(bert\\) cannot be exported", export.export, Encoder(tiny_bert, layers=1), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_missing(tiny_bert, tmp_path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match=rf"cse export needs {name} .*\nfix: pip install 'cse-embeddings\[onnx\]'"):
        export.export(Encoder(tiny_bert), tmp_path / "onnx")


def test_what_is_no_export_or_a_damaged_one(bert, tmp_path):
    _, folder = bert
    refuses("lacks model", OnnxEncoder, folder / "best")
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    model = tmp_path / "onnx" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1000])
    refuses(r"model.onnx cannot be loaded.*\nfix: export it again", OnnxEncoder, tmp_path / "onnx")


def test_a_width(bert, tmp_path, capsys):
    """The whitened model scales its vectors to unit length; the graph scales them again after the cut."""
    _, folder = bert
    encoder = Encoder.load(str(folder / "best"))
    want = encoder.encode(TEXTS)[:, :3]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert cli.main(["export", str(folder / "best"), "--out", str(tmp_path / "onnx"), "--dimensions", "3"]) == 0
    onnx = OnnxEncoder(tmp_path / "onnx")
    assert onnx.dim == 3
    np.testing.assert_allclose(onnx.encode(TEXTS), want, atol=2e-5)
    assert cli.main(["export", str(folder / "best"), "--out", str(tmp_path / "x"), "--dimensions", "6"]) == 2
    assert "--dimensions has 6, but the vectors have 5 dimensions" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
