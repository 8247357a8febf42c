import pytest

from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.pipelines.discrete import sweep as discrete_sweep
from mmrlhf_ray.pipelines.discrete.sweep import varied
from tests.unit.discrete_tiny import job


def test_dotted_keys_are_replaced() -> None:
    cfg = job(sweep={"parameters": {"fusion.stage": ["late"]}})
    changed = varied(cfg, {"fusion.stage": "late", "algorithm.lr": 0.5, "seed": 3}, "other", "/elsewhere")
    assert (changed.fusion.stage, changed.algorithm.lr, changed.seed) == ("late", 0.5, 3)
    assert (changed.name, changed.output_dir, changed.sweep) == ("other", "/elsewhere", None)
    assert changed.algorithm.gamma == cfg.algorithm.gamma


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"fusion.colour": 1}, r"fusion\.colour"),
        ({"nothing.at.all": 1}, r"sweep\.parameters\.nothing\.at\.all: no such key"),
        ({"algorithm.lr": -1.0}, r"algorithm\.dqn\.lr.*greater than 0"),
    ],
)
def test_what_does_not_fit_is_named(parameters: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        varied(job(), parameters, "x")


def test_a_sweep_onto_object_storage_is_refused() -> None:
    cfg = job(sweep={"parameters": {"fusion.stage": ["late"]}}, output_dir="memory://bucket")
    with pytest.raises(ConfigError, match="output_dir=memory://bucket: a sweep writes to a directory; give one"):
        discrete_sweep.run(cfg)


def test_a_sweep_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="sweep: required with --sweep"):
        discrete_sweep.run(job())
