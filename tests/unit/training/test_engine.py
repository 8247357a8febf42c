"""DeepSpeed does what torch does, and its settings are what the configuration says. (Several ranks: tests/ray.)"""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.errors import NonFiniteLoss, RunError, UserError
from mmrlhf_ray.models import HeadedModel
from mmrlhf_ray.training.engine import TrainEngine
from mmrlhf_ray.training.optimizer import lr_multiplier

CPU = torch.device("cpu")
OPTIMIZER = OptimizerConfig(lr=0.05, weight_decay=0.1, max_grad_norm=0.3, warmup_steps=2, schedule="linear")
STEPS = 4


class Output:
    def __init__(self, logits: Tensor):
        self.logits = logits


class Backbone(nn.Module):
    """Two layers over float inputs; called as transformers' models are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.second = nn.Linear(8, 4)

    def forward(self, x: Tensor, use_cache: bool) -> Output:
        return Output(self.second(torch.tanh(self.first(x))))


def model() -> HeadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HeadedModel(Backbone(), nn.Linear(4, 1, bias=False))


def passes(step: int) -> list[Tensor]:
    """Inputs [1, L, 3] of the two passes of a step."""
    noise = torch.Generator().manual_seed(step)
    return [torch.randn(1, length, 3, generator=noise) for length in (5, 2)]


def loss_of(output: Tensor) -> Tensor:
    return (output - 1.0).square().sum() / 7


def train(engine: TrainEngine, steps: range) -> list[float]:
    norms = []
    for step in steps:
        for number, x in enumerate(passes(step)):
            engine.backward(loss_of(engine.forward(torch.arange(x.shape[1]), x=x)), last=number == 1)
        norms.append(engine.grad_norm)
    return norms


def parameters(engine: TrainEngine) -> dict[str, Tensor]:
    return engine.weights()


def plain_torch() -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Parameters, gradient norms and learning rates of the same training without DeepSpeed."""
    net, norms, rates = model(), [], []
    adamw = torch.optim.AdamW(net.parameters(), lr=0.05, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps, weight_decay=0.1)
    for step, factor in zip(range(STEPS), (0.5, 1.0, 1.0, 0.5), strict=True):  # 2 of warm-up, then down over 2
        adamw.param_groups[0]["lr"] = 0.05 * factor
        rates.append(0.05 * factor)
        adamw.zero_grad()
        sum(loss_of(net(torch.arange(x.shape[1]), x=x)) for x in passes(step)).backward()
        norms.append(float(nn.utils.clip_grad_norm_(net.parameters(), OPTIMIZER.max_grad_norm)))
        adamw.step()
    return {n: p.detach() for n, p in net.named_parameters()}, norms, rates


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_training_equals_plain_torch(process_group: None, stage: int) -> None:
    engine = TrainEngine(model(), EngineConfig(zero_stage=stage), OPTIMIZER, STEPS, torch.float32, CPU)
    rates, norms = [], []
    for step in range(STEPS):
        rates.append(engine.learning_rates["lr"])
        norms += train(engine, range(step, step + 1))
    want, want_norms, want_rates = plain_torch()
    assert max(want_norms) > OPTIMIZER.max_grad_norm, "clipping must have something to do"
    got = parameters(engine)
    assert set(got) == set(want)
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-6, rtol=1e-6)
    assert rates == pytest.approx(want_rates)
    assert norms == pytest.approx(want_norms, rel=1e-5)


def test_a_checkpoint_goes_on_where_it_was(process_group: None, tmp_path: Path) -> None:
    def fresh() -> TrainEngine:
        return TrainEngine(model(), EngineConfig(zero_stage=2), OPTIMIZER, STEPS, torch.float32, CPU)

    straight = fresh()
    train(straight, range(2))
    straight.save(tmp_path / "state")
    train(straight, range(2, STEPS))
    resumed = fresh()
    resumed.load(tmp_path / "state")
    assert resumed.learning_rates["lr"] == pytest.approx(0.05)
    train(resumed, range(2, STEPS))
    want = parameters(straight)
    assert all(torch.equal(tensor, want[name]) for name, tensor in parameters(resumed).items())


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_rank_says_what_it_wrote(process_group: None, tmp_path: Path, stage: int) -> None:
    engine = TrainEngine(model(), EngineConfig(zero_stage=stage), OPTIMIZER, STEPS, torch.float32, CPU)
    for directory in (tmp_path / "first", tmp_path / "second"):
        found = engine.save(directory)
        files = {str(f.relative_to(directory)): f for f in directory.rglob("*") if f.is_file()}
        assert found == {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
        assert any(name.endswith("_states.pt") for name in found)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_resumed_run_has_the_settings_that_it_is_given(process_group: None, tmp_path: Path, stage: int) -> None:
    """Rate, schedule, its length and the rest of the optimizer, not the checkpoint's; its moments are."""

    def engine(optimizer: OptimizerConfig, steps: int) -> TrainEngine:
        return TrainEngine(model(), EngineConfig(zero_stage=stage), optimizer, steps, torch.float32, CPU)

    first = engine(OPTIMIZER.model_copy(update={"warmup_steps": 0}), 4)
    train(first, range(2))
    first.save(tmp_path / "state")
    other = OptimizerConfig(
        lr=0.5, weight_decay=0.2, betas=(0.5, 0.6), eps=1e-3, max_grad_norm=7.0, warmup_steps=1, schedule="linear"
    )
    resumed = engine(other, 9)
    resumed.load(tmp_path / "state")
    assert resumed.learning_rates["lr"] == pytest.approx(0.5 * (1 - 1 / 8))
    group = resumed._adamw.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 1e-3, 0.2)
    assert resumed._engine.gradient_clipping() == 7.0
    if stage:
        assert resumed._engine.optimizer.clip_grad == 7.0
    train(resumed, range(2, 3))
    assert resumed.learning_rates["lr"] == pytest.approx(0.5 * (1 - 2 / 8))
    (state, *_) = resumed._adamw.state.values()
    assert state["step"] == 3


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("unpickled"),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def test_a_checkpoint_runs_no_code(
    process_group: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = TrainEngine(model(), EngineConfig(zero_stage=2), OPTIMIZER, STEPS, torch.float32, CPU)
    engine.save(tmp_path / "state")
    (file,) = (tmp_path / "state").rglob(name)
    torch.save(torch.load(file, weights_only=False) | {"more": Payload()}, file)
    with pytest.raises(RunError, match=f"{name}: refused, since it holds more than tensors and plain values"):
        engine.load(tmp_path / "state")
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(("was", "now"), [(1, 0), (1, 3), (3, 0), (3, 2), (0, 2), (1, 2)])
def test_another_zero_stage_is_refused_by_name(process_group: None, tmp_path: Path, was: int, now: int) -> None:
    def engine(stage: int) -> TrainEngine:
        return TrainEngine(model(), EngineConfig(zero_stage=stage), OPTIMIZER, STEPS, torch.float32, CPU)

    engine(was).save(tmp_path / "state")
    with pytest.raises(RunError, match=f"state: zero_stage was {was}, is now {now}; resume with what it was"):
        engine(now).load(tmp_path / "state")


@pytest.mark.parametrize("frozen_now", [False, True])
def test_other_frozen_parts_are_refused_by_name(process_group: None, tmp_path: Path, frozen_now: bool) -> None:
    def engine(frozen: bool) -> TrainEngine:
        made = model()
        made.backbone.first.requires_grad_(not frozen)
        return TrainEngine(made, EngineConfig(zero_stage=2), OPTIMIZER, STEPS, torch.float32, CPU)

    engine(not frozen_now).save(tmp_path / "state")
    expected = r"the difference is backbone\.first\.bias, backbone\.first\.weight; resume with the `parts` and `lora`"
    with pytest.raises(RunError, match=expected):
        engine(frozen_now).load(tmp_path / "state")


def test_loading_from_nowhere_is_an_error(process_group: None, tmp_path: Path) -> None:
    engine = TrainEngine(model(), EngineConfig(zero_stage=0), OPTIMIZER, STEPS, torch.float32, CPU)
    with pytest.raises(FileNotFoundError, match="expected a DeepSpeed checkpoint, found none"):
        engine.load(tmp_path / "nothing")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_applied(process_group: None, bad: float) -> None:
    engine = TrainEngine(model(), EngineConfig(zero_stage=0), OPTIMIZER, STEPS, torch.float32, CPU)
    before = parameters(engine)
    x = passes(0)[0]
    with pytest.raises(NonFiniteLoss, match=rf"loss of a pass is {bad} on rank 0.*Nothing was applied"):
        engine.backward(loss_of(engine.forward(torch.arange(5), x=x)) * bad, last=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters(engine).items())


class Factor(torch.autograd.Function):
    """x, with a gradient that many times as large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


@pytest.mark.parametrize(
    ("stage", "dtype", "factor"),
    [
        (0, torch.float32, math.nan),
        (0, torch.float32, math.inf),
        (0, torch.bfloat16, math.nan),
        (1, torch.float32, math.nan),
        (2, torch.bfloat16, math.inf),
        (3, torch.float32, math.nan),
    ],
)
def test_a_gradient_that_is_not_finite_is_an_error_and_never_applied(
    process_group: None, stage: int, dtype: torch.dtype, factor: float
) -> None:
    engine = TrainEngine(model().to(dtype), EngineConfig(zero_stage=stage), OPTIMIZER, STEPS, dtype, CPU)
    before = parameters(engine)
    first, second = (x.to(dtype) for x in passes(0))
    engine.backward(loss_of(Factor.apply(engine.forward(torch.arange(5), x=first), factor)), last=False)
    loss = loss_of(engine.forward(torch.arange(2), x=second))
    with pytest.raises(NonFiniteLoss, match=r"its gradient is not.*Nothing was applied") as caught:
        engine.backward(loss, last=True)
    assert isinstance(caught.value, UserError), "the command prints its message alone"
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters(engine).items())


def test_a_gradient_whose_norm_overflows_is_an_error(process_group: None) -> None:
    # Clipping would divide it by infinity and apply nothing but the weight decay.
    engine = TrainEngine(model(), EngineConfig(zero_stage=0), OPTIMIZER, STEPS, torch.float32, CPU)
    before = parameters(engine)
    output = engine.forward(torch.arange(5), x=passes(0)[0])
    with pytest.raises(NonFiniteLoss, match="is inf"):
        engine.backward(loss_of(Factor.apply(output, 1e25)), last=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters(engine).items())


def test_buckets_hold_everything_once_within_their_size(process_group: None) -> None:
    net = model()
    engine = TrainEngine(net, EngineConfig(zero_stage=0), OPTIMIZER, STEPS, torch.float32, CPU)
    sizes = {name: p.numel() * 4 for name, p in net.named_parameters()}
    limit = 100  # bytes; the largest tensor has more
    assert max(sizes.values()) > limit
    buckets = list(engine.buckets(limit))
    assert [name for bucket in buckets for name, _ in bucket] == list(sizes)
    assert all(len(bucket) == 1 or sum(sizes[name] for name, _ in bucket) <= limit for bucket in buckets)
    assert any(len(bucket) > 1 for bucket in buckets)


def test_perturbing_reaches_the_named_parameters_only(process_group: None) -> None:
    engine = TrainEngine(model(), EngineConfig(zero_stage=0), OPTIMIZER, STEPS, torch.float32, CPU)
    before = parameters(engine)
    assert engine.perturb("backbone.second", 0.1, seed=1) == 2
    changed = {name for name, tensor in parameters(engine).items() if not torch.equal(tensor, before[name])}
    assert changed == {"backbone.second.weight", "backbone.second.bias"}


def test_merging_over_one_rank_changes_nothing(process_group: None) -> None:
    engine = TrainEngine(model(), EngineConfig(zero_stage=0), OPTIMIZER, STEPS, torch.float32, CPU)
    merged = engine.merge_over_ranks({"tokens": torch.tensor(3), "ratio_max": torch.tensor(1.5)})
    assert {k: float(v) for k, v in merged.items()} == {"tokens": 3.0, "ratio_max": 1.5}


def schedule(steps: int, **config: object) -> list[float]:
    factor = lr_multiplier(OptimizerConfig.model_validate(config), steps)
    return [factor(step) for step in range(steps + 1)]


def test_learning_rate_schedules() -> None:
    assert schedule(3, schedule="constant") == [1.0] * 4
    assert schedule(4, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert schedule(4, schedule="cosine") == pytest.approx([1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.1464466, 0.0])
    assert schedule(4, schedule="constant", warmup_steps=3) == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 1.0])
    assert schedule(6, schedule="linear", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_rate_stays_at_zero_past_the_last_step(name: str) -> None:
    factor = lr_multiplier(OptimizerConfig(schedule=name), 4)
    assert factor(9) == pytest.approx(0.0)
    assert lr_multiplier(OptimizerConfig(schedule=name, warmup_steps=5), 5)(5) == pytest.approx(1.0)
