"""Exports a checkpoint as one ONNX graph, from token ids to vectors, that runs without torch and transformers.

    model.onnx       input_ids, attention_mask (n, L) int64 -> embedding (n, D) float32
    tokenizer.json   with truncation and padding set, so that `tokenizers` alone makes the inputs
    export.json      dimension, longest text, lower-casing and other facts

The graph includes pooling, and the head, whitening and scaling to unit length if the checkpoint has them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cse.encoder.fast.batching import token_budget_batches
from cse.encoder.model import Encoder
from cse.encoder.poolers import NEEDS_ALL_LAYERS
from cse.encoder.prompts import choose_prompt
from cse.encoder.template import around
from cse.encoder.texts import Windows, as_read
from cse.encoder.texts import pad as pad_rows
from cse.encoder.vectors import check_widths
from cse.errors import UserError, require_package
from cse.files import atomic_dir, check_writable, read_json, write_json

if TYPE_CHECKING:
    from cse.encoder.poolers import PoolerName

MODEL, TOKENIZER, ABOUT = "model.onnx", "tokenizer.json", "export.json"
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "embedding"
COSINE = 0.9999  # smallest cosine allowed between the vectors of a float32 graph and of torch
MOST_IN_ONE_FILE = 1.8e9  # bytes of weights; an ONNX file is limited to 2 GB, so larger models use a second file
BATCHES = (1, 3, 64)
SENTENCES = (
    "Rain is expected by noon.",
    "The museum has moved its oldest maps into a room without windows.",
    "She asked whether the last train had left, and nobody on the platform could say.",
    "No!",
    "A",
    "Two of the three engines failed within a minute of each other; the crew landed on the third.",
    "Der Zug fährt heute nicht.",
    "三月的天气很难预料。",
    "prices rose 3.5 % in 2019, to $1,204.99",
    "He put the kettle on.   Then he forgot it.",
    "The children built a raft of doors and rope, and it floated for most of an afternoon.",
    "",
    "Water boils at a lower temperature on a mountain, so that eggs take longer there. " * 60,
)


class OnnxEncoder:
    """Encodes texts with a folder that `export` wrote, without the model in torch and without transformers.

    It runs on as many threads as torch uses.

    Raises:
        UserError: The folder is not an export, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        ort = require_package("onnxruntime", extra="onnx", user="cse export")
        from tokenizers import Tokenizer

        missing = [name for name in (MODEL, TOKENIZER, ABOUT) if not (self.folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} is not an export: it lacks {', '.join(missing)}\nfix: cse export CHECKPOINT --out {folder}"
            )
        self.about: dict[str, Any] = read_json(self.folder / ABOUT)
        self.max_length, self.dim = int(self.about["max_length"]), int(self.about["dim"])
        self.prompts: dict[str, str] = self.about.get("prompts", {})  # exports of older versions do not state them
        self.default_prompt_name: str | None = self.about.get("default_prompt_name")
        self.similarity: str | None = self.about.get("similarity_fn_name")
        self.tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        self.tokenizer.no_padding()  # batches are formed by length first
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(self.folder / MODEL), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # every status of onnxruntime has its own class, without a common base
            raise UserError(f"{self.folder / MODEL} cannot be loaded: {_line(error)}\nfix: export it again") from error

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        max_tokens: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        windows: int | None = None,
    ) -> NDArray[np.float32]:
        """The vectors (n, D) of texts, in their order; the arguments are those of `Encoder.encode`."""
        before = choose_prompt(self.prompts, self.default_prompt_name, prompt_name, prompt)
        clean = as_read(texts, before, lower_case=self.about["do_lower_case"])
        pad = int(self.about["pad_token_id"])
        whole = self.tokenizer if windows is None else self._untruncated()
        ids = [encoding.ids or [pad] for encoding in whole.encode_batch(clean)]
        pieces = None
        if windows is not None:
            asked = whole.encode(before.strip(), add_special_tokens=False).ids if before else []
            pieces = Windows.cut(ids, windows, added=_added(whole), prompt=asked, max_length=self.max_length)
            ids = pieces.rows
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        for part in token_budget_batches([len(i) for i in ids], max_tokens, batch_size):
            out[part] = self.run([ids[i] for i in part])
        return out if pieces is None else pieces.mean(out, scaled=bool(self.about.get("unit_length")))

    def _untruncated(self) -> Any:
        """The tokenizer without truncation."""
        whole = type(self.tokenizer).from_str(self.tokenizer.to_str())
        whole.no_truncation()
        return whole

    def run(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The vectors (n, D) of rows of token ids, as one batch; the rows may have unequal lengths."""
        padded = (part.numpy() for part in pad_rows(rows, int(self.about["pad_token_id"])))
        vectors: NDArray[np.float32] = self.session.run([OUTPUT], dict(zip(INPUTS, padded, strict=True)))[0]
        return vectors


def export(
    checkpoint: str | Encoder,
    out: Path,
    *,
    quantize: Literal["int8"] | None = None,
    dimensions: int | None = None,
    pooler: PoolerName | None = None,
) -> dict[str, Any]:
    """Write an encoder as an ONNX graph after checking that onnxruntime gives its vectors.

    Args:
        checkpoint: A folder, `asset:NAME` or Hub id, or an encoder; the encoder is float32 and truncated from here on.
        out: The folder to write: a new one, or an export to replace.
        quantize: Weights of 8 bits: a quarter of the size, but the vectors change. The scale of the activations is
            computed at run time for the whole batch, so a vector depends a little on its batch.
        dimensions: Keep the first N dimensions of every vector.
        pooler: See `Encoder`.

    Returns:
        The content of export.json. `cosine` is the smallest cosine between the vectors of the float32 graph and of
        torch over `SENTENCES`, in batches of several sizes; `cosine_int8` has the mean and the smallest for int8.

    Raises:
        UserError: `out` exists and is not an export, a package is missing, or the graph cannot be made or gives other
            vectors.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require_package(name, extra="onnx", user="cse export")
    check_writable(out, kind="folder")
    if out.exists() and not (out / ABOUT).is_file() and any(out.iterdir()):
        raise UserError(f"--out {out} exists and is not an export\nfix: give a new folder")
    encoder = checkpoint if isinstance(checkpoint, Encoder) else Encoder.load(checkpoint, pooler=pooler)
    if dimensions is not None:
        check_widths([dimensions], encoder.dim, option="--dimensions")
        encoder.truncate(dimensions)
    encoder.float()  # onnxruntime has no bfloat16 on CPUs
    want = encoder.encode(SENTENCES)  # (n, D)
    with atomic_dir(out) as folder:
        about = _write(encoder, folder)
        whole = OnnxEncoder(folder)
        about["cosine"] = min(_check(whole.encode(SENTENCES, batch_size=n), want) for n in BATCHES)
        if quantize:
            _quantize(folder / MODEL)
            small = OnnxEncoder(folder)
            near = np.concatenate([_cosines(small.encode(SENTENCES, batch_size=n), want) for n in BATCHES])
            about |= {"weights": quantize, "cosine_int8": {"mean": float(near.mean()), "min": float(near.min())}}
        write_json(folder / ABOUT, about)
    return about


class Graph(nn.Module):
    """The module that is traced: an encoder from ids to vectors, without its division into sub-batches."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, L), (n, L) -> (n, D)."""
        encoder = self.encoder
        options = {"output_hidden_states": True} if encoder.pooler in NEEDS_ALL_LAYERS else {}
        output = encoder.backbone(**encoder.model_inputs(input_ids, attention_mask), **options)
        states = output.hidden_states if options else (output.last_hidden_state,)
        vectors: Tensor = encoder.post(encoder.pool(states, attention_mask))
        return vectors


def _write(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Write the graph, the tokenizer and export.json."""
    large = sum(p.numel() * p.element_size() for p in encoder.parameters()) > MOST_IN_ONE_FILE
    program = _trace(encoder)
    program.save(str(folder / MODEL), external_data=large)
    tokenizer = encoder.tokenizer
    alone = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    alone.enable_truncation(encoder.max_length, direction=tokenizer.truncation_side)
    alone.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    alone.save(str(folder / TOKENIZER))
    about = {
        "format": "onnx",
        "weights": "float32",
        "dim": encoder.dim,
        "max_length": encoder.max_length,
        "longer_texts": "cut; cse.inference.export.OnnxEncoder.encode(texts, windows=STEP) reads windows instead",
        "unit_length": encoder.post.scales,
        "do_lower_case": encoder.lower_case,
        "pad_token_id": tokenizer.pad_token_id,
        "similarity_fn_name": encoder.similarity,
        "prompts": encoder.prompts,
        "default_prompt_name": encoder.default_prompt_name,
    }
    write_json(folder / ABOUT, about)
    return about


def _trace(encoder: Encoder) -> Any:
    """The graph as torch's ONNXProgram, for any number of rows and tokens."""
    example = tuple(part.to(encoder.device) for part in encoder.pad(encoder.tokenize(SENTENCES[:3])))
    shape = {0: torch.export.Dim("n"), 1: torch.export.Dim("L")}
    training = encoder.training
    encoder.eval()
    try:
        with _silence(), torch.no_grad():
            program: Any = torch.onnx.export(
                Graph(encoder),
                example,
                input_names=INPUTS,
                dynamic_shapes=dict.fromkeys(INPUTS, shape),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # an architecture can raise anything under a tracer
        raise _refusal(encoder, _line(error)) from error
    finally:
        encoder.train(training)
    graph = program.model.graph
    if any(isinstance(size, int) for value in graph.inputs for size in value.shape):
        raise _refusal(encoder, "its code fixes the number of rows or tokens")
    for value in (value for node in graph for value in node.outputs if value.name == OUTPUT):
        value.name = f"token_{OUTPUT}"  # names must be unique
    graph.outputs[0].name = OUTPUT
    return program


def _refusal(encoder: Encoder, reason: str) -> UserError:
    kind = f"{type(encoder).__name__} ({encoder.backbone.config.model_type})"
    return UserError(
        f"{encoder.source}: this {kind} cannot be exported to ONNX: {reason}\nfix: use the checkpoint itself"
    )


def _check(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """The smallest cosine between rows; directions and lengths must agree."""
    cosine = float(_cosines(got, want).min())
    apart = float((np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1).clip(1e-12)).max())
    if not (cosine >= COSINE and apart <= np.sqrt(2 - 2 * COSINE)):
        raise UserError(
            f"the vectors of the graph differ from those of the checkpoint: cosine {cosine:.6f}, {apart:.1%} apart\n"
            "nothing was written\n"
            "fix: use the checkpoint itself, and report the architecture and your versions of torch and onnxruntime"
        )
    return cosine


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cosines (n,) of the rows of two arrays (n, D); 1 if both are 0, as of static vectors of an empty text."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float32] = (a * b).sum(1) / lengths.clip(1e-12)
    cosines[~(a.any(1) | b.any(1))] = 1
    return cosines


def _quantize(model: Path) -> None:
    """Replace a float32 graph by an int8 graph, with one scale for each output channel of a weight."""
    tool = require_package("onnxruntime.quantization", extra="onnx", user="cse export --quantize")
    onnx = require_package("onnx", extra="onnx", user="cse export --quantize")
    small, graph = model.with_name("int8.onnx"), onnx.load(model, load_external_data=False)
    graph.graph.ClearField("value_info")  # onnxruntime 1.23, the last for Python 3.10, infers other shapes and stops
    onnx.save(graph, model)
    with _silence():
        tool.quantize_dynamic(model, small, weight_type=tool.QuantType.QInt8, per_channel=True)
    for old in model.parent.glob(f"{MODEL}*"):
        old.unlink()
    small.rename(model)


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the warnings of the exporters, which are meant for their developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _added(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after every text; see `cse.encoder.template.added_ids`."""

    def read(text: str) -> tuple[list[int], list[int]]:
        found = tokenizer.encode(text)
        return found.ids, found.special_tokens_mask

    return around(read, tokenizer.get_vocab)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
