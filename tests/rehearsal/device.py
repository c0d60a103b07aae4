"""A CUDA device that computes on the CPU, refuses what CUDA refuses, and counts what the host waits for.

A tensor says `device="cuda:0"` and holds a CPU tensor, so that numbers are real and every branch on
`device.type == "cuda"` runs. Import `tests.rehearsal.guard` and call `load()` before torch is imported.

It cannot see kernels (fused attention is its formula here), streams, memory, speed, compilation or several GPUs.
"""

import collections
import contextlib
import functools
import sys
import threading
from pathlib import Path

import torch
import torch.utils.data._utils.pin_memory as loading
import yaml
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CUDA = torch.device("cuda", 0)
# Operations after which the host waits for the device, since the shape of their result depends on values.
WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
    *("equal", "is_nonzero", "bincount", "multinomial", "histc"),
    *("_linalg_eigh", "_linalg_svd", "linalg_qr", "_linalg_det", "geqrf"),
}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "dot", "mv", "addmv", "_addmm_activation", "linear"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
ANY_DEVICE = {"copy_", "_to_copy", "set_", "is_same_size", "_has_compatible_shallow_copy_type", "resize_as_"}
STRICT = {"cat", "stack", "_foreach_norm"}  # refuse even a single number of the host, whatever their declaration says
TWO_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu"


class DeviceError(RuntimeError):
    """What CUDA would refuse."""


class Counter:
    """Counts of (kind, place) in the phases of a run; one for the process, as the backward pass has its own thread."""

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.phase = "setup"
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def within(self, phase):
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def add(self, kind: str, operation: str) -> None:
        """Count an event at the innermost line of the package, or of a library if none is on the stack."""
        with self.lock:
            self.counts[self.phase, kind, f"{_place()} {operation}"] += 1


def _place() -> str:
    frame, library = sys._getframe(2), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if "/cse/" in name and "site-packages" not in name:
            return f"cse/{name.rpartition('/cse/')[2]}:{frame.f_lineno}"
        outside = "site-packages" in name and "/torch/" not in name
        library = library or (f"{name.rpartition('site-packages/')[2]}:{frame.f_lineno}" if outside else "")
        frame = frame.f_back
    return library or "backward"


EVENTS = Counter()


@functools.cache
def unchecked() -> frozenset[str]:
    """The operations that take single numbers of another device, by torch's own declaration."""
    import torchgen

    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    names = {entry["func"].split("(")[0]: entry for entry in entries}
    free = {name for name, entry in names.items() if entry.get("device_check") == "NoCheck"}
    return frozenset(free | {name for name, entry in names.items() if entry.get("structured_delegate") in free})


class CudaTensor(torch.Tensor):
    """A tensor on `cuda:0`, whose numbers are in `inner`, on the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "layout": inner.layout}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=CUDA, **layout)
        made.inner = inner
        return made

    def __init__(self, inner):
        pass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __repr__(self, **_):
        return f"cuda({self.inner!r})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            made = CudaTensor(self.inner.detach().clone())
            if getattr(self, "_is_param", False):
                made = torch.nn.Parameter(made, self.requires_grad)
            memo[id(self)] = made.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):  # a file of torch.save holds a plain tensor
        return self.inner.detach().clone().__reduce_ex__(protocol)

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner


def on_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def tensors_in(values):
    """The tensors among the arguments of an operation, which are at most lists of tensors."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def compute(func, args, kwargs):
    """Compute an operation on the CPU, and answer as the device would."""
    name, kwargs = func._schema.name.split("::")[1], dict(kwargs)
    tensors = [*tensors_in(args), *tensors_in(kwargs.values())]
    device = [t for t in tensors if isinstance(t, CudaTensor)]
    host = [t for t in tensors if not isinstance(t, CudaTensor)]
    asked = kwargs.get("device")
    to_device = on_cuda(asked) or (asked is None and bool(device))
    if name == "is_pinned":
        return False
    if to_device or device:
        problem = refused(func, name, args, kwargs, device, host)
        if problem:
            raise DeviceError(f"{problem} ({func})")
        if what := waits(name, args, kwargs, device, to_device):
            EVENTS.add("wait", what)
        if what := copies(name, args, kwargs, to_device):
            EVENTS.add("copy", what)
        kwargs.pop("pin_memory", None)
        if on_cuda(asked):
            kwargs["device"] = torch.device("cpu")
    inner_args, inner_kwargs = tree_map(_bare, args), tree_map(_bare, kwargs)
    out = func(*inner_args, **inner_kwargs)
    if name == "_to_copy" and on_cuda(asked) and host and out is inner_args[0]:
        out = out.clone()
    return _answer(func, args, kwargs, out, to_device)


def _bare(value):
    return value.inner if isinstance(value, CudaTensor) else value


def _answer(func, args, kwargs, out, to_device):
    """The result as tensors of the device; an argument that was written is returned itself."""
    written = {}
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            written |= dict.fromkeys(argument.alias_info.after_set | argument.alias_info.before_set, value)

    def one(value, alias):
        if alias is not None and alias.is_write:
            for key in alias.after_set | alias.before_set:
                mine = written.get(key)
                if isinstance(mine, torch.Tensor):
                    if isinstance(mine, CudaTensor) and mine.shape != mine.inner.shape:
                        raise NotImplementedError(f"{func} changes the shape of a tensor in place")
                    return mine
        plain = (torch.Tensor, torch.nn.Parameter)
        return tree_map(lambda v: CudaTensor(v) if type(v) in plain else v, value) if to_device else value

    returns = func._schema.returns
    if len(returns) != 1 and isinstance(out, tuple | list) and len(out) == len(returns):
        return type(out)(one(value, r.alias_info) for value, r in zip(out, returns, strict=True))
    return one(out, returns[0].alias_info if len(returns) == 1 else None)


def refused(func, name, args, kwargs, device, host) -> str:
    """What CUDA says of an operation that it refuses; empty if it computes it."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        return "Expected a 'cuda' device type for generator but found 'cpu'"
    if name in PRODUCTS and any(not (t.is_floating_point() or t.is_complex()) for t in device):
        return f"{name} is not implemented for {device[0].dtype}"
    if not device or not host or name in ANY_DEVICE:
        return ""
    if name in INDEXING:
        if not isinstance(args[0], CudaTensor):
            return "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
        values = args[2] if name != "index" else None
        return "expected values on cuda" if isinstance(values, torch.Tensor) and values in host and values.dim() else ""
    full = name + (f".{func._overloadname}" if func._overloadname not in {"default", ""} else "")
    if full not in unchecked() or name in STRICT or any(t.dim() for t in host):
        return TWO_DEVICES
    return f"{TWO_DEVICES}; a tensor on the CPU is written" if name[-1] == "_" and args[0] is host[0] else ""


def waits(name, args, kwargs, device, to_device) -> str:
    """Why the host waits for the result of an operation; empty if it does not."""
    if name in {"_to_copy", "copy_"}:
        target, source = (None, args[0]) if name == "_to_copy" else args[:2]
        to_host = not to_device if name == "_to_copy" else not isinstance(target, CudaTensor)
        return "copy to the host" if isinstance(source, CudaTensor) and to_host else ""
    if name in INDEXING:
        masks = any(isinstance(i, torch.Tensor) and i.dtype in {torch.bool, torch.uint8} for i in args[1])
        fills = name != "index" and isinstance(args[2], torch.Tensor) and args[2].numel() == 1
        return f"{name} by a mask" if masks and not (fills and not (len(args) > 3 and args[3])) else ""
    if name == "repeat_interleave":
        counted = len(args) == 1 or isinstance(args[1], torch.Tensor)
        return "repeat_interleave without output_size" if counted and kwargs.get("output_size") is None else ""
    return name if name in WAITS and device else ""


def copies(name, args, kwargs, to_device) -> str:
    """What an operation copies to the device from memory that is not pinned, which waits, too; empty for nothing."""
    if name in INDEXING and any(isinstance(i, torch.Tensor) and not isinstance(i, CudaTensor) for i in args[1]):
        return f"{name} by an index on the host"
    if name not in {"_to_copy", "copy_"} or isinstance(args[1] if name == "copy_" else args[0], CudaTensor):
        return ""
    source = args[1] if name == "copy_" else args[0]
    arrives = to_device if name == "_to_copy" else isinstance(args[0], CudaTensor) and source.dim()
    pinned = getattr(source, "pinned", False) and (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2))
    return "copy to the device" if arrives and source.numel() and not pinned else ""


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        mine = any(isinstance(t, CudaTensor) for t in (*tensors_in(args), *tensors_in(kwargs.values())))
        return compute(func, args, kwargs) if mine or on_cuda(kwargs.get("device")) else func(*args, **kwargs)


class _Making(TorchFunctionMode):
    """Makes tensors of Python's values and the other way round, which torch does below the dispatcher."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        mine = bool(args) and isinstance(args[0], CudaTensor)
        if func in {torch.tensor, torch.as_tensor} and on_cuda(kwargs.get("device")):
            device = kwargs.pop("device")
            return args[0] if mine else func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and (mine or on_cuda(kwargs.get("device"))):
            device = kwargs.pop("device", CUDA)
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(device)
        if func in {torch.Tensor.__getitem__, torch.Tensor.__setitem__} and mine and len(args) > 1:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(i, list) for i in index):  # torch copies a list of numbers to the device
                index = tuple(torch.tensor(i).to(CUDA) if isinstance(i, list) else i for i in index)
                return func(args[0], index, *args[2:])
        if func is torch.Tensor.pin_memory and args[0].device.type == "cpu":
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if func is torch.Tensor.tolist and mine:
            EVENTS.add("wait", "tolist")
            return args[0].inner.tolist()
        if func is torch.Tensor.numpy and mine:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        return func(*args, **kwargs)


class _Event:
    """Stands for torch.cuda.Event; time does not pass between two of them."""

    def __init__(self, *_, **__):
        pass

    def record(self, *_):
        pass

    def elapsed_time(self, other):
        return 0.0

    def synchronize(self):
        EVENTS.add("wait", "Event.synchronize")

    def query(self):
        return True


ANSWERS = {  # of torch.cuda
    "is_available": True, "device_count": 1, "current_device": 0, "get_device_capability": (9, 0),
    "get_device_name": "rehearsed GPU", "memory_allocated": 0, "max_memory_allocated": 1 << 20,
    "is_bf16_supported": True, "set_device": None, "_lazy_init": None, "empty_cache": None, "is_initialized": False,
    "reset_peak_memory_stats": None, "set_sync_debug_mode": None, "mem_get_info": (80 << 30, 80 << 30),
}  # fmt: skip


@contextlib.contextmanager
def cuda():
    """The device; enter it before the package is imported."""
    with contextlib.ExitStack() as undo:

        def put(holder, name, value):
            undo.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, value)

        for name, answer in ANSWERS.items():
            put(torch.cuda, name, lambda *_, answer=answer, **__: answer)
        put(torch.cuda, "synchronize", lambda *_: EVENTS.add("wait", "torch.cuda.synchronize"))
        put(torch.cuda, "Event", _Event)
        pin = loading.pin_memory

        def pinned(data, device=None):  # in a thread of its own beside processes that load, where no mode is entered
            with _Making():
                return pin(data, device)

        put(loading, "pin_memory", pinned)
        put(torch, "inference_mode", lambda mode=True: torch.no_grad())  # a wrapped tensor cannot be one of inference
        undo.callback(torch.__future__.set_swap_module_params_on_conversion, False)
        torch.__future__.set_swap_module_params_on_conversion(True)
        undo.enter_context(_Making())
        undo.enter_context(_Dispatch())
        yield
