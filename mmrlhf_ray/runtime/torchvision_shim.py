"""Let the registry's CUDA builds of torchvision, torchaudio and torchcodec live alongside a CPU build of torch.

vLLM and transformers import all three, and the native libraries of these builds cannot be loaded without CUDA.
torchvision then fails because two operators that it describes (`nms`, `qnms`) were never defined: defining their
schemas first is enough. torchaudio and torchcodec let the loader's OSError through, which their importers do not
expect: torchaudio is made to see no extension and runs its Python parts, torchcodec fails with ImportError,
as if it were not installed. We use none of their native parts. Alongside a CUDA build of torch, or where a matching
build is installed, nothing is changed.

Every interpreter must be reached, also those that vLLM starts. `mmrlhf doctor --fix` therefore puts a copy of
this file into site-packages together with a `.pth` line that calls `enable()`. It is a copy, because a line that
imported `mmrlhf_ray` would pin the installed package before a Ray job can put its own working directory first.
This file must stay free of imports that cost time.
"""

import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

MODULE = "_mmrlhf_ray_shim"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A torch Library takes its operators with it when it is collected.
_keep: list[object] = []


def _torch_is_cpu() -> bool:
    import torch

    return torch.version.cuda is None


def _before_torchvision(module: "ModuleType") -> None:
    from torchvision.extension import _has_ops

    if _has_ops() or not _torch_is_cpu():
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _keep.append(library)


def _after_torchaudio(module: "ModuleType") -> None:
    if not _torch_is_cpu():
        return
    load = module._load_lib

    def load_or_none(lib: str) -> bool:
        try:
            return load(lib)
        except OSError:
            return False

    module._load_lib = load_or_none  # type: ignore[attr-defined]


def _after_torchcodec(module: "ModuleType") -> None:
    if not _torch_is_cpu():
        return
    load = module.load_image_library

    def load_or_import_error() -> None:
        try:
            load()
        except OSError as error:
            raise ImportError(f"torchcodec is a CUDA build and torch a CPU build: {error}") from error

    module.load_image_library = load_or_import_error  # type: ignore[attr-defined]


_BEFORE: "dict[str, Callable[[ModuleType], None]]" = {"torchvision._meta_registrations": _before_torchvision}
_AFTER: "dict[str, Callable[[ModuleType], None]]" = {
    "torchaudio._extension.utils": _after_torchaudio,
    "torchcodec._internally_replaced_utils": _after_torchcodec,
}


class _Loader:
    """Runs a module as its own loader does, with one of ours before or after."""

    def __init__(self, name: str, inner: object) -> None:
        self._name = name
        self._inner = inner

    def __getattr__(self, attribute: str) -> object:
        return getattr(self._inner, attribute)

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return self._inner.create_module(spec)  # type: ignore[attr-defined]

    def exec_module(self, module: "ModuleType") -> None:
        if self._name in _BEFORE:
            _BEFORE[self._name](module)
        self._inner.exec_module(module)  # type: ignore[attr-defined]
        if self._name in _AFTER:
            _AFTER[self._name](module)


class _Finder:
    """A meta-path finder for the modules above; every other import passes by."""

    mmrlhf_ray_shim = True

    @staticmethod
    def find_spec(name: str, path: "Sequence[str] | None", target: "ModuleType | None" = None) -> "ModuleSpec | None":
        if name not in _BEFORE and name not in _AFTER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(name, spec.loader)  # type: ignore[assignment]
        return spec


def enabled() -> bool:
    """Is a copy of this shim at work in this interpreter?"""
    return any(getattr(finder, "mmrlhf_ray_shim", False) for finder in sys.meta_path)


def enable() -> None:
    """Wait for those modules in this interpreter. Imports none of them, nor torch."""
    if not enabled():
        sys.meta_path.insert(0, _Finder)


def files() -> dict[str, str]:
    """The files for site-packages: file name to content."""
    with open(__file__, encoding="utf-8") as source:
        return {f"{MODULE}.py": source.read(), f"{MODULE}.pth": f"import {MODULE}; {MODULE}.enable()\n"}
