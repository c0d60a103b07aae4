"""Loads a folder as a user without cse would, in a separate process without network, and encodes texts with it.

    python verify_child.py SPEC.json      SPEC: folder, texts, code (or null), by, whole, trust, out

Writes `out`/<loader>.npy for each loader, and prints as its last line JSON: missing, unexpected.
"""

from __future__ import annotations

import importlib.abc
import json
import socket
import sys
from pathlib import Path
from typing import Any


class WithoutCse(importlib.abc.MetaPathFinder):
    """Makes importing cse fail, as it does on a machine where cse is not installed."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Refuse cse; leave every other module to the next finder."""
        if fullname.partition(".")[0] == "cse":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def cut_off() -> None:
    """Refuse every connection and every look-up of a host name."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("the network is blocked while a folder is verified")

    setattr(socket.socket, "connect", refuse)  # noqa: B010
    setattr(socket.socket, "connect_ex", refuse)  # noqa: B010
    setattr(socket, "getaddrinfo", refuse)  # noqa: B010


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Encode with sentence-transformers if the model is whole, and with the code on the card if there is any."""
    import numpy as np
    import sentence_transformers
    import torch
    import transformers

    out, folder = Path(spec["out"]), spec["folder"]
    if spec["whole"]:
        model = sentence_transformers.SentenceTransformer(folder, device="cpu", trust_remote_code=spec["trust"])
        vectors = model.encode(spec["texts"], batch_size=2, show_progress_bar=False)
        np.save(out / "sentence-transformers.npy", vectors)
        del model
    about: dict[str, Any] = {"missing": [], "unexpected": []}
    if spec["code"] is not None:
        names: dict[str, Any] = {}
        exec(compile(spec["code"], "the card's code", "exec"), names)
        *short, long = spec["texts"]  # padding all texts to the longest would take minutes for a large model
        np.save(out / f"{spec['by']}.npy", torch.cat([names["encode"](short), names["encode"]([long])]).numpy())
        names.clear()  # frees the model
    if spec["code"] is not None and spec["whole"]:
        options = {"add_pooling_layer": False} if spec["drops_pooler"] else {}
        _, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **options)
        about = {"missing": sorted(info["missing_keys"]), "unexpected": sorted(info["unexpected_keys"])}
    return about


if __name__ == "__main__":
    sys.meta_path.insert(0, WithoutCse())
    cut_off()
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))  # noqa: T201
