"""A LoRA run's adapter alone: small, and loaded on its backbone, which everyone fetches for himself."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cse.assets.hub import is_repo_id, snapshot
from cse.encoder.layout import ADAPTER, require_checkpoint
from cse.encoder.provenance import NOTICES, check_sums, write_sums
from cse.errors import UserError
from cse.files import atomic_dir, read_json, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER = re.compile(r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that works for others.

    Attributes:
        checkpoint: Of the run, which holds the adapter and the merged model.
        base: The Hub id of its backbone.
        revision: The backbone's commit.
        folder: Where the backbone lies on this machine.
        known: Whether that is the Hub's; False where `base` is only said to hold the same.
    """

    checkpoint: Path
    base: str
    revision: str | None
    folder: Path
    known: bool


def find_adapter(checkpoint: Path, base: str | None) -> Adapter:
    """The adapter of a checkpoint, if others can load it on a backbone of the Hub.

    Args:
        checkpoint: A LoRA run's best/ or last/.
        base: Where the Hub has the backbone that the run took from elsewhere.

    Raises:
        UserError: It is no checkpoint or a damaged one, or the adapter alone does not make its vectors for others.
    """
    from transformers import AutoConfig

    layout = require_checkpoint(checkpoint)
    if not layout.adapter:
        raise _refusal(checkpoint, f"holds no {ADAPTER}/: it was trained without LoRA, or its LoRA is merged away")
    check_sums(checkpoint)
    if dense := [module.path for module in layout.post if module.dense is not None]:
        raise _refusal(checkpoint, f"ends in {dense[0]}, and a LoRA adapter has no place for a Dense")
    settings = read_json(checkpoint / ADAPTER / CONFIG)
    source = str(settings["base_model_name_or_path"])
    folder, commit = _backbone(checkpoint, source, settings.get("revision"))
    kept, whole = (AutoConfig.from_pretrained(path).num_hidden_layers for path in (checkpoint, folder))
    if kept != whole:
        raise _refusal(checkpoint, f"keeps {kept} of the {whole} layers of {source}, and the Hub has the whole one")
    known = base in {None, source} and not _local(source)
    if base is None and not known:
        what = f"has the backbone {source}, which others do not have"
        raise _refusal(checkpoint, what, "; or give the Hub id of the very same weights: --base ID")
    _check_id(base)
    return Adapter(checkpoint, base or source, commit if known else None, folder, known)


def stage_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the adapter as it is published: peft's two files, the tokenizer, notices; replacing `folder` as a whole."""
    source = adapter.checkpoint / ADAPTER
    with atomic_dir(folder) as out:
        shutil.copyfile(source / WEIGHTS, out / WEIGHTS)
        settings = read_json(source / CONFIG) | {"base_model_name_or_path": adapter.base, "revision": adapter.revision}
        write_json(out / CONFIG, settings)
        for path in adapter.checkpoint.iterdir():
            if TOKENIZER.fullmatch(path.name) or path.name in NOTICES:
                shutil.copyfile(path, out / path.name)
        write_sums(out)


def _backbone(checkpoint: Path, source: str, revision: str | None) -> tuple[Path, str | None]:
    """Where this machine has the backbone, and which commit of the Hub's it is, if it is."""
    from cse.encoder.backbone import locate

    try:
        folder = Path(locate(source)) if _local(source) else snapshot(source, revision=revision, cached=True)
    except UserError:
        what = f"has the backbone {source}, which is not on this machine any more, so nothing can be verified"
        raise _refusal(checkpoint, what) from None
    return folder, folder.name if COMMIT.fullmatch(folder.name) else None


def _local(source: str) -> bool:
    return source.startswith("asset:") or Path(source).is_dir()


def _check_id(base: str | None) -> None:
    if base is not None and not is_repo_id(base):
        raise UserError(f"--base {base} is not the id of a model on the Hub\nfix: give its id there, owner/name")


def _refusal(checkpoint: Path, what: str, otherwise: str = "") -> UserError:
    return UserError(
        f"--adapter: checkpoint {checkpoint} {what}\n"
        f"fix: push without --adapter: the merged model loads anywhere{otherwise}"
    )
