"""What tests with real actors share: a tiny model, a reward model, a little data. Made once, and only if asked for."""

import gc
import os
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# As the command does (cli/main.py).
gc.set_threshold(100_000, 20, 20)
# Workers of Ray import nothing from the directory that a driver is started in, and tests' classes are from there.
_ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))


_OF_SUBMITTED = {f"tests/e2e/test_{name}.py" for name in ("export", "resume", "submit", "votes")}


_LONG = [Path(_ROOT, "tests", "unit", name) for name in ("training", "weights")]
"""Tests of several ranks take half a minute each: they come first, so that none is waited for in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that use their directory's `session` come last in it (tests/shared_ray.py)."""
    shared = {item.path for item in items if "session" in getattr(item, "fixturenames", ())}
    directories = {directory: i for i, directory in enumerate(dict.fromkeys(item.path.parent for item in items))}
    items.sort(key=lambda item: (item.path.parent not in _LONG, directories[item.path.parent], item.path in shared))


def pytest_collection_finish() -> None:
    """What all tests import is never garbage: who looks for some, as DeepSpeed does often, looks at the rest."""
    gc.collect()
    gc.freeze()


class _Scheduling(LoadFileScheduling):
    """A file's tests stay in one process, and so do those of all files that look at one submitted run."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "submitted" if file in _OF_SUBMITTED else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`: the scheduling above."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's untrained omni-modal model."""
    from mmrlhf_ray.demo.model import build_model

    path = tmp_path_factory.mktemp("model") / "base"
    build_model(path, seed=0)
    return path


@pytest.fixture(scope="session")
def reward_model_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a scalar head of random weights, as training would have exported it."""
    import torch

    from mmrlhf_ray.models import adapter_for, export_model, load_scalar

    adapter = adapter_for(model_dir)
    model = load_scalar(adapter, model_dir, torch.float32, new_head=True)
    torch.nn.init.normal_(model.head.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("reward_model") / "model"
    export_model(adapter, model_dir, path, {n: p.detach() for n, p in model.named_parameters()}, scalar=True)
    return path


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Omni-Digits in small: data directories `demonstrations`, `prompts_train` and `prompts_heldout`."""
    from mmrlhf_ray.demo.data import Sizes, build_data

    path = tmp_path_factory.mktemp("data")
    sizes = Sizes(
        demonstrations=26,
        prompts_train=39,
        prompts_heldout=13,
        tones=20,
        tones_heldout=10,
        clips=10,
        clips_heldout=10,
    )
    build_data(path, 0, sizes)
    return path
