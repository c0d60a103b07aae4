"""PromCSE's soft prompts: learned keys and values in front of every layer's, over a frozen backbone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cse.encoder import prefix
from cse.encoder.adapters import Adapter
from cse.errors import UserError, require_at_least, require_within

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODULE = "cse.encoder.prefix_module.PrefixTransformer"  # reads the checkpoint in sentence-transformers
CODE = ("prefix.py", "prefix_module.py")  # that class and what it imports, copied beside published weights


class SoftPrompts(Adapter):
    """P learned keys and values in front of every layer's; the backbone is frozen.

        attention_l(Q, [K^p_l ; K], [V^p_l ; V])        K^p_l, V^p_l (P, heads, size) for each layer l

    The soft prompts of PromCSE (Jiang et al., Findings of EMNLP 2022, arXiv:2203.06875). The backbone's own dropout
    stays on in training and, together with that of the prompts, makes the views of unsupervised training. A checkpoint
    holds the prompts and a reference to the backbone, unless it is saved whole; see `Encoder.save`.

    Args:
        length: P (authors' README: 10 to 16, by backbone; their program's default: 10).
        dropout: Dropout on the prompts, per row, in training (authors' program: the backbone's hidden dropout, 0.1).
        projection: Width of a tanh layer through which prompts of the backbone's width are projected in training
            (authors' program: 512 if it is on); 0 trains the keys and values themselves.

    Raises:
        UserError: An argument is out of range.

    Deviations:
        Poolers read the words only; the authors' averaging poolers fail on the longer mask of the prompts. The
        projection is folded into the table on save.

    Source: YJiangcm/PromCSE, promcse/models.py (PrefixEncoder 18-49, get_prompt 385-398).
    """

    merges = False

    def __init__(self, *, length: int = 10, dropout: float = 0.1, projection: int = 0) -> None:
        super().__init__()
        require_at_least(1, "encoder.adapter", length=length)
        require_within("[0, 1)", "encoder.adapter", dropout=dropout)
        require_at_least(0, "encoder.adapter", projection=projection)
        self.length, self.dropout, self.width = length, dropout, projection
        self.positions, self.has_dropout = length, dropout > 0

    def attach(self, backbone: PreTrainedModel) -> None:
        """Freeze the backbone."""
        if prefix.cache_argument(backbone) is None:
            raise UserError(
                f"encoder.adapter: a {backbone.config.model_type} backbone cannot have soft prompts: its layers "
                "take no keys and values from outside\nfix: use a BERT, RoBERTa or Llama-like backbone"
            )
        backbone.requires_grad_(False)

    def initialize(self, backbone: PreTrainedModel) -> None:
        """Draw the prompts, and the projection if there is one."""
        if hasattr(self, "prompts"):
            raise UserError("encoder.adapter: these soft prompts belong to another encoder\nfix: make new SoftPrompts")
        layers, heads, size = prefix.prompt_shape(backbone.config)
        keys_and_values, hidden = 2 * layers * heads * size, int(backbone.config.hidden_size)
        self.prompts = nn.Embedding(self.length, hidden if self.width else keys_and_values)
        nn.init.normal_(self.prompts.weight, std=0.02)
        self.projection: nn.Module = nn.Identity()
        if self.width:
            self.projection = nn.Sequential(
                nn.Linear(hidden, self.width), nn.Tanh(), nn.Linear(self.width, keys_and_values)
            )

    def table(self) -> Tensor:
        """(P, 2 layers heads size) keys and values of all layers."""
        return self.projection(self.prompts.weight)

    def inputs(self, backbone: PreTrainedModel, attention_mask: Tensor) -> dict[str, Any]:
        """The prompts as a cache, and a mask and positions that count them."""
        dropout = self.dropout if self.training else 0.0
        return prefix.prompted(backbone, self.table(), attention_mask, dropout=dropout)

    def describe(self) -> str:
        """A few words for the run's header."""
        return f"{self.length} prompts"

    def save(self, folder: Path, backbone: PreTrainedModel, *, source: str, revision: str | None) -> None:
        """Write the table of prompts."""
        from safetensors.torch import save_file

        save_file({"prompts": self.table().detach().float().cpu().contiguous()}, folder / prefix.PROMPTS)

    def load(self, table: Tensor, folder: Path) -> None:
        """Take the table (P, 2 layers heads size) of a checkpoint."""
        if self.prompts.weight.shape != table.shape:
            want, found = tuple(self.prompts.weight.shape), tuple(table.shape)
            raise UserError(
                f"checkpoint {folder}: its prompts {found} do not fit its backbone, which takes {want}\n"
                "fix: load it with the backbone that it was trained on"
            )
        with torch.no_grad():
            self.prompts.weight.copy_(table)


def read_table(folder: Path) -> Tensor:
    """The table of prompts of a checkpoint."""
    from safetensors.torch import load_file

    if not (folder / prefix.PROMPTS).is_file():
        raise UserError(f"checkpoint {folder} lacks {prefix.PROMPTS}, which holds its prompts\nfix: copy it again")
    return load_file(folder / prefix.PROMPTS)["prompts"]


def copy_code(folder: Path) -> None:
    """Copy the files that load the checkpoint in sentence-transformers on a machine without cse."""
    for name in CODE:
        shutil.copyfile(Path(__file__).parents[1] / name, folder / name)
