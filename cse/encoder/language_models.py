"""Masked and causal language models: those that fill in tokens, pretrain, or say how probable a text is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cse.encoder.adapters.lora import merged_state
from cse.encoder.checkpoint.backbone import saved_config, write_backbone
from cse.encoder.checkpoint.source import explained, fetch, read_config, require_size
from cse.encoder.checkpoint.sums import check_sums, write_sums
from cse.encoder.device import placed
from cse.encoder.fast.attention import use_mask_without_waiting
from cse.encoder.fast.batching import chunk_overhead, length_chunks
from cse.encoder.kinds import SavedAs, detect
from cse.errors import UserError
from cse.files import atomic_dir

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cse.encoder.model import Encoder

HEADS = {  # the places of a head's weights in BERT, in RoBERTa and its like, and in DistilBERT
    "dense": ("cls.predictions.transform.dense", "lm_head.dense", "vocab_transform"),
    "layer_norm": ("cls.predictions.transform.LayerNorm", "lm_head.layer_norm", "vocab_layer_norm"),
    "bias": ("cls.predictions.bias", "lm_head.bias", "vocab_projector.bias"),
}


def save_backbone(encoder: Encoder, folder: Path, head: Mapping[str, Tensor], *, precision: SavedAs = "fp32") -> None:
    """Write an encoder's backbone as a plain Hugging Face model, LoRA merged, replacing the folder as a whole.

    Pooler, heads, prompts and what else makes sentence vectors are left out: the next recipe chooses its own. `head`
    has the weights of the masked-LM head by the names in `HEADS`, or none; it is left out where transformers has no
    such head for the architecture.
    """
    model = _with_head(encoder.backbone, head) if head else None
    with atomic_dir(folder) as out:
        write_backbone(
            encoder.backbone if model is None else model,
            encoder.tokenizer,
            out,
            max_length=encoder.max_positions,
            all_layers=False,
            weights="bf16" if encoder.weights != "fp32" else precision,
        )
        write_sums(out)


def _with_head(backbone: PreTrainedModel, head: Mapping[str, Tensor]) -> PreTrainedModel | None:
    """The masked language model of a backbone and a head, whose weights they share; None if the head does not fit."""
    from transformers import AutoModelForMaskedLM

    config: Any = saved_config(backbone)
    activation = getattr(config, "hidden_act", getattr(config, "activation", "gelu"))
    if type(config) not in AutoModelForMaskedLM._model_mapping or activation != "gelu":
        return None
    with torch.device("meta"):
        model: Any = AutoModelForMaskedLM.from_config(config)
    state = {f"{model.base_model_prefix}.{name}": value for name, value in merged_state(backbone).items()}
    for part, places in HEADS.items():
        for place in places:
            state |= {
                place + name.removeprefix(part): value.to(backbone.dtype)
                for name, value in head.items()
                if f"{name}.".startswith(f"{part}.")
            }
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return None if any(weight.is_meta for weight in model.parameters()) else model


def _load(auto: Any, source: str, option: str) -> tuple[Any, PreTrainedTokenizerBase, list[str]]:
    """A frozen model of a class, in float32 and evaluation mode, its tokenizer, and the weights that it lacks."""
    from transformers import AutoTokenizer

    folder = fetch(source, option=option)
    check_sums(folder)
    where = str(folder)
    with explained(source, option):
        require_size(read_config(folder), folder)
        tokenizer = AutoTokenizer.from_pretrained(where)
        model, info = auto.from_pretrained(where, dtype=torch.float32, output_loading_info=True)
    return model.eval().requires_grad_(False), tokenizer, sorted(info["missing_keys"])


def load_masked_lm(source: str, *, option: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a frozen masked language model, which `option` names, in float32 and evaluation mode, and its tokenizer."""
    from transformers import AutoModelForMaskedLM

    model, tokenizer, absent = _load(AutoModelForMaskedLM, source, option)
    if absent or tokenizer.mask_token_id is None:
        missing = f"the weight {absent[0]}" if absent else "a mask token"
        raise UserError(
            f"{option} {source!r} is not a trained masked language model: it lacks {missing}\n"
            "fix: give a masked language model, such as asset:mini, bert-base-uncased or distilroberta-base"
        )
    return model, tokenizer


class TokenGenerator:
    """A frozen masked LM that fills in masked texts. It is not a module, so that no checkpoint holds a copy of it.

    It must share the vocabulary of the texts' tokenizer. `option` names its source in messages.
    """

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerBase, *, dropout: bool, option: str) -> None:
        model, own = load_masked_lm(source, option=option)
        if own.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"{option} {source!r} has another vocabulary than the encoder, which cannot read its tokens\n"
                "fix: give a masked LM with the backbone's tokenizer (distilbert-base-uncased for bert-base-uncased, "
                "distilroberta-base for roberta-base)"
            )
        use_mask_without_waiting(model)
        self.model = model.train(dropout)

    @torch.no_grad()
    def __call__(self, masked_ids: Tensor, mask: Tensor, chance: Tensor | None = None) -> Tensor:
        """Token ids (n, L) for masked texts (n, L), at every position; the ids at padding have no meaning.

        Args:
            masked_ids: (n, L), on the device to compute on.
            mask: (n, L) the attention mask; for one of the host, nothing waits.
            chance: (n, L) uniform in [0, 1). Each token is drawn: the first token whose cumulative probability exceeds
                its chance. None: each is the most probable token.
        """
        device = masked_ids.device
        self.model.to(device)
        lengths = mask.sum(1).tolist()
        filled = masked_ids.clone()
        for rows in length_chunks(lengths, chunk_overhead(device)):
            longest, index = max(lengths[i] for i in rows), placed(torch.tensor(rows), device)
            seen = placed(mask[rows, :longest], device)
            logits = self.model(input_ids=masked_ids[index, :longest], attention_mask=seen).logits
            if chance is None:
                filled[index, :longest] = logits.argmax(-1)
            else:
                cumulative = logits.double().softmax(-1).cumsum(-1)  # (rows, longest, vocabulary)
                drawn = torch.searchsorted(cumulative, chance[index, :longest, None].double(), right=True)
                filled[index, :longest] = drawn.squeeze(-1).clamp_max(logits.shape[-1] - 1)
        return filled


def load_causal_lm(source: str, *, option: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a frozen causal language model, which `option` names, in float32 and evaluation mode, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    kind, lacks = detect(source, option=option), ""
    if kind.name == "causal":
        model, tokenizer, absent = _load(AutoModelForCausalLM, source, option)
        lacks = f"lacks the weight {absent[0]}" if absent else ""
    if kind.name != "causal" or lacks:
        raise UserError(
            f"{option} {source!r} {lacks or f'is a {kind.describe()}'}, and cannot say how probable a text is\n"
            "fix: give a causal language model with its output layer, such as asset:smollm2"
        )
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{option} {source!r} has no token at which a text begins or ends\n"
            "fix: give a model whose tokenizer has a bos_token or an eos_token"
        )
    if not _ends_in_output_layer(model):
        raise UserError(
            f"{option} {source!r} scales its logits or caps them after its output layer, which cse does not compute\n"
            "fix: give a causal language model that does not, such as asset:smollm2"
        )
    return model, tokenizer


@torch.no_grad()
def _ends_in_output_layer(model: Any) -> bool:
    """Tell whether the logits are the output layer's product with the last states, as for most architectures."""
    ids = torch.arange(8)[None] % model.config.vocab_size
    logits = model(input_ids=ids).logits
    own = model.get_output_embeddings()(model.base_model(input_ids=ids).last_hidden_state)
    return torch.allclose(own, logits, rtol=1e-3, atol=1e-3)
