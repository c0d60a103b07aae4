"""The decoder of autoencoders whose bottleneck is one vector per text: DenoSent, CoT-MAE, SimLM. It serves training."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cse.encoder.backbone import no_pooler
from cse.encoder.depth import find_layers
from cse.encoder.lora import merged_state
from cse.encoder.model import Encoder
from cse.errors import UserError


class BottleneckDecoder(nn.Module):
    """Layers that see a text's embedded tokens, changed, and one vector, through which all else has to come.

    The tokens are embedded by the backbone: the first of `Encoder.states`. The states that the layers give go through
    `MaskedLMHead`, which the objective has, as it has the choice of the tokens that are predicted.

    Args:
        encoder: The encoder in training. The positions of its tokens are part of its embeddings' output, since not all
            layers have positions of their own.
        layers: Number of layers, >= 1.
        memory: The place of the vector. `cross`: every layer attends to it as to a text of one token, which adds the
            same to every position (DenoSent); these are new post-norm layers with ReLU. `first_position`: it takes the
            place of the first token's embedding, in layers like the backbone's (CoT-MAE, SimLM).
        start: Layers like the backbone's are `new`, or copies of its `last` ones (SimLM).
        heads: Attention heads of the layers of `cross` (DenoSent: 1).
        feed_forward: Width of their feed-forward part (DenoSent: 2048).
        dropout: Their dropout (DenoSent: 0.1). Layers like the backbone's have the backbone's.

    Raises:
        UserError: The backbone's embeddings do not fit, its size has no such number of heads, or it has too few layers.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        layers: int,
        memory: Literal["cross", "first_position"],
        start: Literal["new", "last"] = "new",
        heads: int = 1,
        feed_forward: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_embeddings(encoder)
        self.memory = memory
        if memory == "cross":
            self.layers = _cross_layers(encoder.hidden_size, layers, heads, feed_forward, dropout)
        else:
            self.model = _like_backbone(encoder, layers, start)

    def forward(self, embedded: Tensor, mask: Tensor, vector: Tensor) -> Tensor:
        """States (n, L, H) of embedded tokens (n, L, H) under an attention mask (n, L), given vectors (n, H)."""
        if self.memory == "cross":
            for layer in self.layers:
                embedded = layer(embedded, vector[:, None], tgt_key_padding_mask=mask == 0)
            return embedded
        changed = torch.cat([vector[:, None].to(embedded.dtype), embedded[:, 1:]], 1)  # (n, L, H)
        states: Tensor = self.model(inputs_embeds=changed, attention_mask=mask).last_hidden_state
        return states


class _Given(nn.Module):
    """Embeddings that are given, in the place of a model's own."""

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """(n, L, H): the only argument that is not of integers."""
        tensors = (a for a in (*arguments, *named.values()) if isinstance(a, Tensor))
        return next(a for a in tensors if a.is_floating_point())


def _check_embeddings(encoder: Encoder) -> None:
    config, embeddings = encoder.backbone.config, getattr(encoder.backbone, "embeddings", None)
    placed = getattr(embeddings, "position_embeddings", None) is not None
    if encoder.causal or not placed or getattr(config, "embedding_size", None) not in {None, encoder.hidden_size}:
        raise UserError(
            "the objective rebuilds a text from its tokens' embeddings, whose positions a "
            f"{config.model_type} backbone does not add, or whose size is not that of its layers\n"
            "fix: use a BERT or RoBERTa backbone, such as asset:mini"
        )


def _cross_layers(hidden: int, layers: int, heads: int, feed_forward: int, dropout: float) -> nn.ModuleList:
    """New layers, whose linear maps start as those of the BERT family do."""
    if hidden % heads:
        raise UserError(
            f"objective.decoder_heads is {heads}, which does not divide the {hidden} dimensions of the backbone\n"
            "fix: give a divisor"
        )
    made = nn.ModuleList(
        nn.TransformerDecoderLayer(hidden, heads, feed_forward, dropout, batch_first=True) for _ in range(layers)
    )
    for module in made.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return made


def _like_backbone(encoder: Encoder, layers: int, start: Literal["new", "last"]) -> nn.Module:
    """A model like the backbone, of as many layers, whose embeddings are given."""
    from transformers import AutoModel

    config = copy.deepcopy(encoder.backbone.config)
    config.num_hidden_layers = layers
    model: nn.Module = AutoModel.from_config(config, **no_pooler(config)).float()
    if start == "last":
        if layers > encoder.depth:
            raise UserError(
                f"objective.decoder_layers is {layers}, and {encoder.source} has {encoder.depth} to copy\n"
                "fix: give a smaller number"
            )
        found, own = find_layers(encoder.backbone), find_layers(model)
        assert found is not None
        assert own is not None
        place = next(name for name, module in encoder.backbone.named_modules() if module is found[1])
        state = merged_state(encoder.backbone)
        for i, layer in enumerate(own[1]):
            prefix = f"{place}.{encoder.depth - layers + i}."
            layer.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    model.embeddings = _Given()
    return model
