"""The encoder: backbone, pooler, head. What `encode()` returns is what a checkpoint exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import EncoderOutput
from cse.encoder import soft_prompts
from cse.encoder.adapter import Adapter
from cse.encoder.backbone import (
    fetch,
    load_backbone,
    locate,
    lower_cased,
    max_positions,
    mend_padding,
    write_backbone,
)
from cse.encoder.bidirectional import Attention, is_bidirectional
from cse.encoder.cutoff import Cutoff
from cse.encoder.dropout import Dropout, has_dropout
from cse.encoder.fast import enabled
from cse.encoder.fast.batching import chunk_overhead, length_chunks, native_bf16, token_budget_batches
from cse.encoder.fast.first_token import only_first_token
from cse.encoder.fast.shared_prefix import WORTH, SharedPrefix, can_share, shared_length
from cse.encoder.fast.shared_prefix import read as read_prefix
from cse.encoder.fast.shared_prefix import states as shared_states
from cse.encoder.fast.weights import converted_once
from cse.encoder.heads import Dense, load_module
from cse.encoder.kinds import detect
from cse.encoder.layout import LEGACY, NEW, TRANSFORMER, Layout, Reference, module_list
from cse.encoder.poolers import NEEDS_ALL_LAYERS, PoolerName, get_pooler
from cse.encoder.prompts import check_prompts, choose_prompt, prompts_by_role, put_before, require_prompt_room
from cse.encoder.provenance import write_sums
from cse.encoder.soft_prompts import SoftPrompts
from cse.encoder.weights import Weights
from cse.encoder.weights import check as check_weights
from cse.errors import UserError
from cse.files import atomic_dir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Precision = Literal["auto", "fp32", "bf16"]
SubBatch = tuple[Tensor, Tensor, Tensor | None, SharedPrefix | None]
DEFAULT_MAX_LENGTH = 512
ENCODE_TOKENS = {"cpu": 1024, "cuda": 16384}  # tokens in a batch of `encode`


class Encoder(nn.Module):
    """Text to vector: backbone (L, H) -> pooler (H) -> exported modules (D) -> training head (D').

    Args:
        backbone: `asset:NAME`, a folder in Hugging Face layout, a Hub id, or a run. Of a sentence-transformers model
            (a folder with modules.json), the modules after pooling are kept and trained, and prompts, lower-casing and
            `max_length` are kept.
        pooler: The pooling of hidden states to one vector; see `cse.encoder.poolers`. None: that of the model's
            modules.json, or `cls` if it has none.
        head: `mlp` adds SimCSE's Linear + tanh after the pooler and what follows it, newly initialized.
        export_head: Whether the head is part of the model (supervised SimCSE) or serves training only (unsupervised).
        layers: Keep this many of the backbone's first layers.
        template: A text with one `{text}`, put around every text and saved in the tokenizer; see `encoder.template`.
        max_length: Most tokens of a text in `encode`, template and special tokens included, soft prompts excluded.
            None: what modules.json says, or what the backbone can position, up to 512.
        adapter: What is trained instead of the backbone: `Lora` or `SoftPrompts`. None trains the whole backbone.
        dropout: Overrides of the backbone's dropout, and dropout of the embedded text. None: the backbone's own.
        attention: `bidirectional` lets every token of a causal backbone attend to later tokens too. The backbone must
            then be trained, and loading a checkpoint needs transformers 5.2 or later; see `encoder.bidirectional`.
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
        head: Literal["none", "mlp"] = "none",
        export_head: bool = False,
        layers: int | None = None,
        template: str | None = None,
        max_length: int | None = None,
        adapter: Adapter | None = None,
        dropout: Dropout | None = None,
        attention: Attention = "own",
        weights: Weights = "fp32",
        revision: str | None = None,
        prompts: dict[str, str] | Literal["keep"] | None = "keep",
        default_prompt_name: str | None = None,
    ) -> None:
        super().__init__()
        if attention == "bidirectional" and isinstance(adapter, SoftPrompts):
            raise UserError(
                "encoder.attention is bidirectional, and soft prompts leave the backbone frozen, which was trained to "
                "look back only\nfix: use Lora, or train the whole backbone"
            )
        check_weights(weights, adapter)
        dropout = dropout or Dropout()
        kind = detect(backbone, revision)
        if kind.quantized is not None and adapter is None:
            raise UserError(
                f"encoder.backbone {backbone!r} is quantized ({kind.quantized}): its weights cannot be trained\n"
                "fix: --encoder.adapter=cse.encoder.Lora trains small matrices beside them"
            )
        if kind.layout.soft_prompts and not isinstance(adapter, SoftPrompts):
            raise UserError(
                f"encoder.backbone {backbone!r} holds soft prompts, which would be lost\n"
                "fix: give the model that they were trained on, or --encoder.adapter=cse.encoder.SoftPrompts"
            )
        layout, root = kind.layout, kind.layout.modules[0].path if kind.layout.modules else ""
        self.backbone, self.tokenizer = load_backbone(
            backbone,
            root=root,
            revision=revision,
            layers=layers,
            dropout=dropout,
            attention=attention,
            weights=weights,
        )
        self.weights: Weights = weights
        self.causal = kind.causal and not is_bidirectional(self.backbone.config)
        self.mended_padding = mend_padding(self.tokenizer)
        self.lower_case = layout.lower_case
        if layout.lower_case:
            lower_cased(self.tokenizer)
        if template is not None:
            from cse.encoder.template import bake

            self.tokenizer = bake(self.tokenizer, template)
        self.source, self.template, self.layers, self.revision = backbone, template, layers, revision
        self.pooler: PoolerName = pooler or layout.pooler or "cls"
        self.pool = get_pooler(self.pooler)
        taken = adapter.positions if adapter is not None else 0
        self.max_positions = max_positions(self.backbone.config.to_dict()) - taken
        if max_length is None and layout.max_length is not None and layout.max_length <= self.max_positions:
            max_length = layout.max_length  # some checkpoints state lengths that no position has
        self.max_length = self._check_length(max_length)
        self.embedding_dropout = dropout.embedding
        self._cutoff = Cutoff(dropout.token_cutoff, dropout.feature_cutoff)
        if adapter is not None:
            adapter.attach(self.backbone)
        self.post = nn.Sequential(*(load_module(module, fetch(backbone, revision)) for module in layout.post))
        mlp = Dense(self.dim, self.dim) if head == "mlp" else None
        if mlp is not None and export_head:
            self.post.append(mlp)
        self.head: nn.Module = mlp if mlp is not None and not export_head else nn.Identity()
        self.post.to(self.backbone.device)  # bitsandbytes puts the backbone on the GPU
        self.head.to(self.backbone.device)
        if adapter is not None:
            adapter.initialize(self.backbone)
        self.adapter = adapter
        self.recomputes = False  # whether layers are computed again in the backward pass of training
        self.prompts, self.default_prompt_name = self._check_prompts(prompts, default_prompt_name, layout)
        self.similarity = layout.similarity

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.backbone.config.hidden_size)

    @property
    def dim(self) -> int:
        """D, the size of an exported vector."""
        sizes = [m.linear.out_features for m in self.post if isinstance(m, Dense)]
        return int(sizes[-1]) if sizes else self.hidden_size

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def has_dropout(self) -> bool:
        """Whether two passes over the same text differ in training."""
        adapter = self.adapter is not None and self.adapter.has_dropout
        return adapter or self.embedding_dropout > 0 or bool(self._cutoff) or has_dropout(self.backbone)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> EncoderOutput:
        """Encode n rows of token ids (n, L) in one pass, in length-sorted sub-batches that waste little padding."""
        rows, parts = [], []
        for index, sub_batch in self._sub_batches(input_ids, attention_mask):
            rows.append(index)
            parts.append(self._pooled(*sub_batch))
        pooled = torch.cat(parts)[torch.cat(rows).argsort()]  # (n, H)
        embedding = self.post(pooled)
        return EncoderOutput(embedding, self.head(embedding))

    def token_states(self, input_ids: Tensor, attention_mask: Tensor, where: Tensor) -> Tensor:
        """The last layer's states (m, H) at the m True positions of `where` (n, L), in their order."""
        states, positions = [], []
        for index, sub_batch in self._sub_batches(input_ids, attention_mask):
            last = self.hidden_states(*sub_batch)[-1]
            chosen = where[index, : last.shape[1]]
            states.append(last[chosen])
            row, column = chosen.nonzero(as_tuple=True)
            positions.append(index[row] * where.shape[1] + column)
        return torch.cat(states)[torch.cat(positions).argsort()]

    def _sub_batches(self, input_ids: Tensor, attention_mask: Tensor) -> Iterator[tuple[Tensor, SubBatch]]:
        """Row numbers, and the arguments of `hidden_states` for them, padded to the longest of these rows only."""
        lengths = attention_mask.sum(1).tolist()
        prefix = self._prefix([row[:n] for row, n in zip(input_ids.tolist(), lengths, strict=True)])
        input_ids, words = self._words(input_ids)
        for rows in length_chunks(lengths, chunk_overhead(input_ids.device)):
            longest = max(lengths[i] for i in rows)
            index = torch.tensor(rows, device=input_ids.device)
            yield index, (input_ids[index, :longest], attention_mask[index, :longest], words, prefix)

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None = None,
        prefix: SharedPrefix | None = None,
    ) -> Sequence[Tensor]:
        """The states that the pooler reads: at least the last layer's, at most all, each (n, L, H).

        Args:
            input_ids: (n, L), ids of the vocabulary, or rows of `words` if that is given.
            attention_mask: (n, L).
            words: (U, E), the embeddings of the distinct tokens of the whole batch.
            prefix: The prefix that all rows share, if it was read already.
        """
        if prefix is not None:
            states = shared_states(self.backbone, prefix, input_ids, attention_mask, **self._layers())
        else:
            output = self.backbone(**self.model_inputs(input_ids, attention_mask, words), **self._layers())
            states = output.hidden_states or (output.last_hidden_state,)
        return states if self.weights == "fp32" else [state.float() for state in states]  # heads are in float32

    def _layers(self) -> dict[str, bool]:
        return {"output_hidden_states": True} if self.pooler in NEEDS_ALL_LAYERS else {}

    def _prefix(self, rows: Sequence[list[int]]) -> SharedPrefix | None:
        """The states of the prefix that all rows of token ids share, if sharing them is exact and saves time."""
        length = shared_length(rows) if self._shares_prefix() else 0
        if length < WORTH:
            return None
        tokens = torch.tensor([rows[0][:length]], device=self.device)
        return read_prefix(self.backbone, length, self.model_inputs(tokens, torch.ones_like(tokens)), **self._layers())

    def _shares_prefix(self) -> bool:
        """Whether rows may share the states of their prefix: not under dropout, which every row draws for itself."""
        if self.training and (self.has_dropout or self.recomputes):  # a layer that is recomputed takes no cache
            return False
        return can_share(self.backbone)

    def model_inputs(self, input_ids: Tensor, attention_mask: Tensor, words: Tensor | None = None) -> dict[str, Any]:
        """The backbone's arguments for n rows of token ids (n, L), as in `hidden_states`."""
        dropout = self.embedding_dropout if self.training else 0.0
        if words is None and not dropout:
            inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        else:
            table = self.backbone.get_input_embeddings()
            embedded = table(input_ids) if words is None else F.embedding(input_ids, words)
            inputs = {"inputs_embeds": F.dropout(embedded, dropout), "attention_mask": attention_mask}
        return inputs | (self.adapter.inputs(self.backbone, attention_mask) if self.adapter is not None else {})

    def _words(self, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """A batch's tokens as rows of a table of its distinct words (U, E), if the embeddings are trained.

        The gradient of the whole matrix is then computed once, and not once per sub-batch.
        """
        embeddings = self.backbone.get_input_embeddings()
        trained = self.training and torch.is_grad_enabled() and embeddings.weight.requires_grad
        if not (enabled() and trained) or self._shares_prefix():
            return input_ids, None
        distinct, rows = torch.unique(input_ids, return_inverse=True)
        return rows, embeddings(distinct)

    def _pooled(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor | None = None,
        prefix: SharedPrefix | None = None,
    ) -> Tensor:
        # The hook of `only_first_token` is gone when the backward pass computes the layer again.
        first = self.pooler == "cls" and not (self.training and self.recomputes)
        first_only = only_first_token(self.backbone) if first else nullcontext()
        cut = self._cutoff.on(self.backbone, attention_mask) if self.training and self._cutoff else nullcontext()
        with first_only, cut:
            states = self.hidden_states(input_ids, attention_mask, words, prefix)
        return self.pool(states, attention_mask)

    def cannot_recompute(self) -> str:
        """Why layers cannot be computed again in the backward pass; empty if they can."""
        if not self.backbone.supports_gradient_checkpointing:
            return f"a {self.backbone.config.model_type} backbone does not support it"
        if isinstance(self.adapter, SoftPrompts):
            return "a layer that is computed again would not see the soft prompts"
        if self._cutoff:
            return "a first layer that is computed again would see the tokens and features that the cutoff removed"
        return ""

    def recompute(self) -> None:
        """From here on, keep only each layer's input in training, and compute the rest again in the backward pass.

        Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost". Dropout draws the same masks both times, so
        the gradient is the same up to rounding.

        Raises:
            UserError: The encoder cannot; see `cannot_recompute`.
        """
        if reason := self.cannot_recompute():
            raise UserError(f"trainer.gradient_checkpointing: {reason}\nfix: remove trainer.gradient_checkpointing")
        model: Any = self.backbone
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        model.disable_input_require_grads()  # only the reentrant kind needs gradients of the embeddings
        self.recomputes = True

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        max_tokens: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts, in their order.

        Args:
            texts: n texts; longer ones are cut to `max_length` tokens, prompt included.
            batch_size: Most texts in a batch; None: limited by `max_tokens` only.
            precision: `fp32`, `bf16`, or `auto`: bf16 if the hardware computes it natively.
            max_tokens: Most tokens in a batch, padding included. None: 1,024 on a CPU, 16,384 on a GPU.
            prompt_name: The name of the prompt that is put before every text; None: the default one, if it exists.
            prompt: The text of a prompt, instead of a name; an empty one switches the default prompt off.

        Returns:
            (n, D) float32.

        Raises:
            UserError: The encoder has no prompt of this name.
        """
        import numpy as np

        device = self.device
        ids = self.tokenize(texts, self.prompt_text(prompt_name, prompt))
        budget = max_tokens or ENCODE_TOKENS.get(device.type, 16384)
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        was_training = self.training
        self.eval()
        try:
            with (
                torch.inference_mode(),
                converted_once(),
                torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device)),
            ):
                prefix = self._prefix(ids)
                for rows in token_budget_batches(np.array([len(i) for i in ids], dtype=np.int64), budget):
                    for part in np.array_split(rows, -(-len(rows) // (batch_size or len(rows)))):
                        tokens, mask = self.pad([ids[i] for i in part])
                        vectors = self.post(self._pooled(tokens.to(device), mask.to(device), prefix=prefix))
                        out[part] = vectors.float().cpu().numpy()
        finally:
            self.train(was_training)
        return out

    def prompt_text(self, name: str | None = None, prompt: str | None = None) -> str:
        """The text that is put before every text, empty if there is none; see `encode` for the arguments."""
        return choose_prompt(self.prompts, self.default_prompt_name, name, prompt)

    def prompts_by_role(self, names: Mapping[str, str | None]) -> dict[str, str]:
        """The text that is put before the texts of each role in training, given prompts' names; see `Collator`."""
        return prompts_by_role(self.prompts, self.default_prompt_name, names)

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """The token ids of each text behind a prompt, cut to `max_length`.

        An empty text has one padding token, so that it has a vector.
        """
        clean = [put_before(prompt, text).strip() for text in texts]
        clean = [text.lower() for text in clean] if self.lower_case else clean
        if not clean:
            return []
        ids: list[list[int]] = self.tokenizer(clean, truncation=True, max_length=self.max_length)["input_ids"]
        return [row or [self.tokenizer.pad_token_id] for row in ids]

    def pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Rows of token ids as ids and attention mask, both (n, L), padded on the right."""
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(rows), longest), dtype=torch.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return tokens, mask

    def describe(self) -> str:
        """One line for the run's header."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        parts = [
            f"{self.source} {self.backbone.config.num_hidden_layers} layers",
            f"dim {self.dim}",
            f"pooler {self.pooler}",
        ]
        parts += ["bidirectional attention"] if is_bidirectional(self.backbone.config) else []
        parts += [f"{self.weights} weights"] if self.weights != "fp32" else []
        parts += ["template"] if self.template else []
        parts += [f"prompts {self._shown_prompts()}"] if any(self.prompts.values()) else []
        parts += [f"padding {self.tokenizer.pad_token} for want of a pad token"] if self.mended_padding else []
        parts += [self.adapter.describe()] if self.adapter is not None else []
        return f"{', '.join(parts)} ({trained / 1e6:.1f} M of {total / 1e6:.1f} M trained)"

    def _shown_prompts(self) -> str:
        default = f"; {self.default_prompt_name} by default" if self.default_prompt_name else ""
        return ", ".join(f"{name} {text!r}" for name, text in self.prompts.items() if text) + default

    def layout(self, *, whole: bool = True, with_code: bool = False) -> Layout:
        """The structure of a checkpoint of this encoder; the arguments are those of `save`."""
        bidirectional = is_bidirectional(self.backbone.config)
        first, reference = f"{NEW if bidirectional else LEGACY}{TRANSFORMER}", None
        if isinstance(self.adapter, SoftPrompts):
            first = soft_prompts.MODULE.removeprefix("cse.encoder.") if with_code else soft_prompts.MODULE
            found = Path(self.source if self.source.startswith("asset:") else locate(self.source))
            source = str(found.resolve()) if found.is_dir() else self.source
            reference = None if whole else Reference(source, self.revision, self.layers)
        post = [module.describe() if isinstance(module, Dense) else None for module in self.post]
        return Layout(
            modules=module_list(first, self.pooler, post),
            pooler=self.pooler,
            width=self.hidden_size,
            depth=int(self.backbone.config.num_hidden_layers),
            bidirectional=bidirectional,
            weights="fp32" if self.weights == "fp32" else "bf16",
            max_length=self.max_length,
            lower_case=self.lower_case,
            template=self.template,
            reference=reference,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity=self.similarity,
        )

    def save(self, folder: str | Path, *, whole: bool = False, with_code: bool = False) -> None:
        """Write the model in the sentence-transformers layout, replacing the folder as a whole.

        `SentenceTransformer(folder)` loads it; with soft prompts, it needs `trust_remote_code=True`. Both options
        concern soft prompts only: every other encoder is saved whole and needs no code.

        Args:
            folder: The checkpoint's folder.
            whole: Include backbone and tokenizer. Otherwise the folder holds the prompts (some hundred kB) and names
                the backbone, which must be available where the checkpoint is loaded.
            with_code: Put the module's code beside the weights, so that it loads on a machine without cse. Otherwise
                the folder names the class in cse.
        """
        layout = self.layout(whole=whole, with_code=with_code)
        with atomic_dir(Path(folder)) as out:
            if layout.reference is None:
                all_layers = self.pooler in NEEDS_ALL_LAYERS
                write_backbone(self.backbone, self.tokenizer, out, max_length=self.max_length, all_layers=all_layers)
            layout.write(out)
            for module, entry in zip(self.post, layout.post, strict=True):
                if isinstance(module, Dense):
                    module.save(out / entry.path)
            if self.adapter is not None:
                self.adapter.save(out, self.backbone, source=self.source, revision=self.revision)
            if with_code and layout.soft_prompts:
                soft_prompts.copy_code(out)
            write_sums(out)

    @classmethod
    def load(cls, path: str, *, pooler: PoolerName | None = None, max_length: int | None = None) -> Encoder:
        """Read an encoder from a folder or the Hub.

        The folder may be one of ours, any SentenceTransformer of Transformer + Pooling (+ Dense, Normalize), or a plain
        Hugging Face model.

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
        table = soft_prompts.read_table(folder / layout.modules[0].path)
        adapter, named = SoftPrompts(length=len(table)), layout.reference
        encoder = cls(
            str(folder / layout.modules[0].path) if named is None else named.backbone,
            pooler=layout.pooler,
            layers=named.layers if named is not None else None,
            template=layout.template if named is not None else None,  # otherwise the tokenizer has it already
            max_length=max_length,
            adapter=adapter,
            revision=named.revision if named is not None else None,
            prompts=None,
        )
        adapter.load(table, folder)
        encoder.post = nn.Sequential(*(load_module(module, folder) for module in layout.post))  # not the backbone's
        encoder.lower_case, encoder.similarity = layout.lower_case, layout.similarity
        encoder.prompts, encoder.default_prompt_name = check_prompts(layout.prompts, layout.default_prompt_name)
        if max_length is None and layout.max_length is not None and layout.max_length <= encoder.max_positions:
            encoder.max_length = layout.max_length
        return encoder.eval()

    def _check_prompts(
        self, prompts: dict[str, str] | Literal["keep"] | None, default: str | None, layout: Layout
    ) -> tuple[dict[str, str], str | None]:
        if prompts == "keep":
            prompts, default = dict(layout.prompts), default or layout.default_prompt_name
        checked, default = check_prompts(prompts, default)
        for prompt in checked.values():
            require_prompt_room(self.tokenizer, self.max_length, prompt, field="encoder.max_length")
        return checked, default

    def _check_length(self, max_length: int | None) -> int:
        limit = self.max_positions
        if max_length is None:
            return min(limit, DEFAULT_MAX_LENGTH)
        if not 1 <= max_length <= limit:
            raise UserError(
                f"encoder.max_length is {max_length}, but {self.source} has {limit} positions\n"
                f"fix: give an integer from 1 to {limit}"
            )
        return max_length


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16."""
    return precision == "bf16" or (precision == "auto" and native_bf16(device))
