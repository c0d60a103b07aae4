"""What a model is, told from its settings before any weight is read, and which models cannot become an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cse.encoder.backbone import FIX, explained, fetch, max_positions
from cse.encoder.layout import UNLIMITED, Layout
from cse.encoder.modules import STATIC_NAME, read_mapping
from cse.errors import UserError

KindName = Literal["encoder", "causal", "sentence-transformers"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
SPARSE = {"SpladePooling", "SparseAutoEncoder", "SparseStaticEmbedding", "MLMTransformer", "IDF"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model is.

    Attributes:
        name: `sentence-transformers` for every checkpoint with modules.json, ours included; otherwise `encoder` for a
            bidirectional architecture and `causal` for a language model that reads from left to right.
        folder: The folder of the model's files.
        layout: The checkpoint's layout; it has no modules for a plain Hugging Face model.
        architecture: The `model_type` of the backbone.
        layers: The number of its layers, if config.json states it.
        max_length: The most tokens of a text: what modules.json and the positions allow.
        causal: Whether the backbone reads from left to right.
        quantized: The method by which the weights are quantized; None if they are not.
    """

    name: KindName
    folder: Path
    layout: Layout = field(repr=False)
    architecture: str
    layers: int | None
    max_length: int
    causal: bool
    quantized: str | None = None

    def describe(self) -> str:
        """A few words, such as `bert encoder of 12 layers`."""
        name = {"encoder": "encoder", "causal": "language model"}.get(self.name, "sentence-transformers model")
        return f"{self.architecture} {name}" + (f" of {self.layers} layers" if self.layers else "")


def detect(source: str, revision: str | None = None, *, option: str = "model") -> Kind:
    """The kind of a model, from config.json, modules.json and the names of its other files.

    Args:
        source: `asset:NAME`, a folder, or a Hub id, of which only the settings are fetched.
        revision: Commit, tag or branch, for a Hub id.
        option: The option that names the source, for error messages.

    Raises:
        UserError: The model cannot be found, or no encoder of texts can be made of it.
    """
    folder = fetch(source, revision, option=option, weights=False)
    with explained(source, option):
        return _detect(f"{option} {source!r}", folder)


def _detect(what: str, folder: Path) -> Kind:
    layout = Layout.read(folder)
    _refuse_modules(what, layout)
    root = folder / layout.modules[0].path if layout.modules else folder
    if layout.soft_prompts and not (root / "config.json").is_file():
        assert layout.reference is not None  # a checkpoint of soft prompts holds its backbone or names it
        raise UserError(
            f"{what} holds soft prompts alone\nfix: give its backbone, {layout.reference.backbone}, and "
            "--encoder.adapter=cse.encoder.SoftPrompts to train new ones"
        )
    if layout.static:
        length = layout.max_length or UNLIMITED
        return Kind("sentence-transformers", folder, layout, STATIC_NAME, layers=None, max_length=length, causal=False)
    config = _config(what, root)
    architecture = _architecture_kind(what, config)
    if not any((root / file).is_file() for file in TOKENIZERS):
        raise UserError(
            f"{what} has no tokenizer: none of {', '.join(TOKENIZERS[:4])} ...\n"
            "fix: save the tokenizer into the same folder: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        )
    positions = max_positions(config)
    return Kind(
        name="sentence-transformers" if layout.modules else architecture,
        folder=folder,
        layout=layout,
        architecture=config["model_type"],
        layers=config.get("num_hidden_layers") or config.get("n_layer") or config.get("n_layers"),
        max_length=min(layout.max_length or positions, positions),
        causal=architecture == "causal",
        quantized=(config.get("quantization_config") or {}).get("quant_method"),
    )


def without_layers(option: str, source: str) -> str:
    """Why static vectors cannot be trained."""
    return (
        f"{option} {source!r} holds static vectors, which have no layers to train\n"
        "fix: train the model that they were made of, and run cse static on the result"
    )


def _config(what: str, root: Path) -> dict[str, Any]:
    """The content of config.json, which must name an architecture that transformers has."""
    from transformers import __version__ as version
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if not (root / "config.json").is_file():
        if any(root.glob("*.gguf")):
            raise UserError(f"{what} holds GGUF files, which are for inference\nfix: give the original model's weights")
        if (root / "adapter_config.json").is_file():
            raise UserError(
                f"{what} is an adapter without its backbone\nfix: merge it first: "
                "AutoPeftModel.from_pretrained(...).merge_and_unload().save_pretrained(FOLDER)"
            )
        raise UserError(f"{what} cannot be loaded: it has no config.json\nfix: {FIX}")
    try:
        config = read_mapping(root / "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{what}: its config.json is damaged: {error}\nfix: copy the model again") from error
    code = {str(path) for name, path in (config.get("auto_map") or {}).items() if name != "AutoTokenizer"}
    model_type = config.get("model_type")
    if code:
        known = f"remove auto_map from its config.json to use transformers' own {model_type}"
        other = "use a model whose architecture transformers has"
        raise UserError(
            f"{what} runs code of its own ({', '.join(sorted(code))[:80]}), which cse does not run\n"
            f"fix: {known if model_type in CONFIG_MAPPING_NAMES else other}"
        )
    if model_type not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"{what}: transformers {version} knows no architecture {model_type!r}, the model_type of its config.json\n"
            "fix: use another model, or a newer transformers that has this architecture"
        )
    return config


def _refuse_modules(what: str, layout: Layout) -> None:
    kinds = {module.kind for module in layout.modules}
    if kinds & SPARSE or layout.model_type == "SparseEncoder":
        raise UserError(
            f"{what} is a sparse model: its vectors are as wide as the vocabulary\nfix: give a dense model, or the "
            "masked language model that it was made of"
        )
    if layout.model_type == "CrossEncoder":
        raise UserError(f"{what} is a reranker: it scores pairs, and has no vector of a text\nfix: {_EMBEDDER}")
    if layout.modules and layout.pooler is None:
        raise UserError(layout.unsupported)


_EMBEDDER = "give an embedding model, an encoder such as bert-base-uncased, or a causal language model"


def _architecture_kind(what: str, config: dict[str, Any]) -> Literal["encoder", "causal"]:
    """Whether the architecture is bidirectional or causal; every other one is refused."""
    from transformers.models.auto import modeling_auto as known

    model_type = config["model_type"]
    heads = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith("ForSequenceClassification") for name in heads):
        raise UserError(
            f"{what} is a reranker or a classifier ({heads[0]}): it has no vector of a text\nfix: {_EMBEDDER}"
        )
    if config.get("is_encoder_decoder") or model_type in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{what} is an encoder-decoder ({model_type}), which cse does not train\nfix: {_EMBEDDER}")
    if any(key.endswith(("vision_config", "audio_config")) for key in config):
        raise UserError(f"{what} reads more than texts ({model_type})\nfix: {_EMBEDDER}")
    masked = model_type in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = model_type in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if masked and not (causal and config.get("is_decoder")):
        return "encoder"
    if causal:
        return "causal"
    raise UserError(
        f"{what} has the architecture {model_type}, which is not a text encoder that cse knows\nfix: {_EMBEDDER}"
    )
