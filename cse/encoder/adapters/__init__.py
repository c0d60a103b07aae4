"""Define adapters: small sets of weights that are trained in place of the backbone's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Adapter(nn.Module, ABC):
    """A part of one `Encoder`, which attaches it to its backbone; `Lora` and `SoftPrompts` are the two kinds."""

    positions: int = 0  # number of the backbone's positions that the adapter takes from every text
    has_dropout: bool = False  # whether the adapter itself drops anything in training
    # whether it can be merged into the backbone, whose own layers compute it; if not, the backbone is frozen as it is,
    # and the adapter stands in front of it
    merges: bool = True

    @abstractmethod
    def attach(self, backbone: PreTrainedModel) -> None:
        """Freeze the backbone and put the adapter's layers into it, before the encoder's heads are initialized.

        Raises:
            UserError: The backbone cannot have such an adapter.
        """

    def initialize(self, backbone: PreTrainedModel) -> None:
        """Create the weights that the adapter itself holds, after the encoder's heads are initialized."""

    def inputs(self, backbone: PreTrainedModel, attention_mask: Tensor) -> dict[str, Any]:
        """Arguments for the backbone's forward that replace the encoder's, for texts of this attention_mask (n, L)."""
        return {}

    @abstractmethod
    def describe(self) -> str:
        """A few words for the run's header."""

    @abstractmethod
    def save(self, folder: Path, backbone: PreTrainedModel, *, source: str, revision: str | None) -> None:
        """Write the adapter's own weights into a checkpoint; `source` and `revision` name the backbone."""
