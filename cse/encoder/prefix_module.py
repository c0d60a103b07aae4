"""A checkpoint of an encoder with soft prompts, as a module of sentence-transformers.

`SentenceTransformer(folder, trust_remote_code=True)` finds `cse.encoder.prefix_module.PrefixTransformer` if cse is
installed. Otherwise it finds the copy of this file (and of prefix.py) that a published checkpoint has beside its
weights. This file must therefore run without cse, and reads its own settings not those of `checkpoint.layout`.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .prefix import PROMPTS, prompted

try:
    from sentence_transformers.base.modules import InputModule  # from 6 on
except ImportError:
    from sentence_transformers.models import InputModule

SETTINGS = "sentence_bert_config.json"


class PrefixTransformer(InputModule):  # type: ignore[misc]  # sentence-transformers is not typed
    """A backbone behind deep soft prompts: texts -> token embeddings.

    The folder holds `sentence_bert_config.json` and `prompts.safetensors`. It also holds backbone and tokenizer, or the
    settings name them (`backbone`, `revision`, `layers`, `template`).
    """

    save_in_root = True

    def __init__(self, backbone: Any, tokenizer: Any, prompts: Tensor, settings: dict[str, Any]) -> None:
        super().__init__()
        self.backbone, self.tokenizer = backbone, tokenizer
        self.prompts = nn.Parameter(prompts)
        self.settings = settings
        self.max_seq_length = int(settings["max_seq_length"])

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `token_embeddings` (n, L, H), and those of all layers if a pooler reads them."""
        inputs = prompted(self.backbone, self.prompts, features["attention_mask"])
        every = bool(self.settings.get("all_layers"))
        output = self.backbone(input_ids=features["input_ids"], output_hidden_states=every, **inputs)
        added = {"all_layer_embeddings": output.hidden_states} if every else {}
        return {**features, "token_embeddings": output.last_hidden_state, **added}

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Texts to `input_ids` and `attention_mask`, both (n, L), padded on the right."""
        texts = [((prompt or "") + text).strip() for text in inputs]
        texts = [text.lower() for text in texts] if self.settings.get("do_lower_case") else texts
        rows = self.tokenizer(texts, truncation=True, max_length=self.max_seq_length)["input_ids"]
        rows = [torch.tensor(row or [self.tokenizer.pad_token_id]) for row in rows]  # an empty text still has a vector
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def tokenize(self, texts: Sequence[str], **_: Any) -> dict[str, Any]:
        """Tokenize, under the name that sentence-transformers 5 calls."""
        return self.preprocess(texts)

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the folder with backbone and tokenizer in it."""
        out = Path(output_path)
        self.backbone.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        own = {"max_seq_length": self.max_seq_length, "backbone": None}
        own |= {name: self.settings.get(name, False) for name in ("do_lower_case", "all_layers")}
        (out / SETTINGS).write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
        save_file({"prompts": self.prompts.detach().float().cpu().contiguous()}, out / PROMPTS)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> PrefixTransformer:
        """Read the folder, and the backbone that it names."""
        names = ("token", "cache_folder", "revision", "local_files_only")
        hub = {name: options[name] for name in names if options.get(name) is not None}
        settings = cls.load_config(model_name_or_path, subfolder, config_filename=SETTINGS, **hub)
        prompts = load_file(cls.load_file_path(model_name_or_path, PROMPTS, subfolder, **hub))["prompts"]
        arguments = dict(options.get("model_kwargs") or {})
        arguments |= {"cache_dir" if name == "cache_folder" else name: value for name, value in hub.items()}
        if settings["backbone"] is None:
            source = model_name_or_path
        else:
            source = _locate(settings["backbone"])
            arguments["revision"] = settings.get("revision")
        backbone, tokenizer = _load(source, settings, arguments)
        return cls(backbone, tokenizer, prompts, settings)


def _load(source: str, settings: dict[str, Any], arguments: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The backbone, in float32 unless asked otherwise, and its tokenizer."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    hub = {k: v for k, v in arguments.items() if k in {"token", "cache_dir", "revision", "local_files_only"}}
    config = AutoConfig.from_pretrained(source, **hub)
    layers = settings.get("layers")
    if layers is not None:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    config.use_cache = False
    found = AutoModel._model_mapping.get(type(config), None)
    if found is not None and "add_pooling_layer" in inspect.signature(found.__init__).parameters:
        arguments["add_pooling_layer"] = False
    arguments.setdefault("dtype", torch.float32)
    backbone = AutoModel.from_pretrained(source, config=config, **arguments)
    tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if settings.get("template") is not None:
        tokenizer = _cse("encoder.template", settings["template"]).bake(tokenizer, settings["template"])
    return backbone, tokenizer


def _locate(backbone: str) -> str:
    if not backbone.startswith("asset:"):
        return backbone
    return _cse("encoder.checkpoint.source", backbone).locate(backbone)


def _cse(module: str, needed_for: str) -> Any:
    try:
        return importlib.import_module(f"cse.{module}")
    except ImportError as error:
        raise ImportError(
            f"this checkpoint refers to {needed_for!r}, which needs cse\n"
            "fix: pip install cse-embeddings, or export the checkpoint whole: save(folder, whole=True, with_code=True)"
        ) from error
