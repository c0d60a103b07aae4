"""Backbones: a transformer and its tokenizer from an asset, a folder or the Hub, ready to be trained."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cse.encoder import fast
from cse.encoder.adapters.lora import merge_stored, merged_state
from cse.encoder.checkpoint.layout import STATIC_NAME, Layout, Reference
from cse.encoder.checkpoint.source import explained, fetch, read_config, require_size
from cse.encoder.checkpoint.sums import check_sums, copy_notices, weights_sum
from cse.encoder.dropout import Dropout
from cse.encoder.kinds import (
    KEPT_AS,
    Attention,
    Kernel,
    SavedAs,
    Weights,
    check_kernel,
    loading,
    make_bidirectional,
    use_kernel,
)
from cse.errors import UserError
from cse.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

FEWEST = 0.3  # share of the rows of an embedding that a tokenizer names; more are padding of the table
BODY = ("embeddings.", "encoder.", "layers.", "layer.", "h.")  # not heads, which are left out on purpose


def load_backbone(
    source: str,
    *,
    root: str = "",
    revision: str | None = None,
    layers: int | None = None,
    dropout: Dropout | None = None,
    attention: Attention = "own",
    kernel: Kernel = "auto",
    weights: Weights = "fp32",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a transformer without pooler or language-model head, and its tokenizer.

    The arguments are those of `Encoder`; `root` is the folder of the transformer in `source`, for a checkpoint whose
    modules.json names one.

    Raises:
        UserError: The backbone cannot be loaded, lacks weights, has other weights than were saved, has fewer layers, or
            has no such dropout, attention or kernel.
    """
    from transformers import AutoTokenizer

    check_kernel(kernel, attention)
    folder = fetch(source, revision)
    check_sums(folder)
    if Layout.read(folder).static:
        from cse.encoder.adapters.static import load_static

        with explained(source):
            return load_static(folder / root)
    where = str(folder / root)
    with explained(source):
        config = read_config(folder / root)
        tokenizer = AutoTokenizer.from_pretrained(where)
    _cut(config, layers)
    if dropout is not None:
        dropout.configure(config)
    config.use_cache = False
    if weights != "fp32":
        setattr(config, KEPT_AS, "bf16")  # as it is saved: others need no bitsandbytes
    elif hasattr(config, KEPT_AS):
        delattr(config, KEPT_AS)
    named = Layout.read(folder).reference
    if named is not None and weights in {"int8", "int4"}:
        raise UserError(
            f"encoder.weights is {weights}, and the adapter of {source} cannot be merged into quantized weights\n"
            "fix: give a whole checkpoint, such as best/ of its run"
        )
    model, info = _pretrained(source, folder, config, loading(weights) | no_pooler(config))
    if info["missing_keys"]:
        raise UserError(
            f"backbone {source!r} lacks the weights {_some(info['missing_keys'])}, which would be random\n"
            "fix: give a complete checkpoint"
        )
    names = [name.removeprefix(f"{model.base_model_prefix}.") for name in info["unexpected_keys"]]
    strange = [name for name in names if name.startswith(BODY) and not name.endswith("position_ids")]
    if strange and layers is None and named is None:
        raise UserError(
            f"backbone {source!r}: its config.json does not describe the weights {_some(strange)} of its file\n"
            "fix: give a checkpoint whose config.json and weights belong together"
        )
    _require_words(source, tokenizer, model)
    tokenizer.padding_side = "right"
    if attention == "bidirectional":
        make_bidirectional(model, source)
    fast.install(model)
    use_kernel(model, kernel)
    return model, tokenizer


def _require_words(source: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raise unless the tokenizer is one that cse reads, and the model embeds all of its tokens."""
    if not tokenizer.is_fast:
        raise UserError(
            f"backbone {source!r} has a tokenizer without tokenizer.json\n"
            "fix: convert it: AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(FOLDER)"
        )
    known, rows = len(tokenizer.get_vocab()), int(model.get_input_embeddings().weight.shape[0])
    words: Any = tokenizer
    last = max(words.backend_tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    if last >= rows or known < FEWEST * rows:
        raise UserError(
            f"backbone {source!r}: its tokenizer has {known} tokens, the last of which is {last}, and the model embeds "
            f"{rows}\nfix: give a model and a tokenizer that belong together"
        )


def _pretrained(
    source: str, folder: Path, config: PretrainedConfig, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a folder and what its loader says; of a stored adapter, the backbone with the adapter merged in."""
    from transformers import AutoModel

    layout = Layout.read(folder)
    if layout.reference is not None:
        below = _named(source, layout.reference)
        model, info = _pretrained(layout.reference.backbone, below, config, options)
        merge_stored(model, folder)
        return model, info
    where = folder / layout.modules[0].path if layout.modules else folder
    with explained(source):
        require_size(config, where)
        model, info = AutoModel.from_pretrained(str(where), config=config, output_loading_info=True, **options)
    return model, info


def _named(source: str, named: Reference) -> Path:
    """The folder of the backbone that a checkpoint names; its weights must be those that the checkpoint is made for."""
    try:
        folder = fetch(named.backbone, named.revision, option="backbone")
    except UserError as error:
        raise UserError(
            f"{source} holds an adapter, and its backbone cannot be loaded: {str(error).splitlines()[0]}\n"
            "fix: put the backbone back, or give a whole checkpoint, such as best/ of the run"
        ) from error
    if weights_sum(folder) != named.weights:
        raise UserError(
            f"{source} holds an adapter, and the weights of its backbone {named.backbone} have changed since\n"
            "fix: put the backbone back, or give a whole checkpoint, such as best/ of the run"
        )
    return folder


def read_weights(source: str, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin with one of the prefixes; {} if it has no safetensors file."""
    from safetensors import safe_open

    folder = fetch(source)
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).float() for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118
    return found


def write_backbone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    max_length: int,
    all_layers: bool,
    weights: SavedAs | None,
) -> None:
    """Write settings, weights with LoRA merged, and tokenizer as transformers 4 and 5 both read them.

    `all_layers` says whether a pooler reads more than the last layer. The weights have at most the number format of the
    model; None leaves them out.
    """
    if model.config.model_type == STATIC_NAME:
        static: Any = model
        static.write(out)
        return
    if weights is None:
        saved_config(model).save_pretrained(out)
    else:
        tied = getattr(model, "all_tied_weights_keys", {})  # of a masked-LM head; loaders put them together again
        state = {k: v.detach().cpu().contiguous() for k, v in merged_state(model).items() if k not in tied}
        if getattr(model, "is_quantized", False) or (weights == "bf16" and model.dtype != torch.bfloat16):
            _save_rounded(model, state, out)
        else:
            model.save_pretrained(out, state_dict=state)
    tokenizer.model_max_length = max_length
    tokenizer.backend_tokenizer.no_truncation()  # otherwise tokenizer.json would keep what the last call asked for
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(out)
    config = read_json(out / "config.json")
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # transformers 4 reads it here, and would silently fall back to 10,000
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = config.get("dtype", "float32")
    config.pop("output_hidden_states", None)
    if all_layers:  # with it, sentence-transformers hands all layers on
        config["output_hidden_states"] = True
    write_json(out / "config.json", config)
    about = read_json(out / "tokenizer_config.json")
    about["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that both versions know; tokenizer.json has the rest
    for key in ("is_local", "local_files_only", "backend"):  # these say how it was loaded here
        about.pop(key, None)
    write_json(out / "tokenizer_config.json", about)
    copy_notices(Path(model.name_or_path), out)


def saved_config(model: PreTrainedModel) -> PretrainedConfig:
    """The config as `save_pretrained` writes it, without a word of a quantization."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype, config.architectures = model.dtype, [type(model).__name__]
    return config


def _save_rounded(model: PreTrainedModel, state: dict[str, Tensor], out: Path) -> None:
    """Make the folder that `save_pretrained` writes, in bfloat16."""
    from huggingface_hub import save_torch_state_dict

    config = saved_config(model)
    config.dtype = torch.bfloat16
    setattr(config, KEPT_AS, "bf16")
    config.save_pretrained(out)
    rounded = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in state.items()}
    save_torch_state_dict(rounded, out)


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3])


def _cut(config: PretrainedConfig, layers: int | None) -> None:
    if layers is None:
        return
    depth = int(config.num_hidden_layers)
    if not 1 <= layers <= depth:
        raise UserError(
            f"encoder.layers is {layers}, but this backbone has {depth}\nfix: give an integer from 1 to {depth}"
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def no_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """Argument that leaves out the pretrained next-sentence pooler, which no sentence vector here uses."""
    from transformers import AutoModel

    model_class = AutoModel._model_mapping.get(type(config), None)
    accepts = model_class is not None and "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if accepts else {}
