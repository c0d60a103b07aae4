"""Models that no encoder can be made of, and options that do not fit one: one clear error, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cse import cli
from tests.models import save_embedder, save_tiny
from tests.runs import write_texts

Change = Callable[[Path], object]


def config(**values) -> Change:
    """Set values of config.json; None removes one."""
    return edit("config.json", **values)


def edit(file: str, **values) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        content = {key: value for key, value in {**content, **values}.items() if value is not None}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    return change


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def write(file: str, text: str) -> Change:
    return lambda folder: (folder / file).write_text(text)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def modules(*kinds: str) -> Change:
    """Turn the folder into a checkpoint of these modules."""
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    return both(write("modules.json", json.dumps(entries)), edit("1_Pooling/config.json", **pooling))


POOLED = modules("Transformer", "Pooling")


def of_type(name: str) -> Change:
    """Turn the folder into a checkpoint of this type of model."""
    return both(POOLED, edit("config_sentence_transformers.json", model_type=name))


# Of each: what becomes of a good tiny BERT, and what the error must say. Damaged files are in tests/faults.
MODELS: dict[str, tuple[Change, str]] = {
    "reranker": (config(architectures=["BertForSequenceClassification"]), "is a reranker or a classifier (BertFor"),
    "reranker of the library": (of_type("CrossEncoder"), "is a reranker"),
    "sparse, by its modules": (modules("MLMTransformer", "SpladePooling"), "is a sparse model"),
    "sparse, by its class": (of_type("SparseEncoder"), "is a sparse model"),
    "late interaction": (modules("Transformer", "Dense"), "is damaged or incomplete"),
    "static vectors that are not there": (modules("StaticEmbedding"), "has no static vectors under embedding.weight"),
    "words only": (modules("WordEmbeddings", "Pooling"), "consists of WordEmbeddings + Pooling"),
    "a module that cse lacks": (modules("Transformer", "Pooling", "LayerNorm"), "LayerNorm, and cse loads"),
    "pooling that cse lacks": (
        both(POOLED, edit("1_Pooling/config.json", pooling_mode_max_tokens=True)),
        "is not one of cls, mean, last",
    ),
    "encoder-decoder, by its flag": (config(is_encoder_decoder=True), "is an encoder-decoder (bert)"),
    "T5": (config(model_type="t5"), "is an encoder-decoder (t5)"),
    "BART": (config(model_type="bart"), "is an encoder-decoder (bart)"),
    "CLIP": (config(model_type="clip"), "has the architecture clip, which is not a text encoder that cse knows"),
    "ViT": (config(model_type="vit"), "has the architecture vit, which is not a text encoder"),
    "speech": (config(model_type="wav2vec2"), "has the architecture wav2vec2, which is not a text encoder"),
    "vision and language": (config(model_type="gemma3", vision_config={}), "reads more than texts (gemma3)"),
    "code of its own": (
        config(model_type="foo", auto_map={"AutoModel": "modeling_foo.Foo"}),
        "runs code of its own (modeling_foo.Foo), which cse does not run\nfix: use a model whose architecture",
    ),
    "code of its own for a known architecture": (
        config(auto_map={"AutoModel": "modeling_foo.Foo"}),
        "fix: remove auto_map from its config.json to use transformers' own bert",
    ),
    "no architecture": (config(model_type=None), "knows no architecture None"),
    "config.json is cut off": (write("config.json", '{"model_type": '), "its config.json is damaged"),
    "GGUF": (both(empty, write("model-q4.gguf", "GGUF")), "holds GGUF files"),
    "adapter alone": (both(empty, write("adapter_config.json", "{}")), "is an adapter without its backbone"),
    "more layers than weights": (config(num_hidden_layers=3), "lacks the weights encoder.layer.2"),
    "fewer layers than weights": (config(num_hidden_layers=1), "does not describe the weights encoder.layer.1"),
    "quantized, trained fully": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "is quantized (gptq): its weights cannot be trained\nfix: --encoder.adapter=cse.encoder.Lora",
    ),
    "a run that saved nothing": (
        both(empty, write("recipe.yaml", ""), write("env.json", "{}")),
        "is a run without best/",
    ),
}


# Of each: options of the command, in which {good} is a good model and {embedder} one of sentence-transformers.
OPTIONS: dict[str, tuple[list[str], str]] = {
    "a GGUF file": (["--encoder", "./model.gguf"], "is a GGUF file"),
    "no such folder": (["--encoder", "./nothing"], "'./nothing' is not a folder"),
    "no such Hub id": (["--encoder", "no-such-org/no-such-model"], "cannot be loaded"),
    "no such asset": (["--encoder", "asset:smolm2"], "did you mean asset:smollm2?"),
    "a file": (["--encoder", "texts.txt"], "is not a folder"),
    "no model": (["--encoder"], "--encoder needs a value\nfix: --encoder MODEL"),
    "no data": (["--encoder", "{good}", "--data"], "--data needs a value\nfix: --data FILE"),
    "too many layers": (
        ["--encoder", "{good}", "--encoder.layers=26"],
        "encoder.layers is 26, but this backbone has 2",
    ),
    "too long": (["--encoder", "{embedder}", "--encoder.max_length=900"], "encoder.max_length is 900, but "),
    "no such dropout": (
        ["--encoder", "{modern}", "--encoder.dropout.hidden=0.1"],
        "encoder.dropout.hidden is 0.1, but a modernbert backbone has no such dropout",
    ),
    "no prompts for the architecture": (
        ["--encoder", "{modern}", "--encoder.adapter=cse.encoder.SoftPrompts"],
        "a modernbert backbone cannot have soft prompts",
    ),
    "a template without text": (["--encoder", "{good}", "--encoder.template=hello"], "encoder.template is 'hello'"),
}


@pytest.fixture(scope="module")
def models(tiny_bert, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    modern = save_tiny("modernbert", tiny_bert, folder / "modern")
    return {"good": tiny_bert, "embedder": save_embedder(tiny_bert, folder / "embedder"), "modern": modern}


def refusal(words: list[str], folder: Path, capsys) -> str:
    """What `cse train` says of these options, having written nothing."""
    before = {path for path in folder.rglob("*") if path.name != "texts.txt"}
    texts = write_texts(folder)
    data = [] if "--data" in words else ["--data", str(texts)]
    code = cli.main(
        ["train", "simcse-unsup", *data, "--trainer.batch_size=8", *words, "--run-dir", str(folder / "run")]
    )
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("cse: ")
    assert "Traceback" not in said
    assert "\nfix: " in said or "did you mean" in said
    assert len(said.strip().splitlines()) <= 4
    assert {path for path in folder.rglob("*") if path.name != "texts.txt"} == before
    return said


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_no_encoder_can_be_made_of_is_refused(case, models, tmp_path, monkeypatch, capsys):
    change, said = MODELS[case]
    shutil.copytree(models["good"], tmp_path / "model")
    change(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert said in refusal(["--encoder", "./model"], tmp_path, capsys)


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_fit_a_model_are_refused(case, models, tmp_path, monkeypatch, capsys):
    words, said = OPTIONS[case]
    monkeypatch.chdir(tmp_path)
    assert said in refusal([word.format(**models) for word in words], tmp_path, capsys)
