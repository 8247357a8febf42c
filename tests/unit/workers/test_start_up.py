"""A role imports what it needs and no more: each of its processes pays for it."""

import subprocess
import sys

ANSWERING = ("encoder", "functions", "generator", "reference", "scorer")
NOT_FOR_THEM = ("deepspeed", "peft", "sklearn", "vllm")
NOT_FOR_GENERATORS = (*NOT_FOR_THEM, "torch", "transformers")
NOT_FOR_LEARNERS = ("peft", "sklearn", "vllm")


def _imported(roles: tuple[str, ...], packages: tuple[str, ...]) -> str:
    imports = "".join(f"import mmrlhf_ray.workers.roles.{role}\n" for role in roles)
    code = f"{imports}import sys\nprint(*({set(packages)!r} & sys.modules.keys()))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_roles_that_answer_import_no_trainer_and_no_engine() -> None:
    assert _imported(ANSWERING, NOT_FOR_THEM) == ""


def test_generators_import_no_model() -> None:
    assert _imported(("generator",), NOT_FOR_GENERATORS) == ""


def test_learners_import_deepspeed_alone() -> None:
    assert _imported(("learner",), NOT_FOR_LEARNERS) == ""
