"""Replaced-token detection given a sentence's vector: DiffCSE's frozen generator and conditional discriminator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cse.encoder.backbone import merged_state, no_pooler
from cse.encoder.fast.batching import chunk_overhead, length_chunks
from cse.encoder.masked_lm import load_masked_lm
from cse.encoder.model import Encoder
from cse.errors import UserError


class Generator:
    """A frozen masked LM that fills in masked texts. It is no module, so that no checkpoint holds a copy of it.

    Args:
        source: `asset:NAME`, a folder in Hugging Face layout, or a Hub id, with a masked-LM head.
        encoder: Whose tokenizer it must share.
        dropout: Whether its dropout is on.

    Raises:
        UserError: It is not to be had, has no trained head, or another vocabulary.
    """

    def __init__(self, source: str, encoder: Encoder, *, dropout: bool) -> None:
        model, tokenizer = load_masked_lm(source, option="objective.generator")
        if tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
            raise UserError(
                f"generator {source!r} has another vocabulary than {encoder.source!r}: its tokens mean nothing there\n"
                "fix: give objective.generator a masked LM with the backbone's tokenizer (distilbert-base-uncased for "
                "bert-base-uncased, distilroberta-base for roberta-base)"
            )
        self.model = model.train(dropout)

    @torch.no_grad()
    def __call__(self, masked_ids: Tensor, mask: Tensor, chance: Tensor | None = None) -> Tensor:
        """Ids (n, L) for masked texts (n, L), at every position; those at padding mean nothing.

        Without `chance` each is the likeliest token. With it, (n, L) uniform in [0, 1), each is drawn: the first token
        whose cumulative probability exceeds its chance.
        """
        self.model.to(masked_ids.device)
        lengths = mask.sum(1).tolist()
        filled = masked_ids.clone()
        for rows in length_chunks(lengths, chunk_overhead(masked_ids.device)):
            longest = max(lengths[i] for i in rows)
            index = torch.tensor(rows, device=masked_ids.device)
            logits = self.model(input_ids=masked_ids[index, :longest], attention_mask=mask[index, :longest]).logits
            if chance is None:
                filled[index, :longest] = logits.argmax(-1)
            else:
                cumulative = logits.double().softmax(-1).cumsum(-1)  # (rows, longest, vocabulary)
                drawn = torch.searchsorted(cumulative, chance[index, :longest, None].double(), right=True)
                filled[index, :longest] = drawn.squeeze(-1).clamp_max(logits.shape[-1] - 1)
        return filled


class Discriminator(nn.Module):
    """A second backbone that tells replaced tokens from original ones, given the vector of the original text.

    The vector takes the place of the first token's embedding, after the embeddings' LayerNorm and dropout and before
    the first layer: a hook on the model's own embeddings, so that no model file is patched.

    Source: voidism/DiffCSE, diffcse/modeling_bert.py:960-961, modeling_roberta.py:799-800, train.py:373-388.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        from transformers import AutoModel

        config = encoder.backbone.config
        embeddings, width = getattr(encoder.backbone, "embeddings", None), getattr(config, "embedding_size", None)
        if not isinstance(embeddings, nn.Module) or width not in {None, encoder.hidden_size}:
            raise UserError(
                f"DiffCSE puts the sentence's vector in place of an embedding, and a {config.model_type} backbone has "
                "no place for it\nfix: use a BERT or RoBERTa backbone, such as asset:mini"
            )
        self.backbone = AutoModel.from_config(config, **no_pooler(config)).float()
        self.backbone.load_state_dict(merged_state(encoder.backbone))
        self.head = nn.Linear(encoder.hidden_size, 2)

    def forward(self, ids: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """(n, L, 2) logits of "original" and "replaced" for ids (n, L), given vectors (n, H)."""

        def put(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
            return torch.cat([condition[:, None].to(embedded.dtype), embedded[:, 1:]], 1)

        hook = self.backbone.embeddings.register_forward_hook(put)
        try:
            states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, L, H)
        finally:
            hook.remove()
        logits: Tensor = self.head(states)
        return logits
