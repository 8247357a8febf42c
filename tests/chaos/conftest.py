"""Whoever watches a run asks its dashboard which process is whose."""

import pytest

from mmrlhf_ray.runtime.session import DASHBOARD


@pytest.fixture(autouse=True)
def dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DASHBOARD, "on")
