"""Names a CUDA device in a CPU build of torch, so that tensors can say `cuda:0`. It is loaded before torch.

torch asks its libraries once which accelerator exists, and refuses tensors of a device without a guard. Two small
libraries answer for CUDA: one is loaded before torch's own, whose answer it replaces, the other after.
"""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ACCELERATOR = """
#include <c10/core/DeviceType.h>
#include <optional>
namespace at::accelerator {
__attribute__((visibility("default")))
std::optional<c10::DeviceType> getAccelerator(bool) { return c10::DeviceType::CUDA; }
}
"""
GUARD = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace at {
struct CUDAHooks : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}
namespace {
using namespace c10;
struct Guard final : impl::DeviceGuardImplInterface {
  static Device only() { return Device(DeviceType::CUDA, 0); }
  static Stream one() { return Stream(Stream::DEFAULT, only()); }
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return only(); }
  Device getDevice() const override { return only(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return one(); }
  Stream getNewStream(Device, int) const override { return one(); }
  Stream exchangeStream(Stream) const override { return one(); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};
Guard guard;
impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, &guard);
}
"""


def missing() -> str:
    """Why this machine cannot rehearse a CUDA device; empty if it can."""
    spec = importlib.util.find_spec("torch")
    if sys.platform != "linux":
        return "the device guard is a library for Linux"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    if spec is None or spec.origin is None or (Path(spec.origin).parent / "lib" / "libtorch_cuda.so").exists():
        return "torch is built for CUDA, whose own guard would answer"
    return ""


def load() -> None:
    """Compile the two libraries, once for a version of torch, and load them with torch's own in between."""
    assert "torch" not in sys.modules, "load the guard before torch"
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    ctypes.CDLL(_compiled(ACCELERATOR, root), ctypes.RTLD_GLOBAL)
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(root / "lib" / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(_compiled(GUARD, root, "-lc10", "-ltorch_cpu"), ctypes.RTLD_GLOBAL)


def _compiled(code: str, root: Path, *libraries: str) -> str:
    """The path of a library, which stays in the folder for temporary files."""
    digest = hashlib.sha256((code + importlib.metadata.version("torch")).encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"cse-rehearsal-{os.getuid()}-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            source, made = Path(folder, "guard.cpp"), Path(folder, "guard.so")
            source.write_text(code)
            options = ["-O1", "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", f"-L{root / 'lib'}"]
            subprocess.run(["g++", *options, str(source), "-o", str(made), *libraries], check=True)
            os.replace(made, library)
    return str(library)
