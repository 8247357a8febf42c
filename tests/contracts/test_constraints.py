"""What constraints/ has of each extra is what its packages ask for of each other, and what pyproject.toml asks for.

`pip install --dry-run` says the same in minutes, with an index; this walks the same requirements in a second.
"""

import pytest
from packaging.version import Version

from tests.contracts.requires import EXTRAS, PYTHONS, conflicts, pins, project


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_resolves(extra: str, python: str) -> None:
    assert conflicts(extra, python, pins(extra), project(extra)) == []


def test_what_would_not_resolve_is_named() -> None:
    own, asked = pins("gpu"), project("gpu")
    # The other extra's version of a package that the two samplers pin differently.
    other = own | {"apache-tvm-ffi": pins("cpu")["apache-tvm-ffi"]}
    assert any("asks for apache-tvm-ffi" in problem for problem in conflicts("gpu", "3.12", other, asked))
    gone = {name: version for name, version in own.items() if name != "nvidia-nccl-cu13"}
    assert any("nvidia-nccl-cu13==" in problem for problem in conflicts("gpu", "3.12", gone, asked))
    (unknown,) = conflicts("gpu", "3.12", own | {"vllm": Version("0.32.9")}, asked)
    assert unknown == "vllm==0.32.9: what it asks for is not known; run python -m tests.contracts.requires"
    (declared,) = conflicts("gpu", "3.12", own, [*asked, "torch>=2.14"])
    assert declared == f"pyproject.toml asks for torch>=2.14, constraints/gpu.txt has {own['torch']}"
    (builder,) = conflicts("gpu", "3.12", own, [*asked, "setuptools<70"])
    assert builder.startswith("no version of setuptools suits ")
