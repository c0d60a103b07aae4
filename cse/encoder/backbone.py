"""Backbones: a transformer and its tokenizer from an asset, a folder or the Hub, ready to be trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cse.assets.hub import snapshot
from cse.encoder.fast.attention import use_short_attention
from cse.encoder.fast.dropout import use_fast_dropout
from cse.encoder.fast.weights import use_kept_weights
from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
BODY = ("embeddings.", "encoder.", "layers.", "layer.", "h.")  # not heads, which are left out on purpose
HIDDEN_DROPOUT = ("hidden_dropout_prob", "hidden_dropout", "resid_pdrop")


def load_backbone(
    source: str,
    *,
    revision: str | None = None,
    layers: int | None = None,
    attention_dropout: float | None = None,
    hidden_dropout: float | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a transformer without pooler or language-model head, in float32, and its tokenizer.

    Args:
        source: `asset:NAME`, a folder in Hugging Face layout, or a Hub id.
        revision: Commit, tag or branch, for a Hub id.
        layers: Keep this many of the first layers; None keeps all.
        attention_dropout: Probability of dropping an attention weight in training; None keeps the checkpoint's.
        hidden_dropout: The same for hidden states, where the architecture has it.

    Raises:
        UserError: It is not to be had, lacks weights, has no such number of layers, or has no such dropout.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    where = locate(source)
    with explained(source):
        config = AutoConfig.from_pretrained(where, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision)
    _cut(config, layers)
    _set_dropout(config, "attention_dropout", ATTENTION_DROPOUT, attention_dropout)
    _set_dropout(config, "hidden_dropout", HIDDEN_DROPOUT, hidden_dropout)
    config.use_cache = False
    with explained(source):
        model, info = AutoModel.from_pretrained(
            where, config=config, revision=revision, dtype=torch.float32, output_loading_info=True, **no_pooler(config)
        )
    if info["missing_keys"]:
        raise UserError(
            f"backbone {source!r} lacks the weights {_some(info['missing_keys'])}; "
            "training would start from random ones. Give a complete checkpoint."
        )
    strange = [k for k in info["unexpected_keys"] if k.startswith(BODY) and not k.endswith("position_ids")]
    if strange and layers is None:
        raise UserError(
            f"backbone {source!r}: its config does not know the weights {_some(strange)} of its file, so the two "
            "do not belong together. Give a consistent checkpoint."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    use_short_attention(model)
    use_fast_dropout(model)
    use_kept_weights(model)
    return model, tokenizer


def locate(source: str) -> str:
    """The folder of an asset or a path; a Hub id as it is.

    Raises:
        UserError: It looks like a path and is not a folder.
    """
    if source.startswith("asset:"):
        from cse.assets import resolve

        return str(resolve(source))
    path = Path(source)
    if path.is_dir():
        return source
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"backbone {source!r} is not a folder\nfix: give a folder in Hugging Face layout, or a Hub id")
    return source


def read_weights(source: str, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Those of a checkpoint's tensors whose names begin so; {} where it has no safetensors file."""
    from safetensors import safe_open

    folder = Path(locate(source))
    if not folder.is_dir():
        folder = snapshot(source, allow=["*.safetensors"], what=f"backbone {source!r}")
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).float() for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118
    return found


def max_positions(config: PretrainedConfig) -> int:
    """The most tokens that the backbone can tell apart by position."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 1_000_000)
    shifted = config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet"}  # positions start after the pad id
    padding = 1 if config.model_type == "mpnet" else config.pad_token_id  # MPNet's is fixed in its code
    return positions - 1 - padding if shifted else positions


def inject_lora(model: PreTrainedModel, *, rank: int, alpha: float, dropout: float, targets: list[str]) -> None:
    """Freeze the model and give every linear layer named in `targets` a trainable low-rank difference, 0 at first.

    LoRA, arXiv:2106.09685, equation 3: W + (alpha / rank) B A.

    Raises:
        UserError: No layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(
            f"encoder.lora_targets {targets}: the backbone has no such layers; it has {', '.join(linear)}"
        ) from error


def merged_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights with every LoRA difference added in, under the names of the plain model. The model is untouched."""
    from peft.tuners.lora import LoraLayer

    state = {k.replace(".base_layer.", "."): v for k, v in model.state_dict().items() if ".lora_" not in k}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weight = state[f"{name}.weight"]
            state[f"{name}.weight"] = weight + module.get_delta_weight("default").to(weight.dtype)
    return state


def adapter_state(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The LoRA of `inject_lora` as peft keeps one: its settings, and its matrices as a `PeftModel` names them.

    None where the model has none, as after it was saved (merged) and loaded again.
    """
    config = getattr(model, "peft_config", {}).get("default")
    if config is None:
        return None
    from peft import get_peft_model_state_dict

    settings = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    settings |= {"task_type": "FEATURE_EXTRACTION", "inference_mode": True}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return settings, {f"base_model.model.{k}": v.detach().cpu().contiguous() for k, v in state.items()}


def has_dropout(model: nn.Module) -> bool:
    """Whether any part of the model drops anything in training."""
    return any(
        (isinstance(m, nn.Dropout) and m.p > 0) or (float(getattr(m, "attention_dropout", 0.0) or 0.0) > 0)
        for m in model.modules()
        if not hasattr(getattr(m, "attention_dropout", 0.0), "forward")
    )


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3])


def _cut(config: PretrainedConfig, layers: int | None) -> None:
    if layers is None:
        return
    depth = int(config.num_hidden_layers)
    if not 1 <= layers <= depth:
        raise UserError(f"encoder.layers is {layers}; this backbone has {depth}: give a number from 1 to {depth}")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _set_dropout(config: PretrainedConfig, option: str, names: tuple[str, ...], value: float | None) -> None:
    if value is None:
        return
    if not 0 <= value < 1:
        raise UserError(f"encoder.{option} is {value}; it is a probability: give a number from 0 to below 1")
    known = [name for name in names if hasattr(config, name)]
    if not known:
        raise UserError(
            f"encoder.{option} is {value}, but a {config.model_type} backbone has no such dropout; remove it"
        )
    for name in known:
        setattr(config, name, value)


def no_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """Argument that leaves out the pretrained next-sentence pooler, which no sentence vector here uses."""
    from transformers import AutoModel

    model_class = AutoModel._model_mapping.get(type(config), None)
    accepts = model_class is not None and "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if accepts else {}


class explained:
    """Turns a loader's failure into one that says what can be done."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError) and not isinstance(error, UserError):
            reason = str(error).strip().splitlines()[0][:160]
            raise UserError(
                f"backbone {self.source!r} cannot be loaded: {reason}\n"
                "fix: give --encoder.init_args.backbone one of\n"
                "  asset:smollm2 or asset:mini (no Hub needed), a folder in Hugging Face layout,\n"
                "  or a Hub id, once the Hub is reached or the model is in its cache (HF_HOME)"
            ) from error
