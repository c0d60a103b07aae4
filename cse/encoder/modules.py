"""The modules of a checkpoint: their settings as modules.json and their folders hold them, and the pooler they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cse.encoder.poolers import LAYERS, PoolerName
from cse.files import read_json

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


@dataclass(frozen=True, slots=True)
class Dense:
    """The settings of a Dense module. `activation` is a key of `ACTIVATION_PATHS`, or the last part of another path."""

    in_features: int
    out_features: int
    bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json.

    Attributes:
        type: The path of its class.
        path: Its folder in the checkpoint; empty for the root.
        dense: The settings of a Dense; None for every other kind.
    """

    type: str
    path: str
    dense: Dense | None = None

    @property
    def kind(self) -> str:
        """The name of its class, such as `Pooling`; the package that the class lives in does not matter."""
        return self.type.rpartition(".")[2]


def module_list(first: str, pooler: PoolerName, post: list[Dense | None]) -> tuple[Module, ...]:
    """The modules of an encoder.

    Args:
        first: The path of the class that turns text into token embeddings, or into vectors: a StaticEmbedding.
        pooler: The encoder's pooler.
        post: A Dense, or None for a Normalize, for each module after pooling.
    """
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


def write_weights(folder: Path, name: str, weights: list[Any]) -> None:
    """Write a module's one tensor."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.array(weights, dtype=np.float32)}, folder / "model.safetensors")


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
            module = Module(module.type, module.path, _read_dense(folder / module.path))
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
    pooled = kinds[0] in {TRANSFORMER, SOFT_PROMPTED} and kinds[after - 1 : after] == ["Pooling"]
    after = 1 if kinds[0] == STATIC else after
    if not (pooled or kinds[0] == STATIC) or not set(kinds[after:]) <= {"Dense", "Normalize"}:
        weighted = " or ".join(sorted(set(BEFORE_POOLING.values())))
        known = f"{TRANSFORMER} or {SOFT_PROMPTED} (+ {weighted}) + Pooling, or {STATIC} (+ Dense, Normalize)"
        what = f"checkpoint {folder} consists of {' + '.join(kinds)}, and cse loads {known}"
        return None, None, f"{what}\nfix: give a checkpoint of these modules; cse runs no code of others"
    for dense in (module.dense for module in modules if module.dense is not None):
        if dense.activation not in ACTIVATION_PATHS:
            what = f"a Dense has the activation {dense.activation}, and cse has {', '.join(ACTIVATION_PATHS)}"
            return None, None, f"checkpoint {folder}: {what}\nfix: load it with sentence-transformers"
    if kinds[0] == STATIC:
        return "mean", _static_width(folder / modules[0].path), ""
    path = folder / modules[after - 1].path / "config.json"
    config = read_mapping(path)
    width = config.get("embedding_dimension") or config.get("word_embedding_dimension")
    mode = config.get("pooling_mode")
    if mode is not None:
        found = POOLING_NAMES.get(mode) if isinstance(mode, str) else None
    else:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        found = next((name for name, key in POOLING_KEYS.items() if [key] == on), None)
    if config.get("include_prompt") is False:  # INSTRUCTOR: a vector would depend on where the prompt ends
        what = f"the pooling in {path} leaves the prompt out (include_prompt: false), which no pooler of cse does"
        return None, width, f"checkpoint {folder}: {what}\nfix: load it with sentence-transformers"
    if found is None:
        what = f"the pooling in {path} is not one of {', '.join(POOLING_KEYS)}"
        return None, width, f"checkpoint {folder}: {what}\nfix: load it with sentence-transformers"
    if after == 3:
        read = _read_layers if kinds[1] == "WeightedLayerPooling" else _read_tokens
        own = read(folder, modules) if found == "mean" else None
        if own is None:
            what = f"the states in {folder / modules[1].path} are averaged as no pooler of cse does"
            return None, width, f"{what} ({', '.join(BEFORE_POOLING)})\nfix: load it with sentence-transformers"
        found = own
    return found, width, ""


def _static_width(folder: Path) -> int:
    """H, the size of the static vectors of a folder."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="np") as file:
        name = next((name for name in (TABLE, MODEL2VEC) if name in file.keys()), None)  # noqa: SIM118
        if name is None:
            raise ValueError(f"model.safetensors has no static vectors under {TABLE} or {MODEL2VEC}")
        return int(file.get_slice(name).get_shape()[1])


def _read_layers(folder: Path, modules: list[Module]) -> PoolerName | None:
    """The pooler that reads the layers that a WeightedLayerPooling weights; None if there is none."""
    from safetensors.numpy import load_file

    start = read_json(folder / modules[1].path / "config.json")["layer_start"]
    weights = load_file(folder / modules[1].path / "model.safetensors")["layer_weights"]
    share = {start + i: w for i, w in enumerate((weights / weights.sum()).tolist()) if w}
    depth = start + len(weights)
    for name, indices in LAYERS.items():
        wanted: dict[int, float] = {}
        for index in indices:
            wanted[index % depth] = wanted.get(index % depth, 0.0) + 1 / len(indices)
        if share == wanted:
            return name
    return None


def _read_tokens(folder: Path, modules: list[Module]) -> PoolerName | None:
    """`mask` if a WordWeights weights the mask token alone; None if it weights others."""
    from safetensors.numpy import load_file

    weights = load_file(folder / modules[1].path / "model.safetensors")["emb_layer.weight"]  # (vocabulary, 1)
    config = read_mapping(folder / modules[1].path / "config.json")
    tokenizer = folder / modules[0].path / "tokenizer_config.json"  # absent beside a reference to the backbone
    mask = read_mapping(tokenizer).get("mask_token") if tokenizer.is_file() else next(iter(config["word_weights"]))
    token = mask.get("content") if isinstance(mask, dict) else mask
    return "mask" if [config["vocab"][i] for i in weights[:, 0].nonzero()[0]] == [token] else None


def _read_dense(folder: Path) -> Dense:
    config = read_mapping(folder / "config.json")
    activation = config["activation_function"].rpartition(".")[2].lower()
    return Dense(int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)), activation)
