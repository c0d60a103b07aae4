"""The half of an encoder that takes texts: tokenizer, template, prompts, length, and `encode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from cse.encoder.checkpoint.layout import STATIC_NAME
from cse.encoder.device import Precision, inference
from cse.encoder.forward import Forward
from cse.encoder.kinds import choose_length, kernel_of_precision
from cse.encoder.prompts import ROLES, check_prompts, choose_prompt, require_prompt_room
from cse.encoder.template import added_ids
from cse.encoder.texts import (
    Span,
    Windows,
    check_spans,
    inside,
    pad,
    prepared,
    require_tokens,
    side_by_side,
    tokenize,
    tokenize_with_places,
)
from cse.encoder.vectors import check_widths, require_directions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from cse.encoder.checkpoint.layout import Layout


class TextEncoder(Forward):
    """Texts to vectors: tokenizer, template, prompts, lengths, and what they become by `Forward`.

    Attributes:
        tokenizer: The tokenizer, which has the template.
        mended_padding: Whether the tokenizer had no pad token.
        template: The text that is put around every text, with its `{text}`. None: none.
        lower_case: Whether texts are lower-cased first.
        max_length: The most tokens of a text, template, prompt and special tokens included.
        prompts: Texts that can be put before every text, by name.
        default_prompt_name: The prompt that is put before every text unless another one is asked for.
    """

    def read_with(
        self,
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout,
        *,
        source: str,
        template: str | None,
        positions: int,
        max_length: int | None,
        prompts: Mapping[str, str] | Literal["keep"] | None,
        default_prompt_name: str | None,
    ) -> None:
        """Set how texts are read: as the backbone's layout says, unless an argument of `Encoder` says otherwise."""
        self.lower_case = layout.lower_case
        self.tokenizer, self.mended_padding = prepared(tokenizer, lower_case=self.lower_case, template=template)
        self.template, self.max_positions = template, positions
        self.max_length = choose_length(max_length, layout.max_length, positions, source)
        if prompts == "keep":
            prompts, default_prompt_name = dict(layout.prompts), default_prompt_name or layout.default_prompt_name
        self.prompts, self.default_prompt_name = check_prompts(prompts, default_prompt_name)
        for prompt in ("", *self.prompts.values()):
            require_prompt_room(self.tokenizer, self.max_length, prompt, field="encoder.max_length")

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        max_tokens: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        windows: int | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts, in their order.

        Args:
            texts: n texts; longer ones are cut to `max_length` tokens, prompt included, unless `windows` is given.
            batch_size: Most texts in a batch; None: limited by `max_tokens` only.
            precision: `fp32`, `bf16`, or `auto`: bf16 if the hardware computes it natively.
            max_tokens: Most tokens in a batch, padding included. None: 1,024 on a CPU, 16,384 on a GPU.
            prompt_name: The name of the prompt that is put before every text; None: the default one, if it exists.
            prompt: The text of a prompt, instead of a name; an empty one switches the default prompt off.
            dimensions: The number of first dimensions to keep; vectors that the encoder scales to unit length are
                scaled again. None: all.
            windows: A step in tokens, from half of a window to a whole one: a text that is longer than `max_length` is
                read in windows of this length that begin a step apart, and has the mean of their vectors, weighted by
                their tokens. None: longer texts are cut.

        Returns:
            (n, D) float32, or (n, `dimensions`).

        Raises:
            UserError: The encoder has no prompt of this name, or not as many dimensions, or the step is out of range.
        """
        self._width(dimensions)  # before the texts are tokenized
        read = self.read(texts, prompt_name=prompt_name, prompt=prompt, windows=windows)
        return self.encode_read(
            read, batch_size=batch_size, precision=precision, max_tokens=max_tokens, dimensions=dimensions
        )

    def read(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        windows: int | None = None,
    ) -> Windows:
        """Tokenize texts: the first half of `encode`, for which the model is not needed; its arguments are the same."""
        before = self.prompt_text(prompt_name, prompt)
        return Windows.whole(self.tokenize(texts, before)) if windows is None else self._windows(texts, before, windows)

    def encode_read(
        self,
        read: Windows,
        *,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        max_tokens: int | None = None,
        dimensions: int | None = None,
    ) -> NDArray[np.float32]:
        """Encode what `read` made of n texts: the second half of `encode`, whose arguments are the same.

        Returns:
            (n, D) float32, or (n, `dimensions`).

        Raises:
            UserError: The vectors do not have as many dimensions, or that of a text has nan or is 0. Static vectors may
                be 0, since a text without a known word has no other, and so may those of a text without tokens.
        """
        import numpy as np

        width = self._width(dimensions)
        out = np.empty((len(read.rows), width), dtype=np.float32)
        with inference(self, precision, self.device), kernel_of_precision(self.backbone):
            for part, pooled in self.batches(read.rows, self.pad, max_tokens, batch_size):
                out[part] = self.post.first(self.post(pooled).float(), width).cpu().numpy()
        found = read.mean(out, scaled=self.post.scales)
        self._require_directions(found, lambda row: read.rows[int((read.text == row).argmax())])
        return found

    def try_out(self) -> None:
        """Encode two texts, so that settings or weights that make no vectors are known where a model is loaded."""
        ids = self.tokenize(["a", ""])  # of two lengths, one of which is padded
        with inference(self, "fp32", self.device):
            tokens, mask = (tensor.to(self.device) for tensor in self.pad(ids))
            found = self.post(self.pool_rows(tokens, mask)).float().cpu().numpy()
        self._require_directions(found, ids.__getitem__)

    def _require_directions(self, vectors: NDArray[np.float32], ids: Callable[[int], Sequence[int]]) -> None:
        """Raise if a vector, of which `ids` gives the tokens, has nan, or is 0 and not one that may be."""

        def name(row: int) -> str:
            return f"model {self.source!r}: {self.tokenizer.decode(ids(row), skip_special_tokens=True)[:60]!r}"

        require_directions(vectors, name, null=lambda row: self._static or ids(row) == [self.tokenizer.pad_token_id])

    @property
    def _static(self) -> bool:
        return bool(self.backbone.config.model_type == STATIC_NAME)

    def _width(self, dimensions: int | None) -> int:
        width = self.dim if dimensions is None else dimensions
        check_widths([width], self.dim, option="dimensions")
        return width

    def _windows(self, texts: Sequence[str], prompt: str, step: int) -> Windows:
        whole = tokenize(self.tokenizer, texts, prompt=prompt, max_length=None, lower_case=self.lower_case)
        ids = self.tokenizer(prompt.strip(), add_special_tokens=False)["input_ids"] if prompt else []
        added = added_ids(self.tokenizer)
        return Windows.cut(whole, step, added=added, prompt=ids, max_length=self.max_length)

    def encode_spans(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[Span]],
        *,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        max_tokens: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
    ) -> list[NDArray[np.float32]]:
        """Vectors of parts of texts, each read within its whole text.

        A vector is the mean of the last layer's states over the tokens that lie within the ranges of a span, after the
        exported modules. With the pooler `mean`, the span of the whole text has the vector of the text, but for special
        tokens.

        The other arguments are those of `encode`. `spans` has the spans of each text: a character range (start, end),
        end left out, or several of them.

        Returns:
            For each text, the vectors (S, D) of its spans, float32.

        Raises:
            UserError: A range lies outside its text, a span holds no whole token, or one that was cut off, or its
                vector has nan or is 0.
        """
        import numpy as np

        width = self._width(dimensions)
        ranges, before, device = check_spans(texts, spans), self.prompt_text(prompt_name, prompt), self.device
        length, lower = self.max_length, self.lower_case
        ids, at = tokenize_with_places(self.tokenizer, texts, prompt=before, max_length=length, lower_case=lower)
        masks = [inside(*each) for each in zip(at, ranges, strict=True)]  # (S, L) of each text
        require_tokens(texts, ranges, masks, length)
        out = [np.empty((len(mask), width), dtype=np.float32) for mask in masks]
        with inference(self, precision, device), kernel_of_precision(self.backbone):
            for part in self.parts(ids, max_tokens, batch_size):
                tokens, mask = self.pad([ids[i] for i in part])
                chosen = side_by_side([masks[i] for i in part], mask.shape[1])  # (n, S, L)
                means = self.spans(tokens, mask, chosen)[1]  # (n, S, H)
                vectors = self.post.first(self.post(means.flatten(0, 1)).float(), width)
                for i, found in zip(part, vectors.view(*chosen.shape[:2], -1).cpu().numpy(), strict=True):
                    out[i][:] = found[: len(masks[i])]
        owner = [text for text, found in zip(texts, out, strict=True) for _ in found]
        name, none = f"model {self.source!r}: a span of ", np.empty((0, width), dtype=np.float32)
        every: NDArray[np.float32] = np.concatenate([none, *out])
        require_directions(every, lambda row: f"{name}{owner[row][:60]!r}", null=lambda _: self._static)
        return out

    def prompt_text(self, name: str | None = None, prompt: str | None = None) -> str:
        """The text that is put before every text, empty if there is none; see `encode` for the arguments."""
        return choose_prompt(self.prompts, self.default_prompt_name, name, prompt)

    def prompts_by_role(self, names: Mapping[str, str | None]) -> dict[str, str]:
        """The text before the texts of each role in training; a role that `names` omits has the default prompt."""
        known, default = self.prompts, self.default_prompt_name
        found = dict.fromkeys(ROLES, choose_prompt(known, default))
        for role, name in names.items():
            option = f"collator.prompts.{role}"
            found[role] = "" if name is None else choose_prompt(known, default, name, option=option)
        return found

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """The token ids of each text behind a prompt, cut to `max_length`; an empty text has one padding token."""
        length, lower = self.max_length, self.lower_case
        return tokenize(self.tokenizer, texts, prompt=prompt, max_length=length, lower_case=lower)

    def pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Rows of token ids as ids and attention mask, both (n, L), padded on the right."""
        return pad(rows, self.tokenizer.pad_token_id)
