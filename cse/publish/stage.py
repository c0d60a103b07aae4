"""Staging: a checkpoint, or the adapter of a LoRA run alone, is written as a complete folder that can be published."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cse.assets.hub import is_repo_id, snapshot
from cse.encoder.checkpoint.layout import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, require_checkpoint
from cse.encoder.checkpoint.sums import NOTICES, check_sums, write_sums
from cse.errors import UserError
from cse.files import atomic_dir, read_json, write_json

TOKENIZER = re.compile(r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt")
COMMIT = re.compile(r"[0-9a-f]{40}")


def stage(checkpoint: Path, folder: Path, dimensions: int | None = None) -> None:
    """Write the checkpoint as it is published, replacing `folder`: with its backbone, and without training state.

    Every pooler, Dense, whitening, merged LoRA and template (kept in the tokenizer) loads with the modules of
    sentence-transformers. Soft prompts need code, so the file of their module is written too. The ranges of the
    dimensions, which quantized vectors need, are copied if they are those of the published vectors. With `dimensions`,
    only the first ones are kept; see `Encoder.truncate`.
    """
    from cse.encoder.model import Encoder
    from cse.encoder.vectors import check_widths
    from cse.inference.quantize import FILE, Calibration

    require_checkpoint(checkpoint)
    check_sums(checkpoint)
    encoder = Encoder.load(str(checkpoint))
    if dimensions is not None:
        check_widths([dimensions], encoder.dim, option="--dimensions")
        encoder.truncate(dimensions)
    encoder.save(folder, whole=True, with_code=True)
    if (checkpoint / FILE).is_file() and len(Calibration.read(checkpoint / FILE).low) == encoder.dim:
        shutil.copyfile(checkpoint / FILE, folder / FILE)


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter of a run's checkpoint, which other people can load on the backbone `base` of the Hub."""

    checkpoint: Path
    base: str
    revision: str | None  # the backbone's commit on the Hub; None if it is unknown
    folder: Path  # the backbone's folder on this machine
    # whether `folder` was fetched from `base`; False if the user only states that `base` has the same weights
    known: bool


def find_adapter(checkpoint: Path, base: str | None) -> Adapter:
    """The adapter of a LoRA run's checkpoint, if other people can load it on a backbone from the Hub.

    `base` is the Hub id of the backbone, if the run took the backbone from elsewhere.
    """
    from transformers import AutoConfig

    layout = require_checkpoint(checkpoint)
    if not layout.adapter:
        raise _refusal(
            checkpoint, f"has no {ADAPTER}/: it was trained without LoRA, or its LoRA was merged and discarded"
        )
    check_sums(checkpoint)
    if dense := [module.path for module in layout.post if module.dense is not None]:
        raise _refusal(checkpoint, f"has the Dense layer {dense[0]} after pooling, which a LoRA adapter cannot hold")
    if layout.bidirectional:
        raise _refusal(checkpoint, "has bidirectional attention, and a LoRA adapter leaves its backbone causal")
    settings = read_json(checkpoint / ADAPTER / ADAPTER_CONFIG)
    source = str(settings["base_model_name_or_path"])
    folder, commit = _backbone(checkpoint, source, settings.get("revision"))
    kept, whole = (AutoConfig.from_pretrained(path).num_hidden_layers for path in (checkpoint, folder))
    if kept != whole:
        raise _refusal(
            checkpoint, f"has only {kept} of the {whole} layers of {source}, and users would load all {whole}"
        )
    known = base in {None, source} and not _local(source)
    if base is None and not known:
        what = f"has the backbone {source}, which other people do not have"
        raise _refusal(checkpoint, what, ", or give the Hub id of the same weights with --base ID")
    if base is not None and not is_repo_id(base):
        raise UserError(f"--base {base} is not the id of a model on the Hub\nfix: give an id of the form owner/name")
    return Adapter(checkpoint, base or source, commit if known else None, folder, known)


def stage_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the adapter to publish, replacing `folder`: the two files of peft, the tokenizer and the notices."""
    source = adapter.checkpoint / ADAPTER
    with atomic_dir(folder) as out:
        shutil.copyfile(source / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
        named = {"base_model_name_or_path": adapter.base, "revision": adapter.revision}
        write_json(out / ADAPTER_CONFIG, read_json(source / ADAPTER_CONFIG) | named)
        for path in adapter.checkpoint.iterdir():
            if TOKENIZER.fullmatch(path.name) or path.name in NOTICES:
                shutil.copyfile(path, out / path.name)
        write_sums(out)


def _backbone(checkpoint: Path, source: str, revision: str | None) -> tuple[Path, str | None]:
    """The backbone's folder on this machine, and its commit on the Hub; None if it does not come from the Hub."""
    from cse.encoder.checkpoint.source import locate

    try:
        folder = Path(locate(source)) if _local(source) else snapshot(source, revision=revision, cached=True)
    except UserError:
        what = f"has the backbone {source}, which is no longer on this machine, so the adapter cannot be verified"
        raise _refusal(checkpoint, what) from None
    return folder, folder.name if COMMIT.fullmatch(folder.name) else None


def _local(source: str) -> bool:
    return source.startswith("asset:") or Path(source).is_dir()


def _refusal(checkpoint: Path, what: str, otherwise: str = "") -> UserError:
    return UserError(
        f"--adapter: checkpoint {checkpoint} {what}\n"
        f"fix: push without --adapter, since the merged model loads without its backbone{otherwise}"
    )
