"""Models that no encoder can be made of: one clear error, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cse import cli
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


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_no_encoder_can_be_made_of_is_refused(case, tiny_bert, tmp_path, monkeypatch, capsys):
    change, said = MODELS[case]
    shutil.copytree(tiny_bert, tmp_path / "model")
    change(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    before = {*tmp_path.rglob("*")}
    line = ["train", "simcse-unsup", "--data", "texts.txt", "--trainer.batch_size=8", "--run-dir", "run"]
    assert cli.main([*line, "--encoder", "./model"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cse: ")
    assert said in error
    assert "\nfix: " in error
    assert len(error.strip().splitlines()) <= 4
    assert {*tmp_path.rglob("*")} == before
