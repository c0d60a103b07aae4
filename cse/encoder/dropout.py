"""The dropout of an encoder: overrides of the backbone's own, and what is dropped from the embedded text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import nn

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
        token_cutoff: Share of a text's tokens whose embedding is 0; see `encoder.cutoff`.
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
        """Put the overrides into a backbone's configuration.

        Raises:
            UserError: The architecture has no such dropout.
        """
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
    """Whether any part of the model drops anything in training."""
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
    """Within, every dropout of a model has one rate, also those that are switched off; afterwards each has its own.

    Args:
        model: The model, such as an encoder's backbone. What an encoder drops from the embedded text stays.
        rate: The probability, in [0, 1).

    Raises:
        UserError: The rate is not in [0, 1).
    """
    require_within("[0, 1)", "dropout", rate=rate)
    before = list(dropouts(model))
    try:
        for module, name, _ in before:
            setattr(module, name, rate)
        yield
    finally:
        for module, name, own in before:
            setattr(module, name, own)
