"""Causal language models that say how probable a text is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cse.encoder.backbone import explained, fetch, read_config, require_size
from cse.encoder.kinds import detect
from cse.encoder.provenance import check_sums
from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_causal_lm(source: str, *, option: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a frozen causal language model in float32 and evaluation mode, and its tokenizer.

    Args:
        source: `asset:NAME`, a folder in Hugging Face layout, or a Hub id.
        option: The option that names the source, for error messages, such as `teacher.source`.

    Raises:
        UserError: The model cannot be loaded, or is not a causal language model with its output layer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = detect(source, option=option)
    missing: list[str] = []
    if kind.name == "causal":
        folder = fetch(source, option=option)
        check_sums(folder)
        where = str(folder)
        with explained(source, option):
            require_size(read_config(folder), folder)
            tokenizer = AutoTokenizer.from_pretrained(where)
            model, info = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, output_loading_info=True)
        missing = sorted(info["missing_keys"])
    if kind.name != "causal" or missing:
        lacks = f"lacks the weight {missing[0]}" if missing else f"is a {kind.describe()}"
        raise UserError(
            f"{option} {source!r} {lacks}, and cannot say how probable a text is\n"
            "fix: give a causal language model with its output layer, such as asset:smollm2"
        )
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{option} {source!r} has no token at which a text begins or ends\n"
            "fix: give a model whose tokenizer has a bos_token or an eos_token"
        )
    model.eval().requires_grad_(False)
    if not _ends_in_output_layer(model):
        raise UserError(
            f"{option} {source!r} scales its logits or caps them after its output layer, which cse does not compute\n"
            "fix: give a causal language model that does not, such as asset:smollm2"
        )
    return model, tokenizer


@torch.no_grad()
def _ends_in_output_layer(model: Any) -> bool:
    """Whether the logits are the output layer's product with the last states, as for most architectures."""
    ids = torch.arange(8)[None] % model.config.vocab_size
    logits = model(input_ids=ids).logits
    own = model.get_output_embeddings()(model.base_model(input_ids=ids).last_hidden_state)
    return torch.allclose(own, logits, rtol=1e-3, atol=1e-3)
