"""The encoder: backbone, pooler, head. What `encode()` returns is what a checkpoint exports."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from cse.encoder.adapters import Adapter, soft_prompts
from cse.encoder.checkpoint.backbone import load_backbone, write_backbone
from cse.encoder.checkpoint.layout import (
    LEGACY,
    NEW,
    STATIC,
    STATIC_NAME,
    TRANSFORMER,
    Layout,
    Reference,
    is_bidirectional,
    module_list,
)
from cse.encoder.checkpoint.source import absolute, explained, fetch, max_positions
from cse.encoder.checkpoint.sums import check_sums, weights_sum, write_sums
from cse.encoder.dropout import Dropout
from cse.encoder.heads import HeadName, Post, new_head
from cse.encoder.kinds import (
    Attention,
    Kernel,
    SavedAs,
    Weights,
    check_finite,
    check_kind,
    check_options,
    detect,
    keeps_backbone,
)
from cse.encoder.poolers import NEEDS_ALL_LAYERS, PoolerName, get_pooler
from cse.encoder.prompts import check_prompts, shown
from cse.encoder.template import mask_position
from cse.encoder.text_encoder import TextEncoder
from cse.encoder.vectors import check_widths
from cse.files import atomic_dir


class Encoder(TextEncoder):
    """Text to vector: backbone (L, H) -> pooler (H) -> exported modules (D) -> training head (D').

    Args:
        backbone: `asset:NAME`, a folder in Hugging Face layout, a Hub id, or a run. Of a sentence-transformers model
            (a folder with modules.json), the modules after pooling are kept and trained, and prompts, lower-casing and
            `max_length` are kept.
        pooler: The pooling of hidden states to one vector; see `cse.encoder.poolers`. None: that of the model's
            modules.json, or `cls` if it has none.
        head: `mlp` adds SimCSE's Linear + tanh after the pooler and what follows it, newly initialized; `relu_mlp` adds
            Linear + ReLU + Linear (sub-sentence encoder).
        export_head: Whether the head is part of the model (supervised SimCSE) or serves training only (unsupervised).
        layers: Keep this many of the backbone's first layers.
        template: A text with one `{text}`, put around every text and saved in the tokenizer; see `encoder.template`.
            The pooler `mask` needs one with `{mask}`, the mask token, whose state it reads.
        max_length: Most tokens of a text in `encode`, template and special tokens included, soft prompts excluded.
            None: what modules.json says, or what the backbone can position, up to 512.
        adapter: What is trained instead of the backbone: `Lora` or `SoftPrompts`. None trains the whole backbone.
        dropout: Overrides of the backbone's dropout, and dropout of the embedded text. None: the backbone's own.
        attention: `bidirectional` lets every token of a causal backbone attend to later tokens too. The backbone must
            then be trained, and loading a checkpoint needs transformers 5.2 or later; see `encoder.kinds`.
        attention_kernel: The implementation of attention, which is not saved in a checkpoint. `auto` is sdpa, or the
            plain formula where it is faster on a CPU; `eager` is the plain formula. `flash_attention_2` and
            `flash_attention_3`, which leave padding out, need a CUDA GPU, their package, and bf16 or fp16.
        weights: The number format of the backbone's weights. `bf16` halves their memory; training them as a whole then
            rounds small steps away, and LoRA does not. `int8` and `int4` are quantized by bitsandbytes, on a CUDA GPU
            and under `Lora` only (QLoRA); their checkpoints hold bf16.
        revision: Commit, tag or branch of a Hub id.
        prompts: Texts that can be put before every text, by name, and are saved with the model: `{query: "query: "}`.
            `keep`: those of the backbone, if it is a checkpoint or a sentence-transformers model; None: none.
        default_prompt_name: The prompt that is put before every text unless another one is asked for. None: with
            `prompts: keep` the backbone's, otherwise none.

    Raises:
        UserError: An argument is out of range, or the backbone cannot be loaded or cannot have the adapter.
    """

    def __init__(
        self,
        backbone: str,
        *,
        pooler: PoolerName | None = None,
        head: HeadName = "none",
        export_head: bool = False,
        layers: int | None = None,
        template: str | None = None,
        max_length: int | None = None,
        adapter: Adapter | None = None,
        dropout: Dropout | None = None,
        attention: Attention = "own",
        attention_kernel: Kernel = "auto",
        weights: Weights = "fp32",
        revision: str | None = None,
        prompts: dict[str, str] | Literal["keep"] | None = "keep",
        default_prompt_name: str | None = None,
    ) -> None:
        super().__init__()
        check_options(attention, weights, adapter)
        self.dropout = dropout or Dropout()
        kind = detect(backbone, revision)
        check_kind(kind, backbone, adapter, pooler, attention)
        layout, root = kind.layout, kind.layout.modules[0].path if kind.layout.modules else ""
        self.backbone, tokenizer = load_backbone(
            backbone,
            root=root,
            revision=revision,
            layers=layers,
            dropout=self.dropout,
            attention=attention,
            kernel=attention_kernel,
            weights=weights,
        )
        self.weights: Weights = weights
        self.attention_kernel: Kernel = attention_kernel
        self.causal = kind.causal and not is_bidirectional(self.backbone.config)
        self.source, self.layers, self.revision = backbone, layers, revision
        taken = adapter.positions if adapter is not None else 0
        with explained(backbone):
            self.read_with(
                tokenizer,
                layout,
                source=backbone,
                template=template,
                positions=max_positions(self.backbone.config.to_dict()) - taken,
                max_length=max_length,
                prompts=prompts,
                default_prompt_name=default_prompt_name,
            )
        self.pooler: PoolerName = pooler or layout.pooler or "cls"
        self.pool = get_pooler(self.pooler, position=mask_position(self.tokenizer) if self.pooler == "mask" else -1)
        self.reference = None
        if adapter is not None:
            same = weights_sum(fetch(backbone, revision)) if adapter.merges else None
            self.reference = Reference(absolute(backbone), revision, layers, same)
            adapter.attach(self.backbone)
        with explained(backbone):
            self.post = Post.load(layout, fetch(backbone, revision))
        self.truncate_dim = layout.truncate_dim
        modules = new_head(head, self.dim)
        if modules and export_head:
            self.append(*modules)
        kept = [] if export_head else modules
        self.head: nn.Module = kept[0] if len(kept) == 1 else nn.Sequential(*kept) if kept else nn.Identity()
        self.post.to(self.backbone.device)  # bitsandbytes puts the backbone on the GPU
        self.head.to(self.backbone.device)
        if adapter is not None:
            adapter.initialize(self.backbone)
        self.adapter = adapter
        self.recomputes = False  # whether layers are computed again in the backward pass of training
        self.compiled = None
        check_finite(self, backbone)
        self.similarity = layout.similarity
        if not attention_kernel.startswith("flash"):  # which need a GPU, where the encoder is not yet
            with explained(backbone):
                self.try_out()

    def truncate(self, dimensions: int) -> None:
        """From here on, keep the first dimensions of every vector, as `encode` does with this argument.

        A checkpoint that is saved afterwards has this width, here and in sentence-transformers.

        Raises:
            UserError: The vectors do not have as many dimensions.
        """
        check_widths([dimensions], self.dim, option="dimensions")
        if dimensions < self.dim:
            self.post.truncate(self.hidden_size, dimensions).to(self.device)
            self.truncate_dim = dimensions

    def append(self, *modules: nn.Module) -> None:
        """Let modules follow the exported vectors: `Dense` or `Normalize`."""
        self.post.join(self.hidden_size, *modules).to(self.device)
        self.truncate_dim = None

    def describe(self) -> str:
        """One line for the run's header."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        parts = [f"{self.source} {self.depth} layers", f"dim {self.dim}", f"pooler {self.pooler}"]
        parts += ["bidirectional attention"] if is_bidirectional(self.backbone.config) else []
        parts += [f"{self.weights} weights"] if self.weights != "fp32" else []
        parts += ["template"] if self.template else []
        parts += [f"prompts {shown(self.prompts, self.default_prompt_name)}"] if any(self.prompts.values()) else []
        parts += [f"padding {self.tokenizer.pad_token} for want of a pad token"] if self.mended_padding else []
        parts += [self.adapter.describe()] if self.adapter is not None else []
        return f"{', '.join(parts)} ({trained / 1e6:.1f} M of {total / 1e6:.1f} M trained)"

    def layout(self, *, whole: bool = True, with_code: bool = False, precision: SavedAs = "fp32") -> Layout:
        """The structure of a checkpoint of this encoder; the arguments are those of `save`."""
        bidirectional = is_bidirectional(self.backbone.config)
        first, reference = f"{NEW if bidirectional else LEGACY}{TRANSFORMER}", None
        first = LEGACY + STATIC if self.backbone.config.model_type == STATIC_NAME else first
        soft, words = self.adapter is not None and not self.adapter.merges, self.tokenizer
        if soft:
            first = soft_prompts.MODULE.removeprefix("cse.encoder." if with_code else "")
        if not whole and keeps_backbone(self.backbone, self.adapter, self.weights):
            reference = self.reference
        rounded = self.weights != "fp32" or (precision == "bf16" and reference is None)
        return Layout(
            modules=module_list(first, self.pooler, self.post.describe()),
            pooler=self.pooler,
            width=self.hidden_size,
            depth=self.depth,
            vocabulary=tuple(words.convert_ids_to_tokens(range(len(words)))) if self.pooler == "mask" else (),
            mask_token=words.mask_token,
            bidirectional=bidirectional,
            weights="bf16" if rounded and not soft else "fp32",
            max_length=self.max_length,
            lower_case=self.lower_case,
            template=self.template,
            reference=reference,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity=self.similarity,
            truncate_dim=self.truncate_dim,
        )

    def save(
        self,
        folder: str | Path,
        *,
        whole: bool | None = None,
        with_code: bool = False,
        precision: SavedAs = "fp32",
    ) -> None:
        """Write the model in the sentence-transformers layout, replacing the folder as a whole.

        `SentenceTransformer(folder)` loads it if it is whole; with soft prompts, it needs `trust_remote_code=True`.

        Args:
            folder: The checkpoint's folder.
            whole: Include the backbone, LoRA merged. False: the folder holds the adapter and names the backbone, which
                must be available where cse loads the checkpoint; an encoder without an adapter, or with one over
                quantized weights, is whole even so. None: whole unless the adapter is `SoftPrompts`.
            with_code: With soft prompts, put the module's code beside the weights, so that it loads on a machine
                without cse. Otherwise the folder names the class in cse.
            precision: The number format of the weights of a whole backbone: `bf16` rounds them. Weights that are held
                in bf16 or quantized are saved in bf16 in any case, and those under soft prompts in fp32.
        """
        whole = (self.adapter is None or self.adapter.merges) if whole is None else whole
        layout = self.layout(whole=whole, with_code=with_code, precision=precision)
        with atomic_dir(Path(folder)) as out:
            if layout.reference is None or not layout.soft_prompts:
                write_backbone(
                    self.backbone,
                    self.tokenizer,
                    out,
                    max_length=self.max_length,
                    all_layers=self.pooler in NEEDS_ALL_LAYERS,
                    weights=layout.weights if layout.reference is None else None,
                )
            layout.write(out)
            self.post.save(out, layout.post)
            if self.adapter is not None:
                self.adapter.save(out, self.backbone, source=self.source, revision=self.revision)
            if with_code and layout.soft_prompts:
                soft_prompts.copy_code(out)
            write_sums(out)

    @classmethod
    def load(cls, path: str, *, pooler: PoolerName | None = None, max_length: int | None = None) -> Encoder:
        """Read an encoder from a folder or the Hub.

        The folder may be one of ours, any SentenceTransformer of Transformer + Pooling (+ Dense, Normalize) or of
        StaticEmbedding (+ Dense, Normalize), or a plain Hugging Face model.

        Args:
            path: Folder, `asset:NAME` or Hub id.
            pooler: The pooler of a plain Hugging Face model, which names none; None is `mean`, as in
                sentence-transformers.
            max_length: Overrides the checkpoint's.

        Raises:
            UserError: The folder is none of these, or its weights are missing or damaged.
        """
        folder = fetch(path, option="checkpoint")
        layout = Layout.read(folder)
        if not layout.modules:
            return cls(path, pooler=pooler or "mean", max_length=max_length).eval()
        if not layout.soft_prompts or layout.pooler is None:
            return cls(path, max_length=max_length, weights=layout.weights).eval()
        root = folder / layout.modules[0].path
        table, named = soft_prompts.read_table(root), layout.reference or Reference(str(root))
        adapter = soft_prompts.SoftPrompts(length=len(table))
        encoder = cls(
            named.backbone,
            pooler=layout.pooler,
            layers=named.layers,
            template=layout.template if layout.reference is not None else None,  # otherwise the tokenizer has it
            max_length=max_length,
            adapter=adapter,
            revision=named.revision,
            prompts=None,
        )
        adapter.load(table, folder)
        check_sums(folder)
        with explained(path):
            encoder.post, encoder.truncate_dim = Post.load(layout, folder), layout.truncate_dim  # not the backbone's
        encoder.lower_case, encoder.similarity = layout.lower_case, layout.similarity
        encoder.prompts, encoder.default_prompt_name = check_prompts(layout.prompts, layout.default_prompt_name)
        if max_length is None and layout.max_length is not None and layout.max_length <= encoder.max_positions:
            encoder.max_length = layout.max_length
        check_finite(encoder, path)
        return encoder.eval()
