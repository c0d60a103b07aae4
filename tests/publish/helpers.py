"""Encoders of every kind of checkpoint, as after training."""

from pathlib import Path

import torch

from cse import Encoder, Lora, SoftPrompts
from cse.inference.whiten import whiten
from tests.runs import write_texts

LORA = {"adapter": Lora(rank=2, targets=["query", "value"])}
KINDS = {
    "cls": {"head": "mlp"},
    "mean": {"pooler": "mean", "max_length": 12},
    "last": {"pooler": "last"},
    "mean_last_two": {"pooler": "mean_last_two"},
    "first_last_embeddings": {"pooler": "first_last_embeddings"},
    "first_last_layer1": {"pooler": "first_last_layer1", "max_length": 20},
    "supervised": {"head": "mlp", "export_head": True},
    "whitened": {"pooler": "first_last_embeddings"},
    "lora": {"pooler": "mean", **LORA},
    "template": {"pooler": "last", "template": "the {text} sat on", "max_length": 20},
    "mask": {"pooler": "mask", "template": "the {text} sat {mask} on", "max_length": 20},
}
PROMPTED = {
    "prompts": {"head": "mlp"},
    "prompts supervised": {"head": "mlp", "export_head": True, "max_length": 20},
    "prompts first_last": {"pooler": "first_last_embeddings"},
}


def make(kind: str, backbone: str, folder: Path) -> Encoder:
    """An encoder of that kind, as after training: every trained part is moved away from where it starts."""
    torch.manual_seed(3)
    if kind in PROMPTED:
        adapter = SoftPrompts(length=3, projection=8 if "first_last" in kind else 0)
        encoder = Encoder(backbone, adapter=adapter, **PROMPTED[kind]).eval()
        torch.nn.init.normal_(adapter.prompts.weight)
    else:
        encoder = Encoder(backbone, **KINDS[kind]).eval()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name or name.startswith("post."):
            torch.nn.init.normal_(parameter)
    if "whitened" in kind:
        whiten(encoder, write_texts(folder, 40).read_text().splitlines(), 8)
    return encoder
