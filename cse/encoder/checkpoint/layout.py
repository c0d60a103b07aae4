"""The layout of a checkpoint folder: its only reader and writer. It builds no model and reads no model's weights.

    config.json model.safetensors tokenizer.json ...   the backbone, LoRA merged
    prompts.safetensors                                soft prompts, with the backbone or with a reference to it
    modules.json sentence_bert_config.json config_sentence_transformers.json
    1_Pooling/config.json  2_Dense/{config.json,model.safetensors}  3_Normalize/config.json
    (config_sentence_transformers.json: prompts, similarity, and truncate_dim if the vectors were cut)
    adapter/{adapter_config.json,adapter_model.safetensors}   a LoRA run's adapter: beside the merged weights it is not
        loaded; without them (no model.safetensors), it is merged into the backbone that the folder refers to
    model.safetensors tokenizer.json                   instead of a backbone: static vectors, without a pooling module
    LICENSE NOTICE                                     the backbone's, if it has them
    checkpoint.sha256                                  the hash of each of these files; `sha256sum -c` reads it

A run that trains no sentence vectors saves a plain Hugging Face model instead, without modules.json: config.json,
weights with the masked-LM head, tokenizer (`masked_lm.save_backbone`). To every reader it is a backbone.

This is the legacy layout of sentence-transformers, which its versions from 5.1 to 6.x both read. A pooler of two layers
is a WeightedLayerPooling with weight 1 for those two, and the pooler `mask` a WordWeights with weight 1 for the mask
token, each before a mean over tokens, so only soft prompts need code of their own. Heads that serve training only are
not saved.
Bidirectional attention is `is_causal: false` in config.json. transformers 4 would ignore it in silence; the first
module is therefore named as sentence-transformers 6 names it, so that versions for transformers 4 fail to load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from cse.encoder.poolers import LAYERS, NEEDS_ALL_LAYERS, PoolerName
from cse.errors import UserError
from cse.files import read_json, write_json

ADAPTER = "adapter"  # of a LoRA run, beside the merged weights; loaders of transformers and peft look in the root only
ADAPTER_CONFIG = "adapter_config.json"  # a name of peft
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODULES = "modules.json"
LEGACY = "sentence_transformers.models."
NEW = "sentence_transformers.base.modules.transformer."  # from 6 on; older versions fail instead of ignoring settings
TRANSFORMER, SOFT_PROMPTED = "Transformer", "PrefixTransformer"  # modules that turn texts into token embeddings
STATIC, STATIC_NAME = "StaticEmbedding", "static"  # the module of a mean of static vectors, and our name of it
TABLE, MODEL2VEC = "embedding.weight", "embeddings"  # the static vectors in its file, and in one that model2vec wrote
POOLING_KEYS: dict[PoolerName, str] = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}
BEFORE_POOLING: dict[PoolerName, str] = {**dict.fromkeys(LAYERS, "WeightedLayerPooling"), "mask": "WordWeights"}
OTHER_KEYS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
POOLING_NAMES: dict[str, PoolerName] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}  # since 6.x
ACTIVATION_PATHS = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
}
KINDS: dict[str, type[Any]] = {  # of settings, in whatever file of a model they are
    **dict.fromkeys(("hidden_size", "num_hidden_layers", "layers", "max_seq_length", "truncate_dim"), int),
    **dict.fromkeys(("max_length", "word_embedding_dimension", "embedding_dimension"), int),
    **dict.fromkeys(("in_features", "out_features"), int),
    **dict.fromkeys(("model_type", "backbone", "revision", "template", "cse_template", "backbone_sha256"), str),
    **dict.fromkeys(("activation_function", "default_prompt_name", "similarity_fn_name"), str),
    **dict.fromkeys(("prompts", "truncation", "quantization_config", "auto_map"), dict),
    **dict.fromkeys(("do_lower_case", "bias", "is_causal"), bool),
    "architectures": list,
}
UNLIMITED = 1_000_000  # tokens of a text, or positions: as good as no limit
SETTINGS, ABOUT = "sentence_bert_config.json", "config_sentence_transformers.json"


def is_bidirectional(config: Any) -> bool:
    """Tell whether the flag is set."""
    return getattr(config, "is_causal", None) is False


@dataclass(frozen=True, slots=True)
class Dense:
    """The settings of a Dense module. `activation` is a key of `ACTIVATION_PATHS`, or the last part of another path."""

    in_features: int
    out_features: int
    bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json."""

    type: str  # the path of its class
    path: str  # its folder in the checkpoint; empty for the root
    dense: Dense | None = None  # the settings of a Dense; None for every other kind

    @property
    def kind(self) -> str:
        """The name of its class, such as `Pooling`; the package that the class lives in does not matter."""
        return self.type.rpartition(".")[2]


def module_list(first: str, pooler: PoolerName, post: list[Dense | None]) -> tuple[Module, ...]:
    """The modules of an encoder; `post` has a Dense, or None for a Normalize, for each module after pooling."""
    modules = [Module(first, "")]
    if pooler in BEFORE_POOLING:
        kind = BEFORE_POOLING[pooler]
        modules.append(Module(LEGACY + kind, f"{len(modules)}_{kind}"))
    if modules[0].kind != STATIC:
        modules.append(Module(f"{LEGACY}Pooling", f"{len(modules)}_Pooling"))
    for dense in post:
        kind = "Normalize" if dense is None else "Dense"
        modules.append(Module(LEGACY + kind, f"{len(modules)}_{kind}", dense))
    return tuple(modules)


def read_modules(folder: Path) -> list[Module]:
    """The entries of modules.json, of which there is at least one, with the settings of every Dense."""
    modules = []
    entries = read_json(folder / MODULES)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{MODULES} is not a list of modules")
    for entry in entries:
        module = Module(str(entry["type"]), str(entry["path"]))
        if not (folder / module.path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{MODULES} names {module.path}, which is outside of the folder")
        if module.kind == "Dense":
            about = read_mapping(folder / module.path / "config.json")
            sizes, activation = (int(about["in_features"]), int(about["out_features"])), about["activation_function"]
            dense = Dense(*sizes, bool(about.get("bias", True)), activation.rpartition(".")[2].lower())
            module = replace(module, dense=dense)
        modules.append(module)
    if not modules:
        raise ValueError(f"{MODULES} lists no module")
    return modules


def read_mapping(file: Path) -> dict[str, Any]:
    """The content of a JSON file that must hold a mapping, in which the values of `KINDS` are of their type."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is not a mapping")
    for name, value in content.items():
        kind = KINDS.get(name)
        if kind and value is not None and (type(value) is not kind or (kind is int and value < 1)):
            wanted = "an integer >= 1" if kind is int else f"of type {kind.__name__}"
            raise ValueError(f"{name} in {file.name} is {str(value)[:60]!r}, which is not {wanted}")
    return content


def read_pooler(folder: Path, modules: list[Module]) -> tuple[PoolerName | None, int | None, str]:
    """The pooler that the modules amount to, H as its settings state it, and why cse cannot load them, if it cannot."""
    kinds = [module.kind for module in modules]
    after = 3 if kinds[1:2] and kinds[1] in BEFORE_POOLING.values() else 2  # modules that make the pooled vector
    static = kinds[0] == STATIC
    pooled = kinds[0] in {TRANSFORMER, SOFT_PROMPTED} and kinds[after - 1 : after] == ["Pooling"]
    after = 1 if static else after
    if not (static or pooled) or not set(kinds[after:]) <= {"Dense", "Normalize"}:
        weighted = " or ".join(sorted(set(BEFORE_POOLING.values())))
        known = f"{TRANSFORMER} or {SOFT_PROMPTED} (+ {weighted}) + Pooling, or {STATIC} (+ Dense, Normalize)"
        what = f"checkpoint {folder} consists of {' + '.join(kinds)}, and cse loads {known}"
        return None, None, f"{what}\nfix: give a checkpoint of these modules; cse runs no code of others"
    elsewhere = "fix: load it with sentence-transformers"
    for dense in (module.dense for module in modules if module.dense is not None):
        if dense.activation not in ACTIVATION_PATHS:
            what = f"a Dense has the activation {dense.activation}, and cse has {', '.join(ACTIVATION_PATHS)}"
            return None, None, f"checkpoint {folder}: {what}\n{elsewhere}"
    if static:
        return "mean", _static_width(folder / modules[0].path), ""
    found, width, problem = _read_pooling(folder / modules[after - 1].path / "config.json")
    if problem:
        return None, width, f"checkpoint {folder}: {problem}\n{elsewhere}"
    if after == 3:
        read = _read_layers if kinds[1] == "WeightedLayerPooling" else _read_tokens
        found = read(folder, modules) if found == "mean" else None
        if found is None:
            what = f"the states in {folder / modules[1].path} are averaged as no pooler of cse does"
            return None, width, f"{what} ({', '.join(BEFORE_POOLING)})\n{elsewhere}"
    return found, width, ""


def _read_pooling(path: Path) -> tuple[PoolerName | None, int | None, str]:
    """The pooler of the settings of a Pooling, H, and why cse has none like it."""
    config = read_mapping(path)
    width = config.get("embedding_dimension") or config.get("word_embedding_dimension")
    if (mode := config.get("pooling_mode")) is not None:
        found = POOLING_NAMES.get(str(mode))
    else:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        found = next((name for name, key in POOLING_KEYS.items() if [key] == on), None)
    if config.get("include_prompt") is False:  # INSTRUCTOR: a vector would depend on where the prompt ends
        return (
            None,
            width,
            f"the pooling in {path} leaves the prompt out (include_prompt: false), which no pooler of cse does",
        )
    return found, width, "" if found else f"the pooling in {path} is not one of {', '.join(POOLING_KEYS)}"


def _static_width(folder: Path) -> int:
    """H, the size of the static vectors of a folder."""
    with safe_open(folder / "model.safetensors", framework="np") as file:
        name = next((name for name in (TABLE, MODEL2VEC) if name in file.keys()), None)  # noqa: SIM118
        if name is None:
            raise ValueError(f"model.safetensors has no static vectors under {TABLE} or {MODEL2VEC}")
        return int(file.get_slice(name).get_shape()[1])


def _read_layers(folder: Path, modules: list[Module]) -> PoolerName | None:
    """The pooler that reads the layers that a WeightedLayerPooling weights; None if there is none."""
    start = read_json(folder / modules[1].path / "config.json")["layer_start"]
    weights = load_file(folder / modules[1].path / "model.safetensors")["layer_weights"]
    share = {start + i: w for i, w in enumerate((weights / weights.sum()).tolist()) if w}
    depth = start + len(weights)
    read = {name: Counter(index % depth for index in indices) for name, indices in LAYERS.items()}
    return next((name for name, count in read.items() if share == {i: n / 2 for i, n in count.items()}), None)


def _read_tokens(folder: Path, modules: list[Module]) -> PoolerName | None:
    """`mask` if a WordWeights weights the mask token alone; None if it weights others."""
    weights = load_file(folder / modules[1].path / "model.safetensors")["emb_layer.weight"]  # (vocabulary, 1)
    config = read_mapping(folder / modules[1].path / "config.json")
    tokenizer = folder / modules[0].path / "tokenizer_config.json"  # absent beside a reference to the backbone
    mask = read_mapping(tokenizer).get("mask_token") if tokenizer.is_file() else next(iter(config["word_weights"]))
    token = mask.get("content") if isinstance(mask, dict) else mask
    return "mask" if [config["vocab"][i] for i in weights[:, 0].nonzero()[0]] == [token] else None


@dataclass(frozen=True, slots=True)
class Reference:
    """The backbone that a checkpoint of soft prompts or of a LoRA adapter names instead of holding its weights."""

    backbone: str  # `asset:NAME`, the whole path of a folder, or a Hub id
    revision: str | None = None  # the revision of a Hub id
    layers: int | None = None  # the number of its first layers that are kept; None: all
    weights: str | None = None  # the sum of its weights, as `weights_sum` computes it; None: they are not compared


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of a checkpoint folder."""

    modules: tuple[Module, ...]  # the entries of modules.json in their order; empty for a plain Hugging Face model
    pooler: PoolerName | None = None  # the pooler that the modules amount to; None if cse has none like it
    width: int | None = None  # H, the size of the backbone's states, if the folder says so
    depth: int | None = None  # the number of the backbone's layers; needed to write a pooler of two layers
    vocabulary: tuple[str, ...] = field(default=(), repr=False)  # the tokens by id; needed to write the pooler `mask`
    mask_token: str | None = None  # the mask token; needed to write the pooler `mask`
    architecture: str | None = None  # the backbone's `model_type`, if the folder holds the backbone
    bidirectional: bool = False  # whether a causal backbone attends to later tokens too, by a flag of its config.json
    weights: Literal["fp32", "bf16"] = "fp32"  # the number format of the weights, in which they are loaded again
    max_length: int | None = None  # the most tokens of a text
    lower_case: bool = False  # whether texts are lower-cased first
    template: str | None = None  # the text that the tokenizer puts around every text
    reference: Reference | None = None  # the backbone of a checkpoint that does not hold one
    # whether the folder holds a LoRA adapter, beside the merged weights unless it has a `reference`
    adapter: bool = False
    # texts that may be put before every text, by name, as in sentence-transformers
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None  # the prompt that is put before every text unless another one is asked for
    similarity: str | None = "cosine"  # the similarity function that the vectors are made for
    truncate_dim: int | None = None  # the number of first dimensions that are kept, if the checkpoint states one
    model_type: str | None = None  # the class of sentence-transformers that wrote the checkpoint, if it says so
    unsupported: str = ""  # why cse cannot load the folder; empty if it can

    @property
    def post(self) -> tuple[Module, ...]:
        """The modules after pooling, each a Dense or a Normalize."""
        kinds = [module.kind for module in self.modules]
        if self.static:
            return self.modules[1:]
        return self.modules[kinds.index("Pooling") + 1 :] if "Pooling" in kinds else ()

    @property
    def dim(self) -> int:
        """D, the size of a vector."""
        sizes = [module.dense.out_features for module in self.post if module.dense is not None]
        whole = sizes[-1] if sizes else self.width or 0
        return whole if self.truncate_dim is None else min(whole, self.truncate_dim)

    @property
    def cut(self) -> int | None:
        """The number of first dimensions that are kept of longer vectors; None if the vectors stay as they are."""
        return self.truncate_dim if replace(self, truncate_dim=None).dim > self.dim else None

    @property
    def compared_by(self) -> Literal["cosine", "euclidean"]:
        """Name how vectors are compared: by distance if `similarity` says so, otherwise by cosine.

        The field reports cosines of all other models, also of those that were trained by dot product.
        """
        return "euclidean" if self.similarity == "euclidean" else "cosine"

    @property
    def soft_prompts(self) -> bool:
        """Tell whether the folder holds soft prompts."""
        return any(module.kind == SOFT_PROMPTED for module in self.modules[:1])

    @property
    def static(self) -> bool:
        """Tell whether the folder holds static vectors instead of a backbone."""
        return any(module.kind == STATIC for module in self.modules[:1])

    @property
    def limited(self) -> bool:
        """Tell whether texts are cut."""
        return self.max_length is None or self.max_length < UNLIMITED

    @property
    def needs_code(self) -> bool:
        """Tell whether loading runs code that sentence-transformers does not have."""
        return any(not module.type.startswith("sentence_transformers.") for module in self.modules)

    @property
    def default_prompt(self) -> str:
        """The text that is put before every text; empty if there is none."""
        return self.prompts.get(self.default_prompt_name or "", "")

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """Read a folder; one without modules.json is a plain Hugging Face model and has no modules.

        Raises:
            UserError: A file is missing or cannot be read.
        """
        if not is_checkpoint(folder):
            return cls(modules=())
        try:
            return _read(folder)
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, SafetensorError) as error:
            reason = str(error).splitlines()[0][:160] if str(error) else "no reason given"
            if isinstance(error, FileNotFoundError) and error.filename is not None:
                reason = f"{error.filename} does not exist"
            raise UserError(
                f"checkpoint {folder} is damaged or incomplete: {reason}\nfix: copy or save the checkpoint again"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the settings of the checkpoint and of every module; weights are not part of it."""
        settings: dict[str, Any] = {"max_seq_length": self.max_length, "do_lower_case": self.lower_case}
        if self.soft_prompts:
            settings |= {"all_layers": self.pooler in NEEDS_ALL_LAYERS, "backbone": None}
        if self.reference is not None:
            settings |= {"backbone": self.reference.backbone, "revision": self.reference.revision}
            settings |= {"layers": self.reference.layers, "template": self.template}
            settings |= {"backbone_sha256": self.reference.weights} if self.reference.weights else {}
        if self.weights == "bf16" and any(module.dense for module in self.post):
            settings["model_args"] = {"torch_dtype": "float32"}  # sentence-transformers fails on two number formats
        if not self.static:
            write_json(folder / SETTINGS, settings)
        for module in self.modules[1:]:
            (folder / module.path).mkdir(exist_ok=True)
            write_json(folder / module.path / "config.json", self._config(module))
            if module.kind in BEFORE_POOLING.values():
                save_file(self._weights(module.kind), folder / module.path / "model.safetensors")
        entries = [{"idx": i, "name": str(i), "path": m.path, "type": m.type} for i, m in enumerate(self.modules)]
        write_json(folder / MODULES, entries)
        about: dict[str, Any] = {"prompts": dict(self.prompts), "default_prompt_name": self.default_prompt_name}
        about |= {"similarity_fn_name": self.similarity}
        write_json(folder / ABOUT, about if self.truncate_dim is None else about | {"truncate_dim": self.truncate_dim})

    def _config(self, module: Module) -> dict[str, Any]:
        """The settings of a module; even Normalize has a file, because git and some loaders drop an empty folder."""
        if module.kind == "WeightedLayerPooling":
            return {"word_embedding_dimension": self.width, "layer_start": 0, "num_hidden_layers": self.depth}
        if module.kind == "WordWeights":
            weights = {self.mask_token: 1.0}
            return {"vocab": list(self.vocabulary), "word_weights": weights, "unknown_word_weight": 0.0}
        if module.kind == "Pooling":
            over_tokens = POOLING_KEYS.get(self.pooler or "mean", POOLING_KEYS["mean"])
            modes = {key: key == over_tokens for key in (*POOLING_KEYS.values(), *OTHER_KEYS)}
            return {"word_embedding_dimension": self.width, **modes}
        if module.dense is not None:
            sizes = {"in_features": module.dense.in_features, "out_features": module.dense.out_features}
            activation = ACTIVATION_PATHS[module.dense.activation]
            return {**sizes, "bias": module.dense.bias, "activation_function": activation}
        return {}

    def _weights(self, kind: str) -> dict[str, NDArray[np.float32]]:
        """The tensor of a module before pooling: how often the pooler reads each layer (N + 1) or token (V, 1)."""
        if kind == "WordWeights":
            counted = [[token == self.mask_token] for token in self.vocabulary]
            return {"emb_layer.weight": np.array(counted, dtype=np.float32)}
        assert self.pooler is not None  # whoever describes the pooler's modules knows its name and depth
        assert self.depth is not None
        weights = np.zeros(self.depth + 1, dtype=np.float32)
        for index in LAYERS[self.pooler]:
            weights[index] += 1
        return {"layer_weights": weights}


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder is a checkpoint in this layout, and not a plain model or something else."""
    return (folder / MODULES).is_file()


def require_checkpoint(folder: Path) -> Layout:
    """The layout of a folder that must be a checkpoint."""
    if not is_checkpoint(folder):
        fix = "give a run's best/ or last/"
        if (folder / "config.json").is_file():
            fix = f"train sentence vectors on this backbone first, such as: cse train simcse-unsup --encoder {folder}"
        raise UserError(f"{folder} is not a checkpoint: it has no {MODULES}\nfix: {fix}")
    return Layout.read(folder)


def _read(folder: Path) -> Layout:
    modules = read_modules(folder)
    root = folder / modules[0].path
    files = (root / "config.json", root / "tokenizer_config.json", root / SETTINGS, folder / ABOUT)
    config, tokenizer, settings, about = (read_mapping(file) if file.is_file() else {} for file in files)
    prompts = {name: text for name, text in (about.get("prompts") or {}).items() if text is not None}
    if strange := [name for name, text in prompts.items() if not isinstance(text, str)]:
        raise ValueError(f"prompts in {ABOUT} has {str(prompts[strange[0]])[:60]!r} for {strange[0]!r}, not a text")
    reference = None
    if settings.get("backbone") is not None:
        kept = settings.get("layers")
        reference = Reference(settings["backbone"], settings.get("revision"), kept, settings.get("backbone_sha256"))
    length = settings.get("max_seq_length") or tokenizer.get("model_max_length")
    if modules[0].kind == STATIC:
        length = (read_mapping(root / "tokenizer.json").get("truncation") or {}).get("max_length", UNLIMITED)
    pooler, width, unsupported = read_pooler(folder, modules)
    return Layout(
        modules=tuple(modules),
        pooler=pooler,
        width=config.get("hidden_size") or width,
        depth=config.get("num_hidden_layers"),
        architecture=STATIC_NAME if modules[0].kind == STATIC else config.get("model_type"),
        bidirectional=config.get("is_causal") is False,
        weights="bf16" if config.get("cse_weights") == "bf16" else "fp32",
        max_length=None if length is None else int(length),
        lower_case=bool(settings.get("do_lower_case")),
        template=settings.get("template") or tokenizer.get("cse_template"),
        reference=reference,
        adapter=(folder / ADAPTER / ADAPTER_CONFIG).is_file(),
        prompts=prompts,
        default_prompt_name=about.get("default_prompt_name"),
        similarity=about.get("similarity_fn_name"),
        truncate_dim=about.get("truncate_dim"),
        model_type=about.get("model_type"),
        unsupported=unsupported,
    )
