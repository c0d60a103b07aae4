"""Token and feature cutoff: an augmentation of the embedded text, in training only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cse.encoder.depth import find_layers
from cse.errors import UserError


class Cutoff:
    """Sets whole rows or columns of each text's embedding matrix (L, H) to 0 before the first layer.

        token:    floor(token_cutoff * L_i) of the L_i tokens of text i, redrawn in every pass
        feature:  floor(feature_cutoff * H) of the H dimensions, for all tokens of the text

    Shen et al., 2020, arXiv:2009.13818, section 3; ConSERT (Yan et al., ACL 2021, arXiv:2105.11741, section 3.2).
    Special tokens and those of a template count as tokens; padding does not. Both views of a text are cut, each with
    its own draws. The random numbers are torch's own, like those of dropout, so that gradient caching repeats them.

    Args:
        token_cutoff: Share of the tokens; 0 cuts none.
        feature_cutoff: Share of the dimensions (ConSERT: 0.2, with shuffling in the other view); 0 cuts none.

    Source: yym6472/ConSERT, scripts/unsup-consert-base.sh.
    """

    def __init__(self, token_cutoff: float, feature_cutoff: float) -> None:
        self.token_cutoff, self.feature_cutoff = token_cutoff, feature_cutoff

    def __bool__(self) -> bool:
        """Whether anything is cut off."""
        return self.token_cutoff > 0 or self.feature_cutoff > 0

    def __call__(self, embedded: Tensor, attention_mask: Tensor) -> Tensor:
        """Embedded texts (n, L, H) with some tokens and dimensions 0; attention_mask is (n, L)."""
        if self.token_cutoff:
            chance = torch.rand(attention_mask.shape, device=embedded.device)
            rank = chance.masked_fill(attention_mask == 0, 2.0).argsort(1).argsort(1)  # (n, L), padding last
            count = (self.token_cutoff * attention_mask.sum(1)).floor()
            embedded = embedded.masked_fill((rank < count[:, None])[..., None], 0.0)
        if self.feature_cutoff:
            rank = torch.rand(len(embedded), embedded.shape[-1], device=embedded.device).argsort(1).argsort(1)  # (n, H)
            cut = rank < int(self.feature_cutoff * embedded.shape[-1])
            embedded = embedded.masked_fill(cut[:, None], 0.0)
        return embedded

    @contextmanager
    def on(self, model: nn.Module, attention_mask: Tensor) -> Iterator[None]:
        """Within, what enters the model's first layer is cut, for texts of this attention_mask (n, L)."""

        def cut(layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            if arguments:
                return (self(arguments[0], attention_mask), *arguments[1:]), options
            return arguments, options | {"hidden_states": self(options["hidden_states"], attention_mask)}

        hook = first_layer(model).register_forward_pre_hook(cut, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def first_layer(model: nn.Module) -> nn.Module:
    """The first of a transformer's layers.

    Raises:
        UserError: The backbone has no list of its layers.
    """
    if (found := find_layers(model)) is not None:
        return found[1][0]
    config: Any = model.config
    raise UserError(
        f"encoder.dropout.token_cutoff and feature_cutoff: a {config.model_type} backbone has no list of its layers\n"
        "fix: set both to 0, or use another backbone"
    )
