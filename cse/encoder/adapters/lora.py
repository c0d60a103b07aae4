"""LoRA: low-rank differences of linear layers, merged into the weights on save."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from cse.encoder.adapters import Adapter
from cse.encoder.checkpoint.layout import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS
from cse.errors import UserError, require_at_least, require_within
from cse.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTIZED = {"Params4bit", "Int8Params"}  # the weights of bitsandbytes

LoraKind = Literal["lora", "rslora", "dora", "pissa"]
NAMES: dict[LoraKind, str] = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA"}


class Lora(Adapter):
    """Trains a low-rank difference of every target layer and freezes all else; see arXiv:2106.09685, equation 3.

        lora     V = W + (alpha / rank) B A          A (rank, in) random, B (out, rank) 0 at first
        rslora   V = W + (alpha / sqrt(rank)) B A    the scale of arXiv:2312.03732
        dora     m V / ||V||                         each row of V has a trained length, at first W's: arXiv:2402.09353
        pissa    V, where B A is at first the part of W with the `rank` largest singular values: arXiv:2404.02948

    A checkpoint holds the merged weights, which every loader reads, and the adapter alone in peft's format. For that,
    the difference of PiSSA is B A less its first value, a LoRA of twice the rank.

    Args:
        kind: The kind of difference, one of these four.
        rank: The rank of the differences (the paper's, for RoBERTa: 8).
        alpha: Their scale is alpha / rank. None: equal to the rank, so the scale is 1.
        dropout: Dropout on the input of the differences.
        targets: Names of the linear layers that get one. None: those of the attention, whatever the architecture calls
            them (q_proj, k_proj, v_proj and o_proj in Llama and its relatives).

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        kind: LoraKind = "lora",
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, "encoder.adapter", rank=rank)
        require_within("[0, 1)", "encoder.adapter", dropout=dropout)
        if kind not in NAMES:
            raise UserError(f"encoder.adapter.kind is {kind!r}\nfix: give one of {', '.join(NAMES)}")
        self.kind: LoraKind = kind
        self.rank, self.alpha = rank, float(rank) if alpha is None else alpha
        self.dropout, self.targets = dropout, None if targets is None else list(targets)

    def attach(self, backbone: PreTrainedModel) -> None:
        """Freeze the backbone and give every target layer a trainable difference."""
        from peft import LoraConfig, inject_adapter_in_model

        size = min if self.kind == "pissa" else max
        sizes = [size(m.in_features, m.out_features) for m in backbone.modules() if isinstance(m, nn.Linear)]
        if self.rank > max(sizes, default=self.rank):
            raise UserError(
                f"encoder.adapter.rank is {self.rank}, but the layers have up to {max(sizes)} features\n"
                f"fix: give an integer from 1 to {max(sizes)}; usual ranks are 8 to 64"
            )
        backbone.requires_grad_(False)
        targets = attention_layers(backbone) if self.targets is None else list(self.targets)
        places = [f".{name}" for name, _ in backbone.named_modules()]
        absent = [target for target in targets if not any(place.endswith(f".{target}") for place in places)]
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            use_rslora=self.kind == "rslora",
            use_dora=self.kind == "dora",
            init_lora_weights="pissa" if self.kind == "pissa" else True,
        )
        try:
            if absent:
                raise ValueError(absent)  # peft ignores it if another target is there
            inject_adapter_in_model(config, backbone)
        except ValueError as error:
            linear = sorted({n.rsplit(".", 1)[-1] for n, m in backbone.named_modules() if isinstance(m, nn.Linear)})
            raise UserError(
                f"encoder.adapter.targets is {absent or targets}, and the backbone has no such layers\n"
                f"fix: name some of its linear layers: {', '.join(linear)}"
            ) from error
        for parameter in backbone.parameters():
            if parameter.requires_grad:  # in bfloat16, small steps of the optimizer would be rounded away
                parameter.data = parameter.data.float()
        if self.kind == "pissa":
            self._first = {k: v.detach().clone() for k, v in _factors(backbone).items()}

    def describe(self) -> str:
        """A few words for the run's header."""
        return f"{NAMES[self.kind]} r{self.rank}"

    def save(self, folder: Path, backbone: PreTrainedModel, *, source: str, revision: str | None) -> None:
        """Write the adapter alone as peft keeps one: what `cse push --adapter` publishes."""
        from safetensors.torch import save_file

        config: Any = backbone.peft_config["default"]
        settings = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
        settings |= {"task_type": "FEATURE_EXTRACTION", "inference_mode": True}
        settings |= {"base_model_name_or_path": source, "revision": revision}
        state = _factors(backbone)
        if self.kind == "pissa":  # B A - B0 A0 = [B, -B0] [A; A0], to be added to the weights as they were
            settings |= {"r": 2 * config.r, "lora_alpha": 2 * config.lora_alpha, "init_lora_weights": True}
            pairs = {k: (v, self._first[k].to(v.device)) for k, v in state.items()}
            state = {k: torch.cat([v, u]) if ".lora_A." in k else torch.cat([v, -u], 1) for k, (v, u) in pairs.items()}
        (folder / ADAPTER).mkdir()
        write_json(folder / ADAPTER / ADAPTER_CONFIG, settings)
        save_file(
            {f"base_model.model.{k}": v.detach().cpu().contiguous() for k, v in state.items()},
            folder / ADAPTER / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )


def _factors(backbone: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of the adapter, under the names of peft's files."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(backbone, save_embedding_layers=False))


def attention_layers(backbone: nn.Module) -> list[str]:
    """The shortest names, as peft matches them, of the linear layers in the attention of every layer.

    A name that a layer outside the attention bears too, such as BERT's `dense`, is given with the modules around it.
    """
    from transformers.pytorch_utils import Conv1D

    inside: set[tuple[str, ...]] = set()  # each with what leads to it from the attention: ("self_attn", "q_proj")
    outside: set[str] = set()
    for name, module in backbone.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            continue
        *around, leaf = name.split(".")
        first = next((i for i, part in enumerate(around) if "att" in part.lower()), None)
        if first is None:
            outside.add(leaf)
        else:
            inside.add((*around[first:], leaf))
    if not inside:
        raise UserError(
            "encoder.adapter: the linear layers of this backbone's attention cannot be told by their names\n"
            "fix: name the layers to train: --encoder.adapter.targets=[...]"
        )
    return sorted({path[-1] if path[-1] not in outside else ".".join(path) for path in inside})


def add(backbone: PreTrainedModel, folder: Path, name: str) -> None:
    """Put the stored adapter of a checkpoint, under a name without dots, into a backbone, all of which is frozen."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils.save_and_load import set_peft_model_state_dict
    from safetensors.torch import load_file

    place = folder / ADAPTER
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (place / file).is_file():
            raise UserError(f"checkpoint {folder} lacks {ADAPTER}/{file}\nfix: copy or save the checkpoint again")
    config = LoraConfig.from_pretrained(str(place))
    config.lora_dropout = 0.0
    state = load_file(place / ADAPTER_WEIGHTS)
    try:
        with warnings.catch_warnings():  # of several adapters, which are wanted
            warnings.simplefilter("ignore", UserWarning)
            inject_adapter_in_model(config, backbone, adapter_name=name)
        added = {key: weight for key, weight in backbone.named_parameters() if f".{name}." in key}
        for weight in added.values():
            weight.data = weight.data.float()  # in the format of the backbone, what is loaded would be rounded
        wanted = {
            key.replace(f".{name}.", ".").replace("_magnitude_vector.weight", "_magnitude_vector") for key in added
        }
        if not wanted <= {key.removeprefix("base_model.model.") for key in state}:
            raise ValueError
        set_peft_model_state_dict(backbone, state, adapter_name=name)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {folder}: its adapter does not fit the layers of its backbone\n"
            "fix: load it with the backbone that it was trained on"
        ) from error
    backbone.requires_grad_(False).to(backbone.device)


def merge_stored(backbone: PreTrainedModel, folder: Path) -> None:
    """Add the stored adapter of a checkpoint to the weights of its backbone, as a whole checkpoint holds them."""
    from peft.tuners.lora import LoraLayer

    add(backbone, folder, "default")
    state = merged_state(backbone)
    layers = [(name, module) for name, module in backbone.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        parent, _, leaf = name.rpartition(".")
        setattr(backbone.get_submodule(parent), leaf, layer.get_base_layer())
    backbone.load_state_dict(state)
    del backbone.peft_config
    backbone.requires_grad_(True)


@contextmanager
def scaled(model: PreTrainedModel, share: float) -> Iterator[None]:
    """Within, every LoRA difference of a model counts by this share, also in what is saved."""
    from peft.tuners.lora import LoraLayer

    config: Any = model.peft_config["default"]
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scales, alpha = [layer.scaling["default"] for layer in layers], config.lora_alpha
    try:
        config.lora_alpha = share * alpha
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling["default"] = share * scale
        yield
    finally:
        config.lora_alpha = alpha
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling["default"] = scale


def merged_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights with every LoRA difference added in, under the names of the plain model. The model is untouched.

    Weights of 8 and 4 bits are given in bfloat16, which every loader reads; what was lost by rounding stays lost.
    """
    stored: dict[str, Tensor] = model.state_dict()
    quantized = any(type(getattr(module, "weight", None)).__name__ in QUANTIZED for module in model.modules())
    if not quantized and not any(".lora_" in name for name in stored):
        return stored  # without loading peft

    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    state = {k.replace(".base_layer.", "."): v for k, v in stored.items() if ".lora_" not in k}
    for name, module in model.named_modules():
        if type(getattr(module, "weight", None)).__name__ in QUANTIZED and not isinstance(module, LoraLayer):
            plain = name.removesuffix(".base_layer")
            state = {k: v for k, v in state.items() if not k.startswith(f"{plain}.") or k == f"{plain}.bias"}
            state[f"{plain}.weight"] = dequantize_module_weight(module).to(torch.bfloat16)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weight, delta = state[f"{name}.weight"], module.get_delta_weight("default")
            merged = weight + delta.to(weight.dtype)
            if "default" in module.lora_magnitude_vector:  # DoRA
                magnitude = module.lora_magnitude_vector["default"]
                across = magnitude.fan_in_fan_out
                share = magnitude.weight / magnitude.get_weight_norm(weight, delta.T if across else delta, scaling=1)
                merged = merged * (share if across else share[:, None]).detach().to(weight.dtype)
            state[f"{name}.weight"] = merged
    return state
