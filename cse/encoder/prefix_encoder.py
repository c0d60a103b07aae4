"""PromCSE's encoder: a frozen backbone behind deep soft prompts, which are all that is trained besides the head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cse.encoder import prefix
from cse.encoder.model import Encoder
from cse.encoder.poolers import NEEDS_ALL_LAYERS, PoolerName
from cse.errors import UserError
from cse.files import atomic_dir

MODULE = "cse.encoder.prefix_module.PrefixTransformer"
CODE = ("prefix.py", "prefix_module.py")


class PrefixEncoder(Encoder):
    """`Encoder` with P learned keys and values in front of every layer's, and the backbone frozen.

        attention_l(Q, [K^p_l ; K], [V^p_l ; V])        K^p_l, V^p_l (P, heads, size) for each layer l

    The soft prompts of PromCSE (Jiang et al., Findings of EMNLP 2022, arXiv:2203.06875). The backbone's own dropout
    stays on in training and, with that of the prompts, makes the views of unsupervised training. A checkpoint holds
    the prompts beside a reference to the backbone; see `save`.

    Args:
        backbone: As in `Encoder`; its architecture must take a cache (BERT, RoBERTa, Llama and their like).
        prompt_length: P (authors' README: 10 to 16, by backbone; their program's default: 10).
        prompt_dropout: On the prompts, per row, in training (authors' program: the backbone's hidden dropout, 0.1).
        prompt_projection: Width of a tanh layer through which prompts of the backbone's width are projected in
            training (authors' program: 512 where it is on); 0 trains the keys and values themselves.
        pooler: As in `Encoder`, as are all below.
        head: `mlp` adds SimCSE's Linear + tanh, which is trained with the prompts.
        export_head: Whether the head is part of the model (supervised) or serves training only (unsupervised).
        layers: Keep this many of the backbone's first layers.
        template: A text with one `{text}`, put around every text.
        max_length: Most tokens of a text in `encode`, without the prompts. None: what the backbone can position behind
            the prompts, up to 512.
        attention_dropout: Overrides the backbone's.
        hidden_dropout: Overrides the backbone's, where it has one.
        embedding_dropout: Dropout on the token embeddings in training, for backbones that have none of their own.
        revision: Commit, tag or branch of a Hub id.

    Raises:
        UserError: An argument is out of range, the backbone cannot be had, or it takes no cache.

    Deviations:
        Poolers read the words only; the authors' averaging poolers fail on the prompts' longer mask. The projection is
        folded into the table on save.

    Source: YJiangcm/PromCSE, promcse/models.py (PrefixEncoder 18-49, get_prompt 385-398).
    """

    def __init__(
        self,
        backbone: str,
        *,
        prompt_length: int = 10,
        prompt_dropout: float = 0.1,
        prompt_projection: int = 0,
        pooler: PoolerName = "cls",
        head: Literal["none", "mlp"] = "none",
        export_head: bool = False,
        layers: int | None = None,
        template: str | None = None,
        max_length: int | None = None,
        attention_dropout: float | None = None,
        hidden_dropout: float | None = None,
        embedding_dropout: float = 0.0,
        revision: str | None = None,
    ) -> None:
        if prompt_length < 1:
            raise UserError(f"encoder.prompt_length is {prompt_length}; give 1 or more (PromCSE: 10)")
        if not 0 <= prompt_dropout < 1:
            raise UserError(f"encoder.prompt_dropout is {prompt_dropout}; it is a probability: give 0 to below 1")
        if prompt_projection < 0:
            raise UserError(f"encoder.prompt_projection is {prompt_projection}; give a width, or 0 for none")
        self.prompt_length, self.prompt_dropout = prompt_length, prompt_dropout
        super().__init__(
            backbone,
            pooler=pooler,
            head=head,
            export_head=export_head,
            layers=layers,
            template=template,
            max_length=max_length,
            attention_dropout=attention_dropout,
            hidden_dropout=hidden_dropout,
            embedding_dropout=embedding_dropout,
            revision=revision,
        )
        if prefix.cache_argument(self.backbone) is None:
            raise UserError(
                f"backbone {backbone!r} is a {self.backbone.config.model_type}, whose layers take no keys and values "
                "from outside, so it cannot have prompts\nfix: use a BERT, RoBERTa or Llama-like backbone"
            )
        self.revision, self.layers = revision, layers
        self.backbone.requires_grad_(False)
        kv_layers, heads, size = prefix.prompt_shape(self.backbone.config)
        width = 2 * kv_layers * heads * size
        self.prompts = nn.Embedding(prompt_length, self.hidden_size if prompt_projection else width)
        nn.init.normal_(self.prompts.weight, std=0.02)
        self.projection: nn.Module = nn.Identity()
        if prompt_projection:
            self.projection = nn.Sequential(
                nn.Linear(self.hidden_size, prompt_projection), nn.Tanh(), nn.Linear(prompt_projection, width)
            )

    @property
    def max_positions(self) -> int:
        """The most tokens that the backbone can tell apart by position behind the prompts."""
        return super().max_positions - self.prompt_length

    @property
    def has_dropout(self) -> bool:
        """Whether two passes over the same text differ in training."""
        return self.prompt_dropout > 0 or super().has_dropout

    def table(self) -> Tensor:
        """(P, 2 layers heads size) keys and values of all layers."""
        table: Tensor = self.projection(self.prompts.weight)
        return table

    def model_inputs(self, input_ids: Tensor, attention_mask: Tensor, words: Tensor | None = None) -> dict[str, Any]:
        """The backbone's arguments, with the prompts as a cache."""
        arguments = super().model_inputs(input_ids, attention_mask, words)
        dropout = self.prompt_dropout if self.training else 0.0
        return arguments | prefix.prompted(self.backbone, self.table(), attention_mask, dropout=dropout)

    def describe(self) -> str:
        """One line for the run's header."""
        model, _, trained = super().describe().rpartition(" (")
        return f"{model}, {self.prompt_length} prompts ({trained}"

    def save(self, folder: str | Path, *, whole: bool = False, with_code: bool = False) -> None:
        """Write the model in the sentence-transformers layout, replacing the folder as a whole or not at all.

        `SentenceTransformer(folder, trust_remote_code=True)` loads each form.

        Args:
            folder: Where to.
            whole: Include backbone and tokenizer. Otherwise the folder holds the prompts (some hundred kB) and names
                the backbone, which must be had where it is loaded.
            with_code: Put the module's code beside the weights, so that it loads where cse is not installed.
                Otherwise the folder names the class in cse.
        """
        from cse.encoder.layout import write_backbone, write_modules
        from cse.encoder.prefix_module import write_prompts
        from cse.encoder.provenance import write_sums

        settings: dict[str, Any] = {"max_seq_length": self.max_length, "do_lower_case": self.lower_case}
        settings |= {"all_layers": self.pooler in NEEDS_ALL_LAYERS, "backbone": None}
        if not whole:
            source = str(Path(self.source).resolve()) if Path(self.source).is_dir() else self.source
            reference = {"backbone": source, "revision": self.revision, "layers": self.layers}
            settings |= reference | {"template": self.template}
        with atomic_dir(Path(folder)) as out:
            if whole:
                write_backbone(self, out)
            write_prompts(out, self.table(), settings)
            if with_code:
                for name in CODE:
                    shutil.copyfile(Path(__file__).parent / name, out / name)
            write_modules(self, out, first=MODULE.removeprefix("cse.") if with_code else MODULE)
            write_sums(out)


def read(folder: Path, *, pooler: PoolerName, max_length: int | None) -> PrefixEncoder:
    """Read what `PrefixEncoder.save` wrote, without the modules after the pooler."""
    from safetensors.torch import load_file

    from cse.encoder.prefix_module import PROMPTS, SETTINGS

    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    if not (folder / PROMPTS).is_file():
        raise UserError(f"checkpoint {folder} lacks {PROMPTS}, which holds its prompts")
    table = load_file(folder / PROMPTS)["prompts"]
    encoder = PrefixEncoder(
        settings["backbone"] or str(folder),
        prompt_length=len(table),
        pooler=pooler,
        max_length=max_length or settings["max_seq_length"],
        layers=settings.get("layers"),
        template=settings.get("template"),
        revision=settings.get("revision"),
    )
    if encoder.prompts.weight.shape != table.shape:
        raise UserError(f"checkpoint {folder}: its prompts {tuple(table.shape)} do not fit {encoder.source!r}")
    with torch.no_grad():
        encoder.prompts.weight.copy_(table)
    encoder.lower_case = bool(settings.get("do_lower_case"))
    return encoder
