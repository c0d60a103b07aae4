"""The dropout of an encoder: overrides of the backbone's own, and what is dropped from the embedded text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cse.encoder.layers import require_layers
from cse.errors import UserError, require_within

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ATTENTION = ("attention_probs_dropout_prob", "attention_dropout")
HIDDEN = ("hidden_dropout_prob", "hidden_dropout", "resid_pdrop")


@dataclass(frozen=True, slots=True)
class Dropout:
    """The dropout of an encoder in training.

    Args:
        attention: Probability of dropping an attention weight. None: the backbone's own.
        hidden: Probability of dropping a hidden state's number, if the backbone has such a dropout. None: its own.
        embedding: Dropout on the token embeddings, for backbones that have none of their own.
        token_cutoff: Share of a text's tokens whose embedding is 0; see `Cutoff`.
        feature_cutoff: Share of the dimensions that are 0 in all embeddings of a text.

    Raises:
        UserError: A value is not in [0, 1).
    """

    attention: float | None = None
    hidden: float | None = None
    embedding: float = 0.0
    token_cutoff: float = 0.0
    feature_cutoff: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of every value."""
        require_within("[0, 1)", "encoder.dropout", **asdict(self))

    def configure(self, config: PretrainedConfig) -> None:
        """Put the overrides into a backbone's configuration."""
        for option, value, names in (("attention", self.attention, ATTENTION), ("hidden", self.hidden, HIDDEN)):
            known = [name for name in names if hasattr(config, name)]
            if value and not known:  # 0 is what an architecture without such a dropout does anyway
                raise UserError(
                    f"encoder.dropout.{option} is {value}, but a {config.model_type} backbone has no such dropout\n"
                    f"fix: remove the option, or use encoder.dropout.embedding"
                )
            for name in known if value is not None else []:
                setattr(config, name, value)


def has_dropout(model: nn.Module) -> bool:
    """Tell whether any part of the model drops anything in training."""
    return any(rate > 0 for _, _, rate in dropouts(model))


def dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Every dropout of a model, also those of rate 0: the module, the name of its attribute, and the rate."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            yield module, "p", module.p
        rate = getattr(module, "attention_dropout", None)
        if isinstance(rate, int | float):  # other architectures have a module of this name
            yield module, "attention_dropout", float(rate)


@contextmanager
def dropout_rate(model: nn.Module, rate: float) -> Iterator[None]:
    """Within, every dropout of a model, also one that is off, has one rate in [0, 1); afterwards each has its own."""
    require_within("[0, 1)", "dropout", rate=rate)
    before = list(dropouts(model))
    try:
        for module, name, _ in before:
            setattr(module, name, rate)
        yield
    finally:
        for module, name, own in before:
            setattr(module, name, own)


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
        """Tell whether anything is cut off."""
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

        _, layers = require_layers(model, "encoder.dropout.token_cutoff or feature_cutoff")
        hook = layers[0].register_forward_pre_hook(cut, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
