"""The information that two texts share, in the opinion of a causal language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch
from cse.encoder.checkpoint.source import max_positions
from cse.encoder.device import Precision, inference
from cse.encoder.language_models import load_causal_lm
from cse.encoder.model import Encoder
from cse.encoder.texts import pad
from cse.errors import Count, UserError
from cse.interfaces import StepContext, Teacher

Ids = list[int]


class SharedInformation(Teacher):
    """A causal language model that was never trained for similarity, which reads two texts together.

        s(a, b) = 1 - 1/2 ( log P(b | a) / log P(b)  +  log P(a | b) / log P(a) )

    log P(b) is what b costs alone, and log P(b | a) what it costs after a, as the template puts them. s is the mean
    share of its bits that a text owes to the other: 0 if neither helps with the other, towards 1 if each says all of
    the other, and below 0 if they mislead. It is pointwise mutual information (Church and Hanks, 1990), divided by
    the information of each text.

    Such a model reads details that vectors lose, and it errs in other ways than an encoder that is made of it: both
    together are better than either. It gives scores of pairs and no vectors, so it serves objectives that compare the
    texts of a row, such as `PccTuning`. Each pair is read twice, in both orders, whenever it is in a batch.

    Args:
        source: `asset:NAME`, a folder or a Hub id of a causal language model with its output layer.
        template: A text with `{a}` and then `{b}`. P(b) is the probability of b at the place of `{a}`.
        max_length: The most tokens of a text that are read.
        rows: The number of rows that are computed at a time.
        precision: `fp32`, `bf16`, or `auto`: bf16 if the hardware computes it natively.

    Raises:
        UserError: The template does not have `{a}` before `{b}`. In `setup`: the model cannot be loaded, or is not a
            causal language model. In `embed`: always.

    Deviations:
        Our own method: docs/experiments.md has what it brings.
    """

    requires = frozenset({"text_id"})

    source: str
    template: str = 'The sentence "{a}" can be said in other words: "{b}"'
    max_length: Count = 64
    rows: Count = 64
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = re.fullmatch(r"(.*)\{a\}(.+)\{b\}.*", self.template, re.DOTALL)
        if parts is None or self.template.count("{a}") > 1 or self.template.count("{b}") > 1:
            raise UserError(
                f"teacher.template is {self.template!r}\n"
                "fix: give a text with {a} and, after some words, {b}, in this order, each once"
            )
        self._before, self._between = parts.groups()

    def setup(self, encoder: Encoder) -> None:
        model, tokenizer = load_causal_lm(self.source, option="teacher.source")
        self._held = (model, tokenizer)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self._prefix = [start, *self._ids([self._before])[0]]
        self._middle = self._ids([self._between])[0]
        positions, around = max_positions(model.config.to_dict()), len(self._prefix) + len(self._middle)
        if around + 2 * self.max_length > positions:
            raise UserError(
                f"teacher.max_length is {self.max_length}, and two such texts and the {around} tokens of the template "
                f"exceed the {positions} positions of {self.source}\n"
                f"fix: set teacher.max_length to {(positions - around) // 2} or less, or shorten teacher.template"
            )

    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        raise UserError(
            "SharedInformation gives scores of pairs, and this objective or Ensemble asks for vectors\n"
            "fix: use an objective that compares the texts of a row, such as PccTuning, and a term of WeightedSum for "
            "each of several teachers"
        )

    @torch.no_grad()
    def scores(self, batch: Batch, ctx: StepContext) -> Tensor:
        # Each process reads its own rows.
        text_id = batch.require("text_id", type(self).__name__)[ctx.local_rows]  # (b, V)
        pairs = [(row[0], other) for row in text_id.tolist() for other in row[1:]]
        used = sorted({number for pair in pairs for number in pair})
        ids = dict(zip(used, self._ids([ctx.texts[number] for number in used]), strict=True))
        own = self.shared([(ids[a], ids[b]) for a, b in pairs], text_id.device)
        return ctx.gather(own.view(len(text_id), -1))

    def shared(self, pairs: Sequence[tuple[Ids, Ids]], device: torch.device) -> Tensor:
        """The scores (n,) of pairs of texts, given as ids."""
        n = len(pairs)
        rows = [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
        order = sorted(range(2 * n), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
        costs = torch.zeros(2 * n, 2)  # of a row's first text, and of its second after the first
        for start in range(0, 2 * n, self.rows):
            part = order[start : start + self.rows]
            costs[part] = self._costs([rows[i] for i in part], device)
        alone, after = costs.view(2, n, 2).unbind(-1)  # (2, n): of a and b; of b and a
        return (1 - (after / alone.flip(0)).mean(0)).to(device)

    def _costs(self, rows: Sequence[tuple[Ids, Ids]], device: torch.device) -> Tensor:
        """(n, 2) nats of the first text at its place, and of the second at its."""
        model, tokenizer = self._held
        whole = [[*self._prefix, *a, *self._middle, *b] for a, b in rows]
        ids, mask = (tensor.to(device) for tensor in pad(whole, tokenizer.pad_token_id or 0))
        place = torch.zeros_like(ids)  # 1 at the tokens of the first text, 2 at those of the second
        for i, (a, b) in enumerate(rows):
            first = len(self._prefix)
            second = first + len(a) + len(self._middle)
            place[i, first : first + len(a)], place[i, second : second + len(b)] = 1, 2
        model.to(device)
        with inference(model, self.precision, device):
            states = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
            read = place[:, 1:] > 0
            nats = F.cross_entropy(
                model.get_output_embeddings()(states[read]).float(), ids[:, 1:][read], reduction="none"
            )
        spread = torch.zeros(read.shape, device=device)
        spread[read] = nats
        return torch.stack([(spread * (place[:, 1:] == which)).sum(1) for which in (1, 2)], 1).cpu()

    def _ids(self, texts: Sequence[str]) -> list[Any]:
        """The ids of texts, without special tokens, cut to `max_length`; an empty text has one."""
        _, tokenizer = self._held
        found = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [row[: self.max_length] or [tokenizer.eos_token_id] for row in found]
