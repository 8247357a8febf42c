"""How a worker of vLLM takes a push into its model, whatever brought it; and what it proves of that."""

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor
from vllm.config import ModelConfig
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from mmrlhf_ray.errors import RoleFailed, RunError
from mmrlhf_ray.weights.buckets import checksum
from mmrlhf_ray.weights.layout import combine

REFUSED = "weight push: "
"""Starts the message of every RunError here."""
ABANDONED = "weight push: broken off"
"""Starts the message with which a session ends that is not finished."""
WORKER_EXTENSION = f"{__name__}.ReceivedWeights"
_WHY = 200  # characters of vLLM's own message, which may list every parameter

Report = tuple[str, str, list[str], list[str]]
"""A worker's word on a session: the class of its model, the checksum of what came, the names that came, and those of
them that it has no place for, with their shapes. Lists and texts alone, since it passes between processes."""
_Form = tuple[str, torch.dtype, torch.Size]


class Loading:
    """Loads tensors in checkpoint format through vLLM's layer-wise reload, one session after the other.

    A tensor that comes for the first time is loaded by itself, so that one without a place is known by its name; so are
    the experts of a layer, all together, since they are many. From then on all that come together are loaded in one
    call. A worker that holds a part of the model alone has no place for the others' tensors: see refuse_homeless().
    """

    def __init__(self, model: torch.nn.Module, device: torch.device):
        self._model, self._device = model, device
        self._has_place: dict[_Form, bool] = {}
        """Of every tensor that has ever come."""

    def start(self) -> None:
        """Begin a session; nothing is left of one that was broken off."""
        self._loaded: set[str] = set()
        self._sums: dict[str, int] = {}
        self._homeless: list[str] = []
        self._tied = _tied(self._model)
        for layer in self._model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():  # some of it came in a session that was broken off, and must not count for this one
                info.loaded_weights.clear()
                info.load_numel = 0
        initialize_layerwise_reload(self._model)

    def load(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """Take some of the tensors, which may be looked at until finish(). Raises RunError when one does not fit."""
        own = [(name, tensor.to(self._device)) for name, tensor in tensors]
        self._sums |= {name: checksum(tensor) for name, tensor in own}
        known = [item for item in own if self._has_place.get(_form(*item), False)]
        new = [item for item in own if _form(*item) not in self._has_place]
        if known:
            self._loaded |= self._model.load_weights(known)
        for _, together in groupby(new, lambda item: _stack(item[0])):
            self._try(list(together))
        self._homeless += [f"{item[0]!r} {list(item[1].shape)}" for item in own if not self._has_place[_form(*item)]]

    def _try(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        try:
            loaded: set[str] = self._model.load_weights(tensors)
        except (ValueError, KeyError, AssertionError, RuntimeError) as error:  # what vLLM's loaders raise
            name, tensor = tensors[0]
            what = f"{name!r} {list(tensor.shape)}"
            raise RunError(no_place(type(self._model).__name__, what, f": {str(error)[:_WHY]}")) from error
        self._loaded |= loaded
        self._has_place |= {_form(*item): bool(loaded) for item in tensors}

    def report(self) -> Report:
        """Of the session so far."""
        return type(self._model).__name__, combine(self._sums), list(self._sums), self._homeless

    def finish(self, config: ModelConfig) -> None:
        """End the session. Raises RunError when some parameter of the model got no weight in it."""
        tied = {name for name, owner in self._tied.items() if owner in self._loaded}
        silent = {name for name, _ in self._model.named_parameters()} - self._loaded - tied
        if silent:
            raise RunError(
                f"{REFUSED}the learner sent nothing for {len(silent)} of the sampler's parameters: "
                f"{', '.join(sorted(silent)[:5])} …; fix checkpoint_name() of the family in mmrlhf_ray/models"
            )
        finalize_layerwise_reload(self._model, config)
        for name in tied:  # it has the new values, but what was computed from the old ones is of the old ones
            module = self._model.get_submodule(name.rpartition(".")[0])
            module.quant_method.process_weights_after_loading(module)
        if self._device.type == "cpu":
            _pack_experts(self._model)


class _Loads(Protocol):
    loading: Loading


class ReceivedWeights:
    """vLLM's `worker_extension_cls`: mixed into its worker, called through collective_rpc()."""

    weight_transfer_engine: _Loads
    """The worker's own."""

    def received_weights(self) -> Report:
        """As Loading.report()."""
        return self.weight_transfer_engine.loading.report()


def refuse_homeless(reports: Sequence[Report]) -> None:
    """Raise RunError for a tensor that no worker of an engine has a place for, where each may hold a part of the model,
    and where they did not all get the same."""
    kind, _, _, homeless = reports[0]
    nowhere = set(homeless).intersection(*(report[3] for report in reports[1:]))
    if nowhere:
        more = f" and {len(nowhere) - 1} more" if len(nowhere) > 1 else ""
        raise RunError(no_place(kind, min(nowhere) + more, ""))
    if len({report[1] for report in reports}) > 1:
        sums = ", ".join(report[1] for report in reports)
        raise RunError(f"{REFUSED}the workers of one engine got different bytes, their checksums are {sums}")


def no_place(kind: str, what: str, why: str) -> str:
    """The message about a tensor that does not fit the sampler's model, a `kind`."""
    return (
        f"{REFUSED}the sampler's {kind} has no place for {what}; use versions of transformers and vLLM that name this "
        "model's weights alike (constraints/), or fix checkpoint_name() of its family in mmrlhf_ray/models" + why
    )


def end_if_abandoned(update_info: object) -> None:
    """Raise RoleFailed for an update that says nothing: it breaks the session off, since vLLM ends one in no other
    way."""
    if not update_info:
        raise RoleFailed(ABANDONED)


def _form(name: str, tensor: Tensor) -> _Form:
    return name, tensor.dtype, tensor.shape


def _stack(name: str) -> str:
    """The same for all experts of a layer."""
    owner, experts, _ = name.partition(".experts.")
    return owner if experts else name


def _tied(model: torch.nn.Module) -> dict[str, str]:
    """Parameters that are another one under a second name → its first name: a vocabulary head that is the embedding."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: owner for name, owner in names.items() if name != owner}


def _pack_experts(model: torch.nn.Module) -> None:
    """vLLM packs a layer's experts for its CPU kernel when they are loaded first, but not when they are updated."""
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)
