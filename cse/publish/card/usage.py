"""How a published folder is used, as code: the card shows it, and `cse.publish.verify` runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cse.encoder.layout import pooler_of
from cse.encoder.poolers import LAYERS, PoolerName
from cse.errors import UserError

EXAMPLES = '["A cat sat on the mat.", "A feline rested on the rug.", "The bank raised its rates."]'
STATES = {  # of one layer (n, L, H) to vectors (n, H)
    "cls": "vectors = states[:, 0]",
    "last": "vectors = states[torch.arange(len(states)), mask.sum(1) - 1]",
    "mean": "vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
}
ACTIVATIONS = {"identity": "{}", "tanh": "torch.tanh({})", "relu": "torch.relu({})", "gelu": "F.gelu({})"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a published folder is made of.

    Attributes:
        first: The class of what makes token embeddings.
        pooler: As `cse.encoder.poolers` names it.
        layers: Those that are averaged before pooling; () for the last alone.
        max_length: Most tokens of a text.
        lower_case: Whether texts are lower-cased first.
        template: What the tokenizer puts around every text.
        post: After pooling, (folder, settings) of each Dense, or (folder, None) of a Normalize.
        dim: D.
        code: Whether loading runs the folder's own code.
        drops_pooler: Whether the backbone's class would add a pooling layer of its own, without weights.
    """

    first: str
    pooler: PoolerName
    layers: tuple[int, ...]
    max_length: int
    lower_case: bool
    template: str | None
    post: tuple[tuple[str, dict[str, Any] | None], ...]
    dim: int
    code: bool
    drops_pooler: bool


def read_shape(folder: Path) -> Shape:
    """Read what a published folder is made of, without its weights.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        what = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no reason given'}"
        raise UserError(f"folder {folder} is not a whole checkpoint: {what}\nfix: save it again") from error


def _read(folder: Path) -> Shape:
    from transformers import AutoConfig

    from cse.encoder.backbone import no_pooler

    modules = _json(folder / "modules.json")
    settings = _json(folder / "sentence_bert_config.json")
    if settings.get("backbone") is not None:
        raise UserError(
            f"folder {folder} refers to the backbone {settings['backbone']}, which is no part of it\n"
            "fix: publish it whole, as cse.publish.stage.stage writes it"
        )
    tokenizer, config = _json(folder / "tokenizer_config.json"), AutoConfig.from_pretrained(folder)
    pooler = pooler_of(folder, modules)
    post: list[tuple[str, dict[str, Any] | None]] = []
    for module in modules[1:]:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Dense":
            post.append((module["path"], _json(folder / module["path"] / "config.json")))
        elif kind == "Normalize":
            post.append((module["path"], None))
    widths = [settings["out_features"] for _, settings in post if settings]
    return Shape(
        first=modules[0]["type"].rsplit(".", 1)[-1],
        pooler=pooler,
        layers=LAYERS.get(pooler, ()),
        max_length=int(settings["max_seq_length"]),
        lower_case=bool(settings.get("do_lower_case")),
        template=tokenizer.get("cse_template"),
        post=tuple(post),
        dim=int(widths[-1] if widths else config.hidden_size),
        code=any(not module["type"].startswith("sentence_transformers.") for module in modules),
        drops_pooler=bool(no_pooler(config)),
    )


def sentence_transformers_code(shape: Shape, name: str) -> str:
    """Code that embeds with sentence-transformers; `name` is a Hub id or a folder."""
    trust = ", trust_remote_code=True" if shape.code else ""
    return f"""\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({json.dumps(name)}{trust})
vectors = model.encode({EXAMPLES})  # (3, {shape.dim})
print(model.similarity(vectors, vectors))
"""


def transformers_code(shape: Shape, name: str, *, local: bool = False) -> str | None:
    """Code that defines `encode(texts)` with transformers and torch alone; None where the folder needs its own code.

    Args:
        shape: Of the folder.
        name: A Hub id, or a folder.
        local: Whether it is a folder.
    """
    if shape.first != "Transformer":
        return None
    quoted, dense = json.dumps(name), [path for path, settings in shape.post if settings]
    imports = ["import torch", "import torch.nn.functional as F"]
    imports += ["from huggingface_hub import hf_hub_download"] if dense and not local else []
    imports += ["from safetensors.torch import load_file"] if dense else []
    imports += ["from transformers import AutoModel, AutoTokenizer"]
    no_pooler = ", add_pooling_layer=False" if shape.drops_pooler else ""
    lines = [
        *imports,
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({quoted})",
        f"model = AutoModel.from_pretrained({quoted}{no_pooler}).eval()",
    ]
    for number, path in enumerate(dense):
        file = f"{path}/model.safetensors"
        where = json.dumps(f"{name}/{file}") if local else f'hf_hub_download({quoted}, "{file}")'
        lines.append(f"dense{number} = load_file({where})")
    return "\n".join([*lines, "", "", *_function(shape)]) + "\n"


def adapter_code(shape: Shape, name: str, base: str, revision: str | None = None) -> str:
    """Code that defines `encode(texts)` with a LoRA adapter on its backbone, by transformers and peft.

    Merged, it is as fast as the backbone and gives the vectors of the merged model.

    Args:
        shape: Of the merged model.
        name: Of the adapter, a Hub id or a folder.
        base: Of the backbone, the same.
        revision: Of the backbone.
    """
    options = f", revision={json.dumps(revision)}" if revision else ""
    options += ", dtype=torch.float32" + (", add_pooling_layer=False" if shape.drops_pooler else "")
    lines = [
        "import torch",
        "import torch.nn.functional as F",
        "from peft import PeftModel",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})",
        f"backbone = AutoModel.from_pretrained({json.dumps(base)}{options})",
        f"model = PeftModel.from_pretrained(backbone, {json.dumps(name)}).merge_and_unload().eval()",
    ]
    return "\n".join([*lines, "", "", *_function(shape)]) + "\n"


def _function(shape: Shape) -> list[str]:
    """The lines of `encode`."""
    texts = "[text.lower() for text in texts]" if shape.lower_case else "texts"
    lines = [
        f'options = {{"padding": True, "truncation": True, "max_length": {shape.max_length}, "return_tensors": "pt"}}',
        f"tokens = tokenizer({texts}, **options)",
        'mask = tokens["attention_mask"]',
        "with torch.inference_mode():",
    ]
    if shape.layers:
        first, second = shape.layers
        lines += ["    layers = model(**tokens, output_hidden_states=True).hidden_states"]
        lines += [f"states = (layers[{first}] + layers[{second}]) / 2"]
    else:
        lines += ["    states = model(**tokens).last_hidden_state"]
    lines += [STATES["mean" if shape.layers else shape.pooler]]
    number = 0
    for _, settings in shape.post:
        if settings is None:
            lines.append("vectors = F.normalize(vectors, dim=-1)")
            continue
        bias = f' + dense{number}["linear.bias"]' if settings["bias"] else ""
        activation = ACTIVATIONS[settings["activation_function"].rsplit(".", 1)[-1].lower()]
        lines.append("vectors = " + activation.format(f'vectors @ dense{number}["linear.weight"].T{bias}'))
        number += 1
    return ["def encode(texts):", *[f"    {line}" for line in lines], "    return vectors"]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
