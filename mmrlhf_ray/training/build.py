"""One way to build a model that a group of ranks trains, with what gets it out again."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.learner import LearnerConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.models import (
    ADAPTER_DIR,
    ScalarHead,
    Spread,
    add_lora,
    chosen_kernel,
    export_lora,
    export_model,
    freeze_parts,
    parameter_groups,
    set_kernel,
)
from mmrlhf_ray.training.engine import GATHERED_BYTES, TrainEngine, partitioned_loading
from mmrlhf_ray.training.passes import Passes, Trainable
from mmrlhf_ray.training.ulysses import sequence_group, spread_over


@dataclass(frozen=True)
class Trained:
    """One rank's share of a model that is being trained. Every method is a collective."""

    encoder: Encoder
    engine: TrainEngine
    passes: Passes
    source: Path
    """Directory that the model came from."""
    scalar: bool
    lora: LoRAConfig | None
    """Where an adapter is all that learns."""
    spread: Spread | None = None
    """This rank's place among those that share a pass."""

    def export(self, directory: Path, layout: ScalarHead | None = None) -> None:
        """Write the model to `directory` in Hugging Face format, and an adapter, if that is what is trained, next to it
        as `adapter`. The first rank writes, and holds one file's weights at a time. `layout`: of a scalar head's
        outputs; None = one output."""
        adapter, first = self.encoder.adapter, self.engine.rank == 0
        weights = (pair for bucket in self.engine.buckets(GATHERED_BYTES) for pair in bucket)
        if first:
            export_model(adapter, self.source, directory, weights, scalar=self.scalar, layout=layout)
        else:
            deque(weights, maxlen=0)  # its part in gathering them
        if self.lora:
            trained = self.engine.weights(trained_only=True)
            if first:
                target = directory.with_name(ADAPTER_DIR)
                export_lora(adapter, self.source, target, self.lora, trained, layout=layout)

    def save(self, directory: Path) -> dict[str, str]:
        """Write a checkpoint of all ranks. Returns what this one wrote, as TrainEngine.save()."""
        return self.engine.save(directory)

    def load(self, directory: Path) -> None:
        """The inverse of save(). Raises as TrainEngine.load()."""
        self.engine.load(directory)


def build_trained(
    trainable: Trainable,
    model: ModelConfig,
    learner: LearnerConfig,
    *,
    optimizer_steps: int,
    seed: int,
    device: torch.device,
    allowed: Sequence[str] = (),
) -> Trained:
    """The model in `model.path` with an optimizer, in evaluation mode, for all ranks of the process group that exists.

    optimizer_steps: how many there will be, for the schedule. seed: of a new adapter's weights. allowed: as of
    load_encoder(). A collective. Raises ModelError for a directory that cannot be read, and for `learner.lora` that
    does not fit the model.
    """
    encoder = load_encoder(model.path, allowed=allowed)
    adapter, scalar, dtype = encoder.adapter, trainable.scalar, getattr(torch, model.compute_dtype)
    with partitioned_loading(learner.engine, learner.optimizer, dtype):
        loaded = trainable.load(encoder, Path(model.path), dtype)
    set_kernel(loaded.backbone, chosen_kernel(learner.engine.attention, model.compute_dtype, device.type))
    ranks = learner.engine.sequence_parallel
    spread = sequence_group(ranks) if ranks > 1 else None
    if spread is not None:
        spread_over(loaded, adapter, spread)
    if learner.lora:
        add_lora(loaded, adapter, learner.lora, train_head=scalar, seed=seed)
    freeze_parts(loaded, adapter, learner.parts, scalar=scalar)
    groups = parameter_groups(loaded, adapter, learner.parts, learner.optimizer.lr, scalar=scalar)
    engine = TrainEngine(loaded, learner.engine, learner.optimizer, optimizer_steps, dtype, device, groups)
    engine.train(False)
    passes = Passes(engine, encoder, device, learner.engine.logits_tile, ranks)
    alone = learner.lora if learner.keeps_start else None
    return Trained(encoder, engine, passes, Path(model.path), scalar, alone, spread)
