"""Code that uses a published folder: the card shows it, and `cse.publish.verify` runs it."""

from __future__ import annotations

import json
from pathlib import Path

from cse.encoder.checkpoint.layout import Layout, require_checkpoint
from cse.encoder.poolers import LAYERS
from cse.errors import UserError

EXAMPLES = '["A cat sat on the mat.", "A feline rested on the rug.", "The bank raised its rates."]'
STATES = {  # from the states of one layer (n, L, H) to vectors (n, H)
    "cls": "vectors = states[:, 0]",
    "last": "vectors = states[torch.arange(len(states)), mask.sum(1) - 1]",
    "mean": "vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    "mask": "vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
}
ACTIVATIONS = {"identity": "{}", "tanh": "torch.tanh({})", "relu": "torch.relu({})", "gelu": "F.gelu({})"}

BIDIRECTIONAL = "# Its attention is bidirectional, which needs {} or later.\n"


def read_published(folder: Path, *, whole: bool = True) -> Layout:
    """The layout of a folder that is published, backbone and all (`whole`), or whose adapter alone is."""
    layout = require_checkpoint(folder)
    if whole and layout.reference is not None:
        raise UserError(
            f"folder {folder} refers to the backbone {layout.reference.backbone}, which it does not contain\n"
            "fix: publish it with its backbone, as `cse push` does"
        )
    if layout.pooler is None:
        raise UserError(layout.unsupported)
    if not layout.width or layout.max_length is None:
        raise UserError(f"checkpoint {folder} is damaged or incomplete: no config.json\nfix: save the checkpoint again")
    return layout


def drops_pooler(layout: Layout) -> bool:
    """Tell whether the class of the backbone would add a pooling layer that has no weights in the folder."""
    from transformers import CONFIG_MAPPING

    from cse.encoder.checkpoint.backbone import no_pooler

    if layout.static:
        return False
    return bool(no_pooler(CONFIG_MAPPING[layout.architecture]()))


def sentence_transformers_code(layout: Layout, name: str) -> str:
    """Code that encodes with sentence-transformers; `name` is a Hub id or a folder."""
    trust = ", trust_remote_code=True" if layout.needs_code else ""
    prompts = [prompt for prompt, text in layout.prompts.items() if text]
    before = "".join(
        f"# the prompt {json.dumps(p)} puts {json.dumps(layout.prompts[p])} before every text\n" for p in prompts
    )
    before += f"# the default prompt is {json.dumps(layout.default_prompt_name)}\n" if layout.default_prompt else ""
    asked = f", prompt_name={json.dumps(prompts[0])}" if prompts and not layout.default_prompt else ""
    return f"""\
{BIDIRECTIONAL.format("sentence-transformers 6 and transformers 5.2") if layout.bidirectional else ""}\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({json.dumps(name)}{trust})
{before}vectors = model.encode({EXAMPLES}{asked})  # (3, {layout.dim})
print(model.similarity(vectors, vectors))
"""


def transformers_code(layout: Layout, name: str, *, local: bool = False) -> str | None:
    """Code that defines `encode(texts)` with transformers and torch alone; None if they cannot load the folder."""
    if layout.soft_prompts or layout.static:
        return None
    quoted, dense = json.dumps(name), [module.path for module in layout.post if module.dense is not None]
    imports = ["import torch", "import torch.nn.functional as F"]
    imports += ["from huggingface_hub import hf_hub_download"] if dense and not local else []
    imports += ["from safetensors.torch import load_file"] if dense else []
    imports += ["from transformers import AutoModel, AutoTokenizer"]
    no_pooler = ", add_pooling_layer=False" if drops_pooler(layout) else ""
    lines = [
        *([BIDIRECTIONAL.format("transformers 5.2").strip()] if layout.bidirectional else []),
        *imports,
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({quoted})",
        f"model = AutoModel.from_pretrained({quoted}{no_pooler}).eval()",
    ]
    for number, path in enumerate(dense):
        file = f"{path}/model.safetensors"
        where = json.dumps(f"{name}/{file}") if local else f'hf_hub_download({quoted}, "{file}")'
        lines.append(f"dense{number} = load_file({where})")
    return "\n".join([*lines, "", "", *_function(layout)]) + "\n"


def compare_code(layout: Layout) -> str:
    """Code that prints the similarities of three texts, after the code that defines `encode`."""
    if layout.compared_by == "euclidean":
        return f"\nvectors = encode({EXAMPLES})\nprint(-torch.cdist(vectors, vectors))\n"
    return f"\nvectors = F.normalize(encode({EXAMPLES}), dim=-1)\nprint(vectors @ vectors.T)\n"


def quantize_code(name: str) -> str:
    """Code that quantizes `vectors` to int8, by the ranges in the repository `name` on the Hub."""
    return f"""\
import json

import numpy as np
from huggingface_hub import hf_hub_download
from sentence_transformers.util.quantization import quantize_embeddings

known = json.load(open(hf_hub_download({json.dumps(name)}, "quantization.json")))
ranges = np.array([known["low"], known["high"]], dtype=np.float32)
codes = quantize_embeddings(vectors, precision="int8", ranges=ranges)
"""


def adapter_code(layout: Layout, name: str, base: str, revision: str | None = None) -> str:
    """Code that defines `encode(texts)` with a LoRA adapter on its backbone, by transformers and peft.

    The code merges the adapter, so encoding is as fast as with the backbone and gives the vectors of the merged model.
    """
    options = f", revision={json.dumps(revision)}" if revision else ""
    options += ", dtype=torch.float32" + (", add_pooling_layer=False" if drops_pooler(layout) else "")
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
    return "\n".join([*lines, "", "", *_function(layout)]) + "\n"


def _function(layout: Layout) -> list[str]:
    """The lines of `encode`."""
    prompted = any(layout.prompts.values())
    texts = "[text.lower() for text in texts]" if layout.lower_case else "texts"
    lines = ["texts = [prompt + text for text in texts]"] if prompted else []
    lines += [
        f'options = {{"padding": True, "truncation": True, "max_length": {layout.max_length}, "return_tensors": "pt"}}',
        f"tokens = tokenizer({texts}, **options)",
        'mask = tokens["attention_mask"]',
        "with torch.inference_mode():",
    ]
    assert layout.pooler is not None  # checked when the layout was read
    layers = LAYERS.get(layout.pooler)
    if layers is not None:
        first, second = layers
        lines += ["    layers = model(**tokens, output_hidden_states=True).hidden_states"]
        lines += [f"states = (layers[{first}] + layers[{second}]) / 2"]
    else:
        lines += ["    states = model(**tokens).last_hidden_state"]
    if layout.pooler == "mask":
        lines += ['mask = tokens["input_ids"] == tokenizer.mask_token_id']
    lines += [STATES["mean" if layers is not None else layout.pooler]]
    number = 0
    for dense in (module.dense for module in layout.post):
        if dense is None:
            lines.append("vectors = F.normalize(vectors, dim=-1)")
            continue
        bias = f' + dense{number}["linear.bias"]' if dense.bias else ""
        activation = ACTIVATIONS[dense.activation]
        lines.append("vectors = " + activation.format(f'vectors @ dense{number}["linear.weight"].T{bias}'))
        number += 1
    lines += [f"vectors = vectors[:, :{layout.cut}]"] if layout.cut is not None else []
    prompt = f", prompt={json.dumps(layout.default_prompt)}" if prompted else ""
    return [f"def encode(texts{prompt}):", *[f"    {line}" for line in lines], "    return vectors"]
