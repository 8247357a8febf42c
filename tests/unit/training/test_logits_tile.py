"""The logits of a pass are never whole in memory, and reading them in tiles changes no number."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.data.batches.batching import MicroBatch
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import Reading, load_policy
from mmrlhf_ray.models.headed import Head
from mmrlhf_ray.training.engine import TrainEngine
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.training.passes import Passes, train_step
from tests.unit.tiny import mixed_rows
from tests.unit.training.test_passes import nll

CPU = torch.device("cpu")
POSITIONS, HIDDEN, VOCABULARY = 512, 8, 1000


class Ledger(TorchDispatchMode):
    """Numbers in tensors with a row for each position of a tile and a column for each word, those alive and the most
    there were at once. What autograd saves is alive too."""

    def __init__(self, rows: range) -> None:
        super().__init__()
        self.rows, self.alive, self.most, self.known = rows, 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.dim() == 2 and tensor.shape[1] == VOCABULARY:
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if len(tensor) not in self.rows or storage.data_ptr() in self.known:
            return
        size, place = tensor.numel(), storage.data_ptr()
        self.known.add(place)
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.alive -= size


def read_in(tile: int) -> tuple[Tensor, dict[str, Tensor], int]:
    """Log-probabilities, gradients and the most numbers of logits and their like at once, forward and backward."""
    torch.manual_seed(0)
    head = Head(nn.Linear(HIDDEN, VOCABULARY, bias=False))
    hidden = torch.randn(POSITIONS, HIDDEN, requires_grad=True)
    tokens = torch.randint(VOCABULARY, (POSITIONS,))

    def read(logits: Tensor, of_tile: Tensor) -> Tensor:
        return logits.log_softmax(1).gather(1, of_tile[:, None])[:, 0]

    with Ledger(range(9, POSITIONS + 1)) as ledger:
        values = head(hidden, Reading(read, tokens, tile))
        (values * torch.linspace(1.0, 2.0, POSITIONS)).mean().backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    return values.detach(), {"hidden": hidden.grad, "weight": head.weight.grad}, ledger.most


def test_no_more_than_a_tile_is_in_memory_and_no_number_changes() -> None:
    whole, gradients, most = read_in(POSITIONS)
    assert most >= 2 * POSITIONS * VOCABULARY, "what is counted is what there is"
    for tile in (64, 100):  # the last one of 100 is shorter
        values, of_tiles, of_tile = read_in(tile)
        assert of_tile <= 4 * tile * VOCABULARY
        torch.testing.assert_close(values, whole, atol=1e-6, rtol=0)
        for name, gradient in gradients.items():
            torch.testing.assert_close(of_tiles[name], gradient, atol=1e-6, rtol=0)


def test_without_gradient_tiles_are_read_one_by_one() -> None:
    with torch.no_grad(), Ledger(range(9, POSITIONS + 1)) as ledger:
        head = Head(nn.Linear(HIDDEN, VOCABULARY, bias=False))
        tokens = torch.zeros(POSITIONS, dtype=torch.long)
        head(torch.randn(POSITIONS, HIDDEN), Reading(lambda logits, _: logits.logsumexp(1), tokens, 32))
    assert ledger.most <= 4 * 32 * VOCABULARY


@pytest.mark.parametrize("stage", [0, 3])
def test_a_step_does_not_depend_on_the_tile(process_group: None, omni: Path, omni_encoder: Encoder, stage: int) -> None:
    rows, features = mixed_rows(omni_encoder)
    read = ResponseLogprobs(omni_encoder)

    def step(tile: int) -> tuple[dict[str, Tensor], float]:
        model = load_policy(omni_encoder.adapter, omni, torch.float32)
        optimizer = OptimizerConfig(lr=0.1, eps=1.0, max_grad_norm=100.0)
        engine = TrainEngine(model, EngineConfig(zero_stage=stage), optimizer, 1, torch.float32, CPU)
        passes = Passes(engine, omni_encoder, CPU, tile)
        train_step(engine, passes, rows, features, [MicroBatch((0, 1, 2, 3, 4))], nll, read=read)
        return engine.weights(), engine.grad_norm

    (whole, norm), (tiled, of_tiles) = step(1024), step(4)
    assert of_tiles == pytest.approx(norm, rel=1e-5)
    for name, tensor in whole.items():
        torch.testing.assert_close(tiled[name], tensor, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
