"""Tell what a model is from its settings, before any weight is read, and what it may do or be asked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from cse.encoder.adapters import Adapter
from cse.encoder.checkpoint.layout import STATIC_NAME, UNLIMITED, Layout, read_mapping
from cse.encoder.checkpoint.source import FIX, explained, fetch, max_positions
from cse.encoder.poolers import POOLERS
from cse.errors import UserError, require_package

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KindName = Literal["encoder", "causal", "sentence-transformers"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
SPARSE = {"SpladePooling", "SparseAutoEncoder", "SparseStaticEmbedding", "MLMTransformer", "IDF"}
_EMBEDDER = "give an embedding model, an encoder such as bert-base-uncased, or a causal language model"
DEFAULT_MAX_LENGTH = 512
Weights = Literal["fp32", "bf16", "int8", "int4"]
SavedAs = Literal["fp32", "bf16"]
KEPT_AS = "cse_weights"  # where a checkpoint's config.json says it; float32 is not said
Attention = Literal["own", "bidirectional"]
ATTENDING = {"full_attention", "sliding_attention"}  # kinds of layers; recurrent and convolutional ones look back only
Kernel = Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"]
PACKAGES = {"flash_attention_2": ("flash_attn", "flash-attn"), "flash_attention_3": ("flash_attn_interface", "")}


@dataclass(frozen=True, slots=True)
class Kind:
    """Describe what a model is."""

    # `sentence-transformers` for every checkpoint with modules.json, ours included; otherwise `encoder` for a
    # bidirectional architecture and `causal` for a language model that reads from left to right
    name: KindName
    folder: Path  # the folder of the model's files
    layout: Layout = field(repr=False)  # the checkpoint's layout; it has no modules for a plain Hugging Face model
    architecture: str  # the `model_type` of the backbone
    layers: int | None  # the number of its layers, if config.json states it
    max_length: int  # the most tokens of a text: what modules.json and the positions allow
    causal: bool  # whether the backbone reads from left to right
    quantized: str | None = None  # the method by which the weights are quantized; None if they are not

    def describe(self) -> str:
        """A few words, such as `bert encoder of 12 layers`."""
        name = {"encoder": "encoder", "causal": "language model"}.get(self.name, "sentence-transformers model")
        return f"{self.architecture} {name}" + (f" of {self.layers} layers" if self.layers else "")


def detect(source: str, revision: str | None = None, *, option: str = "model") -> Kind:
    """The kind of a model, from config.json, modules.json and the names of its other files; see `fetch`.

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
    """Say why static vectors cannot be trained."""
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


def _architecture_kind(what: str, config: dict[str, Any]) -> Literal["encoder", "causal"]:
    """Tell whether the architecture is bidirectional or causal; every other one is refused."""
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


def check_options(attention: Attention, weights: Weights, adapter: Adapter | None) -> None:
    """Refuse what the adapter or the machine cannot have, before anything is loaded."""
    if attention == "bidirectional" and adapter is not None and not adapter.merges:
        raise UserError(
            "encoder.attention is bidirectional, and soft prompts leave the backbone frozen, which was trained to "
            "look back only\nfix: use Lora, or train the whole backbone"
        )
    if weights != "fp32" and adapter is not None and not adapter.merges:
        raise UserError(
            f"encoder.weights is {weights}, and soft prompts need fp32\nfix: use Lora, or remove encoder.weights"
        )
    if weights != "fp32" and getattr(adapter, "kind", "lora") == "pissa":
        raise UserError(f"encoder.weights is {weights}, and PiSSA needs fp32\nfix: remove encoder.weights, or use LoRA")
    if weights not in {"int8", "int4"}:
        return
    if adapter is None:
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


def check_kind(kind: Kind, backbone: str, adapter: Adapter | None, pooler: str | None, attention: Attention) -> None:
    """Raise unless a backbone of this kind can be trained with this adapter, and pooled by this pooler."""
    if kind.quantized is not None and adapter is None:
        raise UserError(
            f"model {backbone!r} is quantized ({kind.quantized}): its weights cannot be trained\n"
            "fix: --encoder.adapter=cse.encoder.Lora trains small matrices beside them"
        )
    if kind.layout.soft_prompts and (adapter is None or adapter.merges):
        raise UserError(
            f"model {backbone!r} holds soft prompts, which would be lost\n"
            "fix: give the model that they were trained on, or --encoder.adapter=cse.encoder.SoftPrompts"
        )
    if pooler is not None and pooler not in POOLERS:
        raise UserError(f"encoder.pooler is {pooler!r}\nfix: give one of {', '.join(POOLERS)}")
    if (pooler or kind.layout.pooler) == "mask" and kind.causal and attention != "bidirectional":
        raise UserError(
            f"encoder.pooler is mask, and encoder.backbone {backbone!r} reads from left to right: it was not trained "
            "to fill in a mask token\nfix: use a BERT-like encoder, such as asset:mini, or the pooler last and a "
            "template that asks for one word, as in recipe simcse-unsup"
        )


def check_finite(encoder: nn.Module, source: str) -> None:
    """Raise if a weight is nan or infinite, since every vector would be."""
    for name, weight in encoder.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise UserError(
                f"model {source!r}: the weights {name} hold nan or infinity, so every vector would be nan\n"
                "fix: copy or download the model again, or train it again at a lower rate"
            )


def choose_length(max_length: int | None, stated: int | None, positions: int, source: str) -> int:
    """The most tokens of a text: as asked for, or as `stated` by modules.json if the positions allow it."""
    if max_length is None and stated is not None and stated <= positions:
        max_length = stated
    if max_length is None:
        return min(positions, DEFAULT_MAX_LENGTH)
    if not 1 <= max_length <= positions:
        raise UserError(
            f"encoder.max_length is {max_length}, but {source} has {positions} positions\n"
            f"fix: give an integer from 1 to {positions}"
        )
    return max_length


def keeps_backbone(backbone: PreTrainedModel, adapter: Adapter | None, weights: Weights) -> bool:
    """Tell whether an adapter, and the backbone as it was loaded, are all that an encoder's backbone is.

    Under a quantized backbone they are not: what is merged into it is rounded.
    """
    if adapter is None or not adapter.merges:
        return adapter is not None
    if weights in {"int8", "int4"}:
        return False
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


def make_bidirectional(model: PreTrainedModel, source: str) -> None:
    """Let every token of a backbone attend to later tokens too; a model that does so stays as it is."""
    config: Any = model.config
    # An 8-bit product depends a little on all tokens of a batch, so that a causal model, too, seems to look ahead.
    if not getattr(model, "is_quantized", False) and looks_ahead(model):
        return
    config.is_causal = False
    if set(getattr(config, "layer_types", None) or ()) <= ATTENDING:
        try:
            if looks_ahead(model):
                return
        except (AttributeError, RuntimeError, TypeError, ValueError):  # its code cannot do without the causal mask
            pass
    import transformers

    raise UserError(
        f"encoder.attention is bidirectional, but {source} ({config.model_type}) stays causal: this architecture, or "
        f"transformers {transformers.__version__}, ignores is_causal=false in its config.json\n"
        "fix: remove encoder.attention; or use a Llama, Mistral, Qwen2, Qwen3 or Gemma model with transformers 5.2 "
        "or later"
    )


@torch.no_grad()
def looks_ahead(model: PreTrainedModel) -> bool:
    """Tell whether the first token's state depends on the last token, with padding behind it and without.

    In a causal model a later token has weight 0, so that the states are equal to the last bit.
    """
    vocabulary = int(model.config.vocab_size)
    for padding in (0, 1):
        mask = torch.tensor([[1, 1, 1, 1] + [0] * padding], device=model.device)
        tokens = torch.arange(mask.shape[1], device=model.device)[None] % vocabulary
        changed = tokens.clone()
        changed[0, 3] = vocabulary - 1
        first, second = (model(input_ids=ids, attention_mask=mask).last_hidden_state[0, 0] for ids in (tokens, changed))
        if torch.equal(first, second):
            return False
    return True


def check_kernel(kernel: Kernel, attention: str) -> None:
    """Check that this machine has a kernel."""
    if kernel not in PACKAGES:
        return
    module, package = PACKAGES[kernel]
    if not torch.cuda.is_available():
        problem, fix = "needs a CUDA GPU", "remove encoder.attention_kernel"
    elif importlib.util.find_spec(module) is None:
        problem = f"needs the package {module}"
        fix = f"pip install {package}" if package else "build it from the source of flash-attention, or use sdpa"
    elif attention == "bidirectional":
        problem, fix = "is not known to obey encoder.attention=bidirectional", "use sdpa"
    else:
        return
    raise UserError(f"encoder.attention_kernel is {kernel}, which {problem}\nfix: {fix}")


def use_kernel(model: PreTrainedModel, kernel: Kernel) -> None:
    """Let a backbone compute its attention by this kernel."""
    if kernel == "auto":
        return
    try:
        model.set_attn_implementation(kernel)
    except (ValueError, ImportError) as error:
        kind = model.config.model_type
        reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
        raise UserError(
            f"encoder.attention_kernel is {kernel}, which a {kind} backbone cannot use: {reason}\nfix: use auto"
        ) from error


@contextmanager
def kernel_of_precision(model: PreTrainedModel) -> Iterator[None]:
    """Within, a backbone with flash attention, which computes in 16 bits only, uses sdpa if products are in float32."""
    kernel = model.config._attn_implementation
    if kernel not in PACKAGES or model.dtype != torch.float32 or torch.is_autocast_enabled(model.device.type):
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(kernel)
