"""A causal language model of transformers on this machine. It fills in the values of a JSON object that we write.

So a model that is too small to keep to a format still gives an answer that can be read, and no more tokens than needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_origin

from cse.errors import UserError
from cse.feedback.answers import SCHEMAS
from cse.feedback.labellers import Chat
from cse.feedback.meter import Meter
from cse.feedback.prompts import FIELDS, Prompt
from cse.feedback.store import Reply, now
from cse.seeding import derive

_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)")
_STOPS = {"text": ['"', "\n"], "number": ["}", ",", "\n", " "]}


class Local:
    """Answers with a local model; the same question with the same seed gets the same answer.

    Args:
        folder: Of a transformers model.
        name: For provenance.
        weights: A hash of them.
        chunk: Questions at once.
        seed: Of sampling.

    Raises:
        UserError: The folder cannot be loaded as a causal language model.
    """

    prompted, prompts, workers = True, frozenset(FIELDS), 1

    def __init__(self, folder: Path, name: str, weights: str, *, chunk: int = 16, seed: int = 42) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model, self.identity, self.chunk, self.seed = f"{name}@{weights}", weights, chunk, seed
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
            self._network = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"--model local:{folder}: cannot be loaded: {str(error).splitlines()[0][:300]}") from error
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._network.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def parameters(self, prompt: Prompt) -> dict[str, object]:
        """Of sampling."""
        return {"temperature": prompt.temperature, "max_tokens": prompt.max_tokens, "seed": self.seed}

    def ask(self, chats: Sequence[Chat], meter: Meter, fault: Callable[[str], None]) -> list[Reply]:
        """Fill in value after value, for all questions at once."""
        import torch

        prompt = chats[0].prompt
        starts = [self._start(chat.messages) for chat in chats]
        sizes = [len(ids) for ids in self._tokenizer(starts, add_special_tokens=False)["input_ids"]]
        for size in sizes:
            meter.admit(size, prompt.max_tokens)
        drafts = [_Draft() for _ in chats]
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(derive(self.seed, [chat.key for chat in chats]))
            for name, kind in _values(prompt.name):
                self._fill(starts, drafts, name, kind, prompt)
        for size, draft in zip(sizes, drafts, strict=True):
            meter.settle((size, prompt.max_tokens), (size, draft.tokens))
        moment = now()
        return [draft.reply(size, moment) for size, draft in zip(sizes, drafts, strict=True)]

    def _start(self, messages: Sequence[Any]) -> str:
        """The chat in the model's own words, up to where the answer begins."""
        if self._tokenizer.chat_template:
            return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        known = self._tokenizer.get_vocab()
        if "<|im_start|>" in known and "<|im_end|>" in known:  # ChatML, where the template was left out
            turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
            return "".join(turns) + "<|im_start|>assistant\n"
        return "\n\n".join(m["content"] for m in messages) + "\n\nAnswer: "

    def _fill(self, starts: Sequence[str], drafts: Sequence[_Draft], name: str, kind: str, prompt: Prompt) -> None:
        """Let the model write the value of one field."""
        opening = {"text": '"', "list": '["', "number": ""}[kind]
        texts = [s + d.open(name) + opening for s, d in zip(starts, drafts, strict=True)]
        batch = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        batch = batch.to(self._network.device)
        warm = prompt.temperature > 0
        sampling = (
            {"do_sample": True, "temperature": prompt.temperature, "top_p": 0.9} if warm else {"do_sample": False}
        )
        output = self._network.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=prompt.max_tokens,
            stop_strings=_STOPS["number" if kind == "number" else "text"],
            tokenizer=self._tokenizer,
            pad_token_id=self._tokenizer.pad_token_id,
            **sampling,
        )[:, batch["input_ids"].shape[1] :]
        for row, draft in zip(output, drafts, strict=True):
            words = self._tokenizer.decode(row, skip_special_tokens=True)
            tokens = int((row != self._tokenizer.pad_token_id).sum())
            draft.close(name, kind, words, tokens=tokens, cut=tokens >= prompt.max_tokens)


class _Draft:
    """An answer in the making."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.tokens = 0
        self.broken: tuple[str, str] | None = None  # what was said instead, and why it ended

    def open(self, name: str) -> str:
        """The object so far, up to where the next value begins."""
        written = "".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}, " for k, v in self.values.items())
        return "{" + written + json.dumps(name) + ": "

    def close(self, name: str, kind: str, words: str, *, tokens: int, cut: bool) -> None:
        """Take what was written as the value."""
        self.tokens += tokens
        if kind == "number":
            number = _NUMBER.match(words)
            value: Any = float(number[1]) if number else None
        else:
            text = re.split(r'(?<!\\)"|\n', words, maxsplit=1)[0].replace('\\"', '"').strip()
            value = [text] if kind == "list" else text
        if value is None or (cut and '"' not in words and "\n" not in words and kind != "number"):
            self.broken = self.broken or (f"{self.open(name)}{words}", "length" if cut else "stop")
        self.values[name] = value

    def reply(self, size: int, moment: str) -> Reply:
        """The whole."""
        text, finish = self.broken or (json.dumps(self.values, ensure_ascii=False), "stop")
        return Reply(text, finish, size, self.tokens, time=moment)


def _values(prompt: str) -> list[tuple[str, str]]:
    """Names and kinds of the values that an answer must have."""
    found = []
    for name, field in SCHEMAS[prompt].model_fields.items():
        if field.is_required():
            is_list = get_origin(field.annotation) is list
            found.append((name, "list" if is_list else "number" if field.annotation is float else "text"))
    return found
