"""A network in ONNX Runtime: the only way in which patchbank runs one."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.arrays import FloatArray
from patchbank.backbones.base import BackboneInfo
from patchbank.backbones.onnx_safety import read_model
from patchbank.config import Runtime
from patchbank.errors import BackboneError

# device -> (execution provider, how to install an ONNX Runtime that has it)
DEVICES = {
    "cpu": ("CPUExecutionProvider", "pip install onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    "tensorrt": (
        "TensorrtExecutionProvider",
        "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt",
    ),
    "openvino": ("OpenVINOExecutionProvider", "pip uninstall onnxruntime && pip install onnxruntime-openvino"),
    "coreml": ("CoreMLExecutionProvider", "pip install onnxruntime (on macOS)"),
    "directml": ("DmlExecutionProvider", "pip uninstall onnxruntime && pip install onnxruntime-directml (on Windows)"),
}
MAX_ONNX_BYTES = 2 << 30  # more does not fit into one file of this format
CPU, CUDA, TENSORRT = (DEVICES[device][0] for device in ("cpu", "cuda", "tensorrt"))
# CUDA's TF32 keeps 10 bits of each factor: scores would differ from the CPU's, which thresholds may come from. A search
# for the fastest convolution, the default, is repeated for each size of image.
_OPTIONS = {CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}}


class OnnxBackbone:
    """A Backbone over ONNX Runtime.

    onnx: an ONNX file's bytes; they may be untrusted (other files, and a graph that is not as `info` says, are
    refused; what it may cost is not looked at: `onnx_safety.check_plain`). Raises BackboneError. Thread-safe: several
    threads may call `features` of one object.
    """

    def __init__(self, onnx: bytes, info: BackboneInfo, runtime: Runtime | None = None) -> None:
        runtime = runtime or Runtime()
        self._onnx = onnx
        self._info = info
        self._runtime = runtime
        self._sessions = {os.getpid(): make_session(onnx, runtime)}
        self._renewing = threading.Lock()
        session = self._session
        self._provider: str = session.get_providers()[0]
        with names_as_text():
            check_input(session)
            _check_outputs(session, info)
        entry = session.get_inputs()[0]
        self._input: str = entry.name
        self._size = tuple(entry.shape[2:])  # numbers where the graph fixes them
        self._one_by_one = self._provider == CPU or isinstance(entry.shape[0], int)
        self._outputs = [layer.name for layer in info.layers]
        # Not every provider runs one session from several threads (DirectML does not), and a GPU gains nothing by it.
        self._turn: AbstractContextManager[Any] = nullcontext() if self._provider == CPU else threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxBackbone, (self._onnx, self._info, self._runtime)  # a session cannot be copied: it is made again

    @property
    def info(self) -> BackboneInfo:
        """The network's name, layers, input statistics, licence."""
        return self._info

    @property
    def provider(self) -> str:
        """The execution provider in use, by ONNX Runtime's name."""
        return self._provider

    def features(self, images: FloatArray) -> tuple[FloatArray, ...]:
        """images: (B, 3, H, W) float32, normalised. Returns one (B, C_l, H_l, W_l) float32 array a layer of `info`.

        On a CPU the images run one by one: a batch is not faster there, and so an image's features are the same bits
        whatever it is batched with.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.float32 or 0 in images.shape:
            raise BackboneError(
                f"expected a non-empty float32 array of shape (B, 3, H, W), got {images.dtype} of shape {images.shape}"
            )
        self._check_size(images.shape[2:])
        if not self._one_by_one or len(images) == 1:
            return self._run(images)
        maps = [self._run(images[i : i + 1]) for i in range(len(images))]
        return tuple(np.concatenate(layer) for layer in zip(*maps, strict=True))  # B x (1, C, H, W) -> (B, C, H, W)

    @property
    def runtime(self) -> Runtime:
        """Returns where and how it runs."""
        return self._runtime

    @property
    def _session(self) -> Any:
        """This process' session. A forked child has none of its parent's threads, so that the parent's session, which
        waits for them, is of no use there: it gets a session of its own when it first needs one."""
        process = os.getpid()
        session = self._sessions.get(process)
        if session is None:
            with self._renewing:
                session = self._sessions.get(process)
                if session is None:
                    session = self._sessions[process] = make_session(self._onnx, self._runtime)
        return session

    def to_onnx(self) -> bytes:
        """The graph as an ONNX file's bytes."""
        return self._onnx

    def _check_size(self, size: tuple[int, ...]) -> None:
        if any(isinstance(side, int) and side != got for side, got in zip(self._size, size, strict=True)):
            expected = "x".join(str(side) for side in self._size)
            raise BackboneError(
                f"backbone {self._info.name} takes only images of {expected} pixels (height x width), "
                f"got {size[0]}x{size[1]}; set image_size"
            )

    def _run(self, images: FloatArray) -> tuple[FloatArray, ...]:
        try:
            with self._turn:
                maps = self._session.run(self._outputs, {self._input: np.ascontiguousarray(images)})
        except Exception as error:
            height, width = images.shape[2:]
            raise BackboneError(
                f"backbone {self._info.name} failed on images of {height}x{width} pixels: {_first_line(error)}"
            ) from error
        for layer, values in zip(self._info.layers, maps, strict=True):
            expected = (len(images), layer.channels)
            if values.ndim != 4 or values.shape[:2] != expected or 0 in values.shape or values.dtype != np.float32:
                raise BackboneError(
                    f"layer {layer.name}: expected float32 maps of shape ({len(images)}, {layer.channels}, H, W), "
                    f"got {values.dtype} of shape {values.shape}"
                )
        return tuple(maps)


def import_onnxruntime() -> Any:
    """The package, with its telemetry off: since version 1.29 it writes a device id and a data base of events into the
    user's cache, and looks its vendor's host up. Whoever sets the variable himself decides. Nothing of patchbank
    imports it in another way."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def make_session(onnx: bytes, runtime: Runtime) -> Any:
    """An onnxruntime.InferenceSession on the wanted device, or a BackboneError; never silently another device."""
    onnxruntime = import_onnxruntime()
    read_model(onnx)
    provider = _provider(runtime.device, onnxruntime.get_available_providers())
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = runtime.threads or available_cpus()
    settings.inter_op_num_threads = 1
    # Spinning threads win under a millisecond a run on an idle machine, and lose twice the run's time where decoding or
    # a matrix product wants the same cores (docs/adr/0002).
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 4  # what is wrong comes as an exception
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    # Should ONNX Runtime see external data where our scan sees none: it looks for it in this folder only, and nothing
    # can be below a file.
    nowhere = str(Path(__file__, "none"))
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", nowhere)
    fallback = [] if provider == CPU else [CPU]  # for operators that the device lacks
    if provider in (CUDA, TENSORRT):
        _load_cuda(onnxruntime)
    try:
        providers = [(provider, _OPTIONS[provider]) if provider in _OPTIONS else provider, *fallback]
        session = onnxruntime.InferenceSession(onnx, settings, providers=providers)
        session.disable_fallback()
    except Exception as error:
        raise BackboneError(f"ONNX Runtime cannot load the network: {_first_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise BackboneError(
            f"device {runtime.device!r}: {provider} is installed but does not start here; "
            "check its driver and libraries, or use device 'cpu'"
        )
    _sessions.add(session)
    return session


_sessions: weakref.WeakSet[Any] = weakref.WeakSet()  # of this process, and of the one that it was forked from


def _keep_sessions() -> None:
    """In a forked child: ends no session of the parent, ever. A session's end waits for its threads, which the child
    does not have: it would hang, or crash (ONNX Runtime does not support fork)."""
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)


def _load_cuda(onnxruntime: Any) -> None:
    """Loads the CUDA libraries that pip installed, which the system's loader does not find by itself."""
    if hasattr(onnxruntime, "preload_dlls"):  # it prints what is missing; a session that does not start is our error
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def available_cpus() -> int:
    """Returns how many processors this process may use (less than the machine has, under taskset or in a container)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@contextlib.contextmanager
def names_as_text() -> Iterator[None]:
    """Holds the names that a session gives its inputs and outputs to UTF-8; the runtime hands them on as they are.
    Raises BackboneError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BackboneError("damaged ONNX file: expected names in UTF-8") from error


def check_input(session: Any) -> None:
    """BackboneError unless the network takes one float32 image batch (B, 3, H, W)."""
    inputs = session.get_inputs()
    described = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
    shape = inputs[0].shape if inputs else []
    is_image = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(shape) == 4
    if not is_image or (isinstance(shape[1], int) and shape[1] != 3):
        raise BackboneError(f"expected a network with one float32 input (batch, 3, height, width), got {described}")


def _check_outputs(session: Any, info: BackboneInfo) -> None:
    outputs = {output.name: output for output in session.get_outputs()}
    for layer in info.layers:
        output = outputs.get(layer.name)
        if output is None:
            raise BackboneError(
                f"backbone {info.name}: expected an output {layer.name!r}, the graph has {', '.join(outputs)}"
            )
        channels = output.shape[1] if len(output.shape) == 4 else None
        if output.type != "tensor(float)" or (isinstance(channels, int) and channels != layer.channels):
            raise BackboneError(
                f"backbone {info.name}: expected output {layer.name!r} to be float32 (batch, {layer.channels}, H, W), "
                f"got {output.type} {output.shape}"
            )


def _provider(device: str, available: list[str]) -> str:
    provider, install = DEVICES.get(device.lower(), (device, ""))
    available = [name for name in available if name != "AzureExecutionProvider"]  # calls a service: runs no network
    if provider in available:
        return provider
    names = {p: d for d, (p, _) in DEVICES.items()}
    there = ", ".join(names.get(p, p) for p in available)
    if not install and not device.endswith("ExecutionProvider"):
        raise BackboneError(
            f"unknown device {device!r}: expected one of {', '.join(DEVICES)} or an ONNX Runtime execution provider; "
            f"available here: {there}"
        )
    advice = f"; to install it: {install}" if install else ""
    raise BackboneError(f"device {device!r} ({provider}) is not available; available here: {there}{advice}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def read_onnx(path: str | Path) -> bytes:
    """An ONNX file's bytes; BackboneError where it cannot be read."""
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_ONNX_BYTES:
            raise BackboneError(f"{path}: expected an ONNX file of at most {MAX_ONNX_BYTES >> 30} GiB")
        with Path(path).open("rb") as file:
            if not file.peek(1)[:1].strip(b"\0"):  # no ONNX file begins so; before gigabytes of nothing are read
                raise BackboneError(f"{path}: expected an ONNX file; got zeros, or nothing")
            return file.read()
    except OSError as error:
        raise BackboneError(f"cannot read the ONNX file {path}: {error.strerror}") from error
