"""Decoders behind one vector of a text: DenoSent, CoT-MAE, SimLM, query-as-context, coCondenser. They serve training.

Each is called with token states (n, L, H), an attention mask (n, L) and vectors (n, H), and gives states (n, L, H). The
tokens are embedded by the backbone, since not all layers have positions of their own. What the layers give goes through
`MaskedLMHead`, which the objective has, as it has the choice of the tokens that are predicted.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.encoder.adapters.lora import merged_state
from cse.encoder.checkpoint.backbone import no_pooler
from cse.encoder.device import placed
from cse.encoder.layers import find_layers
from cse.encoder.model import Encoder
from cse.errors import UserError


class CrossDecoder(nn.Module):
    """New post-norm layers with ReLU that attend to the vector, which adds the same to every position.

    Args:
        encoder: The encoder in training.
        layers: Number of layers, >= 1.
        heads: Attention heads of a layer (DenoSent: 1).
        feed_forward: Width of the feed-forward part of a layer (DenoSent: 2048).
        dropout: Dropout within the layers (DenoSent: 0.1).

    Raises:
        UserError: The backbone's embeddings do not fit, or its size is not a multiple of the number of heads.
    """

    def __init__(self, encoder: Encoder, *, layers: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        _check_embeddings(encoder)
        if encoder.hidden_size % heads:
            raise UserError(
                f"objective.decoder_heads is {heads}, which does not divide the {encoder.hidden_size} dimensions of "
                "the backbone\nfix: give a divisor"
            )
        sizes = (encoder.hidden_size, heads, feed_forward, dropout)
        self.layers = nn.ModuleList(nn.TransformerDecoderLayer(*sizes, batch_first=True) for _ in range(layers))
        _initialize(self)

    def forward(self, states: Tensor, mask: Tensor, vector: Tensor) -> Tensor:
        """States (n, L, H) of tokens."""
        for layer in self.layers:
            states = layer(states, vector[:, None], tgt_key_padding_mask=mask == 0)
        return states


class FirstDecoder(nn.Module):
    """Layers like the backbone's, in whose input the vector takes the place of the first token.

    Args:
        encoder: The encoder in training; the layers have its dropout.
        layers: Number of layers, >= 1.
        start: The layers are `new`, or copies of the backbone's `last` ones (SimLM).

    Raises:
        UserError: The backbone's embeddings do not fit, or it has fewer layers than are to be copied.
    """

    def __init__(self, encoder: Encoder, *, layers: int, start: Literal["new", "last"] = "new") -> None:
        super().__init__()
        _check_embeddings(encoder)
        self.model = _like_backbone(encoder, layers, start)

    def forward(self, states: Tensor, mask: Tensor, vector: Tensor) -> Tensor:
        """States (n, L, H) of tokens."""
        return self.model(inputs_embeds=_with_first(states, vector), attention_mask=mask).last_hidden_state


class CausalDecoder(nn.Module):
    """Layers of GPT-2 and a LayerNorm, which read from left to right; the vector takes the place of the first token.

    The activation is the exact GELU, and the LayerNorms have the backbone's epsilon, as in the authors' program.

    Args:
        encoder: The encoder in training, whose number of attention heads and hidden dropout the layers have.
        layers: Number of layers, >= 1.
        window: Number of positions that a token sees: itself and those directly before it, beside the first one, which
            every token sees. None: all before it.

    Raises:
        UserError: The backbone's embeddings do not fit.
    """

    def __init__(self, encoder: Encoder, *, layers: int, window: int | None = None) -> None:
        super().__init__()
        _check_embeddings(encoder)
        self.window, config, hidden = window, encoder.backbone.config, encoder.hidden_size
        epsilon = float(getattr(config, "layer_norm_eps", 1e-12))
        made = [
            nn.TransformerEncoderLayer(
                hidden,
                config.num_attention_heads,
                4 * hidden,
                float(getattr(config, "hidden_dropout_prob", 0.0)),
                partial(F.gelu, approximate="none"),  # F.gelu itself would switch to a fused kernel in evaluation
                epsilon,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        ]
        self.layers = nn.ModuleList(made)
        _initialize(self)
        for layer in made:
            layer.dropout.p = 0.0  # between its two linear maps, where GPT-2 has none
            nn.init.normal_(layer.self_attn.in_proj_weight, std=0.02)
        self.norm = nn.LayerNorm(hidden, eps=epsilon)

    def forward(self, states: Tensor, mask: Tensor, vector: Tensor) -> Tensor:
        """States (n, L, H) of tokens. Padding is on the right, where no token before it looks."""
        states, hidden = _with_first(states, vector), placed(~self.sees(mask.shape[1]), mask.device)
        for layer in self.layers:
            states = layer(states, hidden)
        return self.norm(states)

    def sees(self, length: int) -> Tensor:
        """(L, L) True where the token of the row sees the token of the column."""
        row, column = torch.arange(length)[:, None], torch.arange(length)
        near = column > row - (length if self.window is None else self.window)
        return (column <= row) & (near | (column == 0))


def embedded(encoder: Encoder, ids: Tensor) -> Tensor:
    """The output (n, L, H) of the backbone's embeddings for token ids (n, L), in float32 at least."""
    model: Any = encoder.backbone
    found: Tensor = model.embeddings(input_ids=ids)
    return found if found.dtype == torch.float64 else found.float()


def _with_first(states: Tensor, vector: Tensor) -> Tensor:
    """The states (n, L, H) with vectors (n, H) in the first place."""
    return torch.cat([vector[:, None].to(states.dtype), states[:, 1:]], 1)


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


def _initialize(layers: nn.Module) -> None:
    """Let linear maps start as those of the BERT family do."""
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


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
