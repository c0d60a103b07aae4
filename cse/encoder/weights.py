"""The number format of the backbone: float32, bfloat16, or 8 and 4 bits by bitsandbytes under a LoRA adapter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import torch

from cse.encoder.adapter import Adapter
from cse.encoder.lora import Lora
from cse.encoder.soft_prompts import SoftPrompts
from cse.errors import UserError, require_package

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Weights = Literal["fp32", "bf16", "int8", "int4"]
SavedAs = Literal["fp32", "bf16"]
KEPT_AS = "cse_weights"  # where a checkpoint's config.json says it; float32 is not said


def check(weights: Weights, adapter: Adapter | None) -> None:
    """Refuse weights that the adapter or the machine cannot have, before anything is loaded.

    Raises:
        UserError: The weights cannot be held in this format.
    """
    if weights != "fp32" and isinstance(adapter, SoftPrompts):
        raise UserError(
            f"encoder.weights is {weights}, and soft prompts need fp32\nfix: use Lora, or remove encoder.weights"
        )
    if weights not in {"int8", "int4"}:
        return
    if not isinstance(adapter, Lora):
        raise UserError(
            f"encoder.weights is {weights}, and quantized weights cannot be trained\n"
            "fix: train an adapter, --encoder.adapter=cse.encoder.Lora, or set encoder.weights to bf16"
        )
    if not torch.cuda.is_available():
        raise UserError(
            f"encoder.weights is {weights}, which needs a CUDA GPU, and this machine has none\n"
            "fix: set encoder.weights to bf16 or fp32"
        )
    require_package("bitsandbytes", extra="bnb", user=f"encoder.weights={weights}")


def keeps_backbone(backbone: PreTrainedModel, adapter: Adapter | None, weights: Weights) -> bool:
    """Whether an adapter, and the backbone as it was loaded, are all that an encoder's backbone is.

    Under a quantized backbone they are not: what is merged into it is rounded.
    """
    if not isinstance(adapter, Lora) or weights in {"int8", "int4"}:
        return isinstance(adapter, SoftPrompts)
    others = (weight for name, weight in backbone.named_parameters() if ".lora_" not in name)
    return not getattr(backbone, "is_quantized", False) and not any(weight.requires_grad for weight in others)


def loading(weights: Weights) -> dict[str, Any]:
    """Arguments of `from_pretrained`.

    int4 is QLoRA's: 4-bit NormalFloat, its constants quantized too, products in bfloat16 (Dettmers et al., NeurIPS
    2023, arXiv:2305.14314). int8 is LLM.int8() (Dettmers et al., NeurIPS 2022, arXiv:2208.07339).
    """
    if weights == "fp32":
        return {"dtype": torch.float32}
    if weights == "bf16":
        return {"dtype": torch.bfloat16}
    from transformers import BitsAndBytesConfig

    settings: dict[str, dict[str, Any]] = {
        "int8": {"load_in_8bit": True},
        "int4": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": torch.bfloat16,
        },
    }
    device = int(os.environ.get("LOCAL_RANK", 0))  # each process quantizes on its own GPU
    return {
        "dtype": torch.bfloat16,
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(**settings[weights]),
    }
