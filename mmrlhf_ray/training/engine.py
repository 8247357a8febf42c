"""DeepSpeed, as this project uses it: one model, one optimizer, ZeRO 0–3, passes cut by the caller."""

import os

# DeepSpeed picks its accelerator when it is imported; without a GPU it needs DS_ACCELERATOR.
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import json
import math
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn

from mmrlhf_ray.algorithms.statistics import Stats, merge_stats
from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import NonFiniteLoss, RunError
from mmrlhf_ray.models import (
    Division,
    HeadedModel,
    ParameterGroup,
    Reading,
    dividing,
    grouped,
    lora_off,
    merged_weights,
    trained_weights,
)
from mmrlhf_ray.training import extension
from mmrlhf_ray.training.checkpoint import scratch_path, sealed
from mmrlhf_ray.training.deepspeed_config import deepspeed_config
from mmrlhf_ray.training.engine_files import PlainFiles, convert, plain_values
from mmrlhf_ray.training.engine_memory import check_movable, move_back, move_off, state_bytes
from mmrlhf_ray.training.optimizer import adamw, lr_multiplier, own_counters

_TAG = "state"
_LAYOUT_FILE = "layout.json"
GATHERED_BYTES = 1 << 30
"""Of weights that are gathered at a time, where nothing else says how many."""
_HOST = torch.device("cpu")
_REMEDY = (
    "Nothing was applied. Continue from the last checkpoint with a lower optimizer.lr or a smaller "
    "optimizer.max_grad_norm, and look for scores, margins or values that are far off in the metrics before"
)


def init_process_group(
    rank: int, world_size: int, address: str, port: int, device: torch.device, listener: socket.socket | None = None
) -> None:
    """Join the ranks of one learner group; each rank sees one device. `listener`: of the first rank, at that port."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0", MASTER_ADDR=address, MASTER_PORT=str(port)
    )
    if listener is None:
        store = dist.TCPStore(address, port, world_size, is_master=False)
    else:
        store = dist.TCPStore(
            address, port, world_size, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    dist.init_process_group(_backend(device), store=store, rank=rank, world_size=world_size)
    adopt_process_group(device)


def adopt_process_group(device: torch.device) -> None:
    """Let DeepSpeed use the process group that exists, init_process_group()'s or Ray Train's.

    Raises DeadlineExceeded where another process compiles DeepSpeed's extension for too long.
    """
    if device.type == "cpu":
        extension.build(extension.COLLECTIVES)
    deepspeed.init_distributed(dist_backend=_backend(device), verbose=False)


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


@contextmanager
def partitioned_loading(engine: EngineConfig, optimizer: OptimizerConfig, dtype: torch.dtype) -> Iterator[None]:
    """While models are loaded: under ZeRO-3 each rank keeps only its share, so no rank ever holds the entire model."""
    if engine.zero_stage < 3:
        yield
        return
    divided: list[nn.Parameter] = []

    def divide(parameters: Sequence[nn.Parameter]) -> None:
        if divided:  # in the same way, as DeepSpeed itself divides what it finds undivided
            divided[0].convert_to_zero_parameters(param_list=parameters)
        else:
            config = deepspeed_config(engine, optimizer, dtype)
            deepspeed.zero.Init(module=nn.ParameterList(parameters), config_dict_or_path=config)
            divided.extend(parameters)

    device = torch.device(get_accelerator().current_device_name())
    with dividing(Division(divide, dist.get_rank() == 0, device)):
        yield


class TrainEngine:
    """One rank's share of a model that is being trained, or of which the part that is not frozen is."""

    def __init__(
        self,
        model: HeadedModel,
        engine: EngineConfig,
        optimizer: OptimizerConfig,
        total_steps: int,
        dtype: torch.dtype,
        device: torch.device,
        groups: Sequence[ParameterGroup] | None = None,
    ):
        """`groups`: of all parameters that are not frozen; None = one group with the optimizer's learning rate."""
        if engine.gradient_checkpointing:
            model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._partly_frozen = not all(p.requires_grad for p in model.parameters())
        if groups is None:
            groups = [ParameterGroup("", optimizer.lr, tuple(p for p in model.parameters() if p.requires_grad))]
        self._groups = tuple(group.name for group in groups)
        self._optimizer, self._rates = optimizer, [group.lr for group in groups]
        self._adamw = adamw(groups, optimizer, device, offload=engine.offload_optimizer)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adamw, lr_multiplier(optimizer, total_steps))
        learned = sum(getattr(p, "ds_numel", p.numel()) for group in groups for p in group.parameters)
        self._engine, *_ = deepspeed.initialize(
            model=model.to(device),
            optimizer=self._adamw,
            lr_scheduler=self._schedule,
            config=deepspeed_config(engine, optimizer, dtype, learned),
        )
        self._engine.checkpoint_engine = self._files = PlainFiles()
        self.device = device
        self._zero_stage = engine.zero_stage
        self._spread = engine.sequence_parallel
        self._plain_norm = 0.0

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        return dist.get_world_size()

    @property
    def learning_rates(self) -> dict[str, float]:
        """`lr` of the next optimizer step, and `lr_<part>` of each part that has its own."""
        rates = zip(self._groups, self._engine.get_lr(), strict=True)
        return {f"lr_{name}" if name else "lr": float(rate) for name, rate in rates}

    @property
    def grad_norm(self) -> float:
        """Norm over all ranks before clipping, of the last optimizer step."""
        norm = self._engine.get_global_grad_norm()
        return float(self._plain_norm if norm is None else norm)

    def forward(self, select: Tensor, reading: Reading | None = None, **inputs: Tensor) -> Tensor:
        """HeadedModel.forward() of the trained model."""
        return self._engine(select, reading, **inputs)

    def train(self, mode: bool = True) -> None:
        self._engine.train(mode)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`, a sum over this rank's tokens divided by the denominator of all ranks.

        `last` applies the optimizer. All ranks call this equally often. Raises NonFiniteLoss on every rank when
        any rank's loss is not finite, or the gradient of all; nothing is applied then.
        """
        self._check_loss(loss)
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks; the loss is already a share of the total.
        self._engine.backward(loss * self.world_size)
        if last and self._zero_stage == 0:  # DeepSpeed clips plain optimizers without keeping the norm
            gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
            self._plain_norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(self._plain_norm):
                raise _bad_gradient(self._plain_norm)
        self._engine.step()
        if last and not self._engine.was_step_applied():  # ZeRO leaves such a step out without a word
            raise _bad_gradient(self.grad_norm)

    def offload(self) -> None:
        """Move what this rank holds on its device to host memory, until reload(): others can use the device meanwhile.
        Between optimizer steps; nothing else may be called before reload(). With ZeRO 1 to 3; in bfloat16 2 and 3.

        Raises RunError for other stages, and where `engine.deepspeed` keeps parameters in host memory anyway.
        """
        check_movable(self._engine)
        move_off(self._engine)

    def reload(self) -> None:
        """The inverse of offload()."""
        move_back(self._engine)

    @property
    def state_bytes(self) -> int:
        """Of this rank's parameters, their master copies and the optimizer's moments."""
        return state_bytes(self._engine)

    def _check_loss(self, loss: Tensor) -> None:
        """Raise NonFiniteLoss on all ranks when that of any is not finite. A collective."""
        finite = torch.tensor(float(torch.isfinite(loss)), device=self.device)
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if finite:
            return
        everyone: list[float] = [0.0] * self.world_size
        dist.all_gather_object(everyone, loss.item())
        bad = ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(everyone) if not math.isfinite(value))
        raise NonFiniteLoss(f"the loss of a pass is {bad}; expected a finite number. {_REMEDY}")

    def merge_over_ranks(self, stats: Stats) -> Stats:
        """merge_stats() over all ranks, which all hold the same keys. A collective."""
        keys = sorted(stats)
        own = torch.stack([stats[k].detach().double() for k in keys]).to(self.device)
        everyone = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(everyone, own)
        # Ranks that share a pass have the same statistics of it.
        own_rows = everyone[:: self._spread]
        return merge_stats(dict(zip(keys, values.cpu(), strict=True)) for values in own_rows)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Meanwhile forward() computes what the model did before lora was added. Raises ValueError without one."""
        return lora_off(self._engine.module)

    def buckets(
        self, max_bytes: int, *, trained_only: bool = False, device: torch.device = _HOST
    ) -> Iterator[list[tuple[str, Tensor]]]:
        """All weights on `device` in groups of at most `max_bytes` (a larger one is a group by itself): the model as
        it is without adapters, theirs merged; or `trained_only`, what is not frozen, adapters by themselves.

        A collective: every rank iterates to the end. Rank 0 gets (name, tensor), which may be the parameter itself and
        must be copied before the next update; the others get empty groups.
        """
        weights = trained_weights if trained_only else merged_weights
        for group in grouped(weights(self._engine.module), max_bytes):
            parameters = [p for weight in group for p in weight.parameters]
            with self._gathered(parameters):
                yield [] if self.rank else [(weight.name, weight.value().to(device)) for weight in group]

    def outlines(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor without values) of all that buckets() gives, in its order; nothing is gathered."""
        return ((weight.name, weight.outline) for weight in merged_weights(self._engine.module))

    def weights(self, *, trained_only: bool = False) -> dict[str, Tensor]:
        """buckets() in one, copied. A collective; rank 0 gets all, the others nothing."""
        buckets = self.buckets(GATHERED_BYTES, trained_only=trained_only)
        return {name: tensor.clone() for bucket in buckets for name, tensor in bucket}

    def _gathered(self, parameters: list[torch.nn.Parameter]) -> AbstractContextManager[None]:
        return deepspeed.zero.GatheredParameters(parameters) if self._zero_stage == 3 else nullcontext()

    def perturb(self, prefix: str, scale: float, seed: int) -> int:
        """Add seeded noise of size `scale` to parameters whose name starts with `prefix`; returns their number.

        A collective. It changes weights behind the optimizer's back, so it is for checks only.
        """
        chosen = [p for name, p in self._engine.module.named_parameters() if name.startswith(prefix)]
        partitioned = self._zero_stage == 3
        gathered = deepspeed.zero.GatheredParameters(chosen, modifier_rank=0) if partitioned else nullcontext()
        with gathered, torch.no_grad():
            noise = torch.Generator().manual_seed(seed)
            for parameter in chosen:
                parameter.add_(torch.randn(parameter.shape, generator=noise).to(parameter) * scale)
        return len(chosen)

    def save(self, directory: Path) -> dict[str, str]:
        """Parameters (but frozen ones), optimizer and schedule of all ranks. A collective. Returns the files that this
        rank wrote, by their path in `directory` → sha256; they are on the disk. Raises RunFailed on a full disk."""
        with writing(directory):
            self._files.written.clear()
            self._engine.save_checkpoint(str(directory), tag=_TAG, exclude_frozen_parameters=self._partly_frozen)
            own = set(self._files.written)
            if self.rank == 0:
                (directory / _LAYOUT_FILE).write_text(json.dumps(self._layout()), encoding="utf-8")
                # DeepSpeed writes small files of its own around the state, all of them on the first rank.
                own |= {file for file in directory.rglob("*") if file.is_file() and file.suffix != ".pt"}
            return {str(file.relative_to(directory)): sealed(file) for file in sorted(own)}

    def _layout(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be read; JSON."""
        trained = sorted(name for name, p in self._engine.module.named_parameters() if p.requires_grad)
        steps = self._schedule.last_epoch
        return {"zero_stage": self._zero_stage, "ranks": self.world_size, "steps": steps, "trained": trained}

    def _checked_layout(self, directory: Path) -> dict[str, Any]:
        """_layout() of who wrote it. Raises RunError where DeepSpeed would fail in words of its own."""
        file, now = directory / _LAYOUT_FILE, self._layout()
        if not file.is_file():  # of an earlier version
            return now
        was = now | json.loads(file.read_text(encoding="utf-8"))
        if was["zero_stage"] != now["zero_stage"]:
            raise RunError(
                f"{directory}: zero_stage was {was['zero_stage']}, is now {now['zero_stage']}; resume with what it was"
            )
        odd = sorted({*was["trained"]} ^ {*now["trained"]})
        if odd:
            raise RunError(
                f"{directory}: other parameters were trained, the difference is {', '.join(odd[:5])}"
                f"{' …' if len(odd) > 5 else ''}; resume with the `parts` and `lora` that the run was started with"
            )
        return was

    def load(self, directory: Path) -> None:
        """The inverse of save(), also of other numbers of ranks; rates, schedule and all else that OptimizerConfig says
        stay as configured. A collective. Raises FileNotFoundError; RunError where something else was trained, or in
        another way, and for files that hold more than save() writes."""
        was = self._checked_layout(directory)
        if not (directory / _TAG).is_dir():
            raise FileNotFoundError(f"{directory}: expected a DeepSpeed checkpoint, found none")
        # Without ZeRO every rank has all of the state, and the first has written it.
        if was["ranks"] == self.world_size or self._zero_stage == 0:
            own_loader = {"custom_load_fn": _load_trained} if self._partly_frozen else {}
            self._engine.load_checkpoint(str(directory), tag=_TAG, **own_loader)
        elif was["steps"]:  # else it is the model that the run started from, without moments, which has no other format
            with self._converted(directory) as universal:
                self._load_universal(universal)
        own_counters(self._adamw)
        self._apply_settings()

    @contextmanager
    def _converted(self, directory: Path) -> Iterator[Path]:
        """The checkpoint for any number of ranks, until the block ends. A collective; the first rank converts."""
        target = scratch_path(directory)
        try:
            if self.rank == 0:
                shutil.rmtree(target, ignore_errors=True)
                with writing(target):
                    convert(directory / _TAG, target / _TAG)
            dist.barrier()
            yield target
            dist.barrier()
        finally:
            if self.rank == 0:
                shutil.rmtree(target, ignore_errors=True)

    def _load_universal(self, directory: Path) -> None:
        config = self._engine._config  # read by load_checkpoint() alone; other checkpoints are not universal ones
        config.load_universal_checkpoint = True
        try:
            with plain_values(directory):
                self._engine.load_checkpoint(str(directory), tag=_TAG)
        finally:
            config.load_universal_checkpoint = False

    def _apply_settings(self) -> None:
        """Of the optimizer, where DeepSpeed and torch have put back those of the checkpoint."""
        own, schedule = self._optimizer, self._schedule
        schedule.base_lrs = list(self._rates)
        factor = schedule.lr_lambdas[0](schedule.last_epoch)
        rates = [rate * factor for rate in self._rates]
        for group, base, rate in zip(self._adamw.param_groups, self._rates, rates, strict=True):
            group.update(lr=rate, initial_lr=base, betas=own.betas, eps=own.eps, weight_decay=own.weight_decay)
        schedule._last_lr = rates
        if hasattr(self._engine.optimizer, "clip_grad"):  # ZeRO keeps its own copy
            self._engine.optimizer.clip_grad = own.max_grad_norm


def _bad_gradient(norm: float) -> NonFiniteLoss:
    return NonFiniteLoss(f"the loss is finite, but its gradient is not: its norm over all ranks is {norm}. {_REMEDY}")


def _load_trained(src: dict[str, Tensor], dst: torch.nn.Module) -> None:
    """Parameters that are not frozen, neither more nor fewer."""
    buffers = {name for name, _ in dst.named_buffers()}
    expected = {name for name, p in dst.named_parameters() if p.requires_grad}
    odd = (src.keys() - buffers) ^ expected
    if odd:
        raise ValueError(f"the checkpoint is of other trained parameters: it differs in {', '.join(sorted(odd)[:5])}")
    dst.load_state_dict(src, strict=False)
