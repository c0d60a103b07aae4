"""The dropout of an encoder: overrides of the backbone's own, and what is dropped from the embedded text."""

from __future__ import annotations

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
    return any(
        (isinstance(m, nn.Dropout) and m.p > 0) or (float(getattr(m, "attention_dropout", 0.0) or 0.0) > 0)
        for m in model.modules()
        if not hasattr(getattr(m, "attention_dropout", 0.0), "forward")
    )
