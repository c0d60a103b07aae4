"""Checkpoints on disk: the legacy sentence-transformers layout, which its versions from 5.1 to 6.x both read.

    config.json model.safetensors tokenizer.json ...   the backbone, LoRA merged
    modules.json sentence_bert_config.json config_sentence_transformers.json
    1_Pooling/config.json  2_Dense/{config.json,model.safetensors}  3_Normalize/config.json
    adapter/{adapter_config.json,adapter_model.safetensors}   of a LoRA run, beside the merged weights; nothing loads it
    LICENSE NOTICE                                     the backbone's, where it has them
    weights.sha256                                     of each weights file; `sha256sum -c` reads it

Poolers of two layers are a WeightedLayerPooling, 1 for those two and 0 for the rest, and a mean over tokens: modules
of sentence-transformers as the others, so that no checkpoint of `Encoder` needs code of ours. What serves training only
never gets here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cse.encoder.heads import ACTIVATIONS, Dense, Normalize
from cse.encoder.poolers import LAYERS, NEEDS_ALL_LAYERS, PoolerName
from cse.encoder.provenance import copy_notices, write_sums
from cse.errors import UserError
from cse.files import atomic_dir

if TYPE_CHECKING:
    from cse.encoder.model import Encoder

ADAPTER = "adapter"  # loaders of transformers and peft look for an adapter in the root only
LEGACY = "sentence_transformers.models."
FIRST = ("Transformer", "PrefixTransformer")  # what turns text into token embeddings
POOLING_KEYS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
OTHER_KEYS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
POOLING_NAMES: dict[str, PoolerName] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}  # from 6.x on
ACTIVATION_PATHS = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
}


def write(encoder: Encoder, folder: Path) -> None:
    """Write an encoder, replacing the folder as a whole or not at all."""
    with atomic_dir(folder) as out:
        write_backbone(encoder, out)
        settings = {"max_seq_length": encoder.max_length, "do_lower_case": encoder.lower_case}
        _json(out / "sentence_bert_config.json", settings)
        write_modules(encoder, out, first=f"{LEGACY}Transformer")
        _write_adapter(encoder, out / ADAPTER)
        write_sums(out)


def write_modules(encoder: Encoder, out: Path, *, first: str) -> None:
    """Write the list of modules, of which `first` is the class of the one in the folder's root, and those after it."""
    modules = [("", first)]
    if encoder.pooler in NEEDS_ALL_LAYERS:
        modules.append(("1_WeightedLayerPooling", f"{LEGACY}WeightedLayerPooling"))
        _write_layers(encoder, out / "1_WeightedLayerPooling")
    modules.append((f"{len(modules)}_Pooling", f"{LEGACY}Pooling"))
    keys, over_tokens = [*POOLING_KEYS.values(), *OTHER_KEYS], POOLING_KEYS.get(encoder.pooler, POOLING_KEYS["mean"])
    pooling: dict[str, Any] = {key: key == over_tokens for key in keys}
    _json(out / modules[-1][0] / "config.json", {"word_embedding_dimension": encoder.hidden_size, **pooling})
    for module in encoder.post:
        name = f"{len(modules)}_{type(module).__name__}"
        modules.append((name, LEGACY + type(module).__name__))
        _write_module(module, out / name)
    _json(out / "modules.json", [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(modules)])
    about: dict[str, Any] = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    _json(out / "config_sentence_transformers.json", about)


def write_backbone(encoder: Encoder, out: Path) -> None:
    """Write backbone and tokenizer as transformers 4 and 5 both read them."""
    from cse.encoder.backbone import merged_state

    state = {k: v.detach().cpu().contiguous() for k, v in merged_state(encoder.backbone).items()}
    encoder.backbone.save_pretrained(out, state_dict=state)
    encoder.tokenizer.model_max_length = encoder.max_length
    encoder.tokenizer.backend_tokenizer.no_truncation()  # else it would keep what the last call asked for
    encoder.tokenizer.backend_tokenizer.no_padding()
    encoder.tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # transformers 4 reads it here, and would silently fall back to 10,000
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = config.get("dtype", "float32")
    config.pop("output_hidden_states", None)
    if encoder.pooler in NEEDS_ALL_LAYERS:  # with it, sentence-transformers hands all layers on
        config["output_hidden_states"] = True
    _json(out / "config.json", config)
    about = json.loads((out / "tokenizer_config.json").read_text())
    about["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that both versions know; tokenizer.json has the rest
    for key in ("is_local", "local_files_only", "backend"):  # of where it was loaded, not of what it is
        about.pop(key, None)
    _json(out / "tokenizer_config.json", about)
    copy_notices(encoder.source, out)


def _write_adapter(encoder: Encoder, folder: Path) -> None:
    """The LoRA alone, in peft's format, where the encoder has one: what `cse push --adapter` publishes."""
    from safetensors.torch import save_file

    from cse.encoder.backbone import adapter_state

    found = adapter_state(encoder.backbone)
    if found is not None:
        settings, state = found
        settings |= {"base_model_name_or_path": encoder.source, "revision": encoder.revision}
        _json(folder / "adapter_config.json", settings)
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def read(path: str, *, pooler: PoolerName | None, max_length: int | None) -> Encoder:
    """Read an encoder; see `Encoder.load`."""
    from cse.encoder.backbone import locate
    from cse.encoder.model import Encoder

    folder = _folder(locate(path))
    if not (folder / "modules.json").exists():
        return Encoder(str(folder), pooler=pooler or "mean", max_length=max_length).eval()
    modules = json.loads((folder / "modules.json").read_text())
    kinds = [m["type"].rsplit(".", 1)[-1] for m in modules]
    first, layered = kinds[0] if kinds else "", kinds[1:2] == ["WeightedLayerPooling"]
    after = 2 + layered  # modules up to here make the pooled vector
    known = kinds[after - 1 : after] == ["Pooling"] and set(kinds[after:]) <= {"Dense", "Normalize"}
    if first not in FIRST or not known:
        raise UserError(
            f"checkpoint {path!r} is made of {' + '.join(kinds)}\n"
            f"cse reads {' or '.join(FIRST)} (+ WeightedLayerPooling) + Pooling (+ Dense, Normalize); "
            "load this one with sentence-transformers"
        )
    read_first = _read_prefix if first == "PrefixTransformer" else _read_transformer
    encoder = read_first(path, folder / modules[0]["path"], pooler_of(folder, modules), max_length)
    for module in modules[after:]:
        encoder.post.append(_read_module(folder / module["path"], module["type"]))
    return encoder.eval()


def pooler_of(folder: Path, modules: list[dict[str, Any]]) -> PoolerName:
    """The pooler that the modules of a checkpoint amount to: Pooling, or WeightedLayerPooling and Pooling.

    Raises:
        UserError: None of ours.
    """
    if not modules[1]["type"].endswith(".WeightedLayerPooling"):
        return _pooling(folder / modules[1]["path"])
    return _layers(folder / modules[1]["path"], _pooling(folder / modules[2]["path"]))


def _read_transformer(path: str, root: Path, pooler: PoolerName, max_length: int | None) -> Encoder:
    from cse.encoder.model import Encoder

    settings = _settings(root)
    encoder = Encoder(str(root), pooler=pooler, max_length=_fits(root, max_length or settings.get("max_seq_length")))
    encoder.lower_case, encoder.source = bool(settings.get("do_lower_case")), path
    return encoder


def _read_prefix(path: str, root: Path, pooler: PoolerName, max_length: int | None) -> Encoder:
    from cse.encoder.prefix_encoder import read

    return read(root, pooler=pooler, max_length=max_length)


def _folder(where: str) -> Path:
    """A local folder for a path or a Hub id."""
    if Path(where).is_dir():
        return Path(where)
    from cse.assets.hub import snapshot

    ignored = ["*.bin", "*.onnx", "*.h5", "*.msgpack", "openvino/*", "onnx/*"]
    return snapshot(where, ignore=ignored, what=f"checkpoint {where!r}")


def _settings(root: Path) -> dict[str, Any]:
    path = root / "sentence_bert_config.json"
    settings: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if settings.get("max_seq_length") is None:
        about = json.loads((root / "tokenizer_config.json").read_text())
        settings["max_seq_length"] = about.get("model_max_length")
    return settings


def _fits(root: Path, length: int | None) -> int | None:
    """The length, or None where a checkpoint states one beyond what its backbone can position."""
    from transformers import AutoConfig

    from cse.encoder.backbone import max_positions

    limit = max_positions(AutoConfig.from_pretrained(root))
    return length if length is not None and length <= limit else None


def _pooling(folder: Path) -> PoolerName:
    config = json.loads((folder / "config.json").read_text())
    mode = config.get("pooling_mode")
    if mode is not None:
        found = [POOLING_NAMES[mode]] if mode in POOLING_NAMES else []
    else:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        found = [name for name in POOLING_NAMES.values() if [POOLING_KEYS[name]] == on]
    if not found or config.get("include_prompt") is False:
        raise UserError(f"checkpoint's pooling in {folder / 'config.json'} is none of {', '.join(POOLING_KEYS)}")
    return found[0]


def _write_layers(encoder: Encoder, folder: Path) -> None:
    """A WeightedLayerPooling: embeddings' output and layers (N + 1), weighted 1 where the pooler reads them."""
    import torch
    from safetensors.torch import save_file

    depth = int(encoder.backbone.config.num_hidden_layers)
    weights = torch.zeros(depth + 1)
    for index in LAYERS[encoder.pooler]:
        weights[index] += 1
    config = {"word_embedding_dimension": encoder.hidden_size, "layer_start": 0, "num_hidden_layers": depth}
    _json(folder / "config.json", config)
    save_file({"layer_weights": weights}, folder / "model.safetensors")


def _layers(folder: Path, over_tokens: PoolerName) -> PoolerName:
    """The pooler that reads the layers that a WeightedLayerPooling weights."""
    from safetensors.torch import load_file

    start = json.loads((folder / "config.json").read_text())["layer_start"]
    weights = load_file(folder / "model.safetensors")["layer_weights"]
    share = {start + i: w for i, w in enumerate((weights / weights.sum()).tolist()) if w}
    depth = start + len(weights)
    for name, indices in LAYERS.items():
        wanted: dict[int, float] = {}
        for index in indices:
            wanted[index % depth] = wanted.get(index % depth, 0.0) + 1 / len(indices)
        if over_tokens == "mean" and share == wanted:
            return name
    raise UserError(
        f"checkpoint's layers in {folder} are averaged as no pooler of cse does ({', '.join(LAYERS)})\n"
        "Load this one with sentence-transformers."
    )


def _write_module(module: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    config: dict[str, Any] = {}  # even Normalize writes its file: git keeps no empty folder, and no loader finds one
    if isinstance(module, Dense):
        linear = module.linear
        config = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": linear.bias is not None,
            "activation_function": ACTIVATION_PATHS[module.activation_name],
        }
        folder.mkdir()
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors"
        )
    _json(folder / "config.json", config)


def _read_module(folder: Path, kind: str) -> nn.Module:
    if kind.endswith(".Normalize"):
        return Normalize()
    import torch
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    activation = config["activation_function"].rsplit(".", 1)[-1].lower()
    if activation not in ACTIVATIONS:
        raise UserError(f"{folder}: activation {config['activation_function']} is none of {', '.join(ACTIVATIONS)}")
    module = Dense(config["in_features"], config["out_features"], bias=config["bias"], activation=activation)
    weights = folder / "model.safetensors"
    if weights.exists():
        state = load_file(weights)
    else:
        state = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    module.load_state_dict(state)
    return module


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
