"""What others rely on by name: tables, exported names, the command's subcommands."""

import importlib
import json
import pkgutil

import mmrlhf_ray
from tests.contracts import schema


def test_tables_are_as_in_the_snapshot() -> None:
    assert schema.current() == json.loads(schema.SNAPSHOT.read_text()), (
        "the data contract changed; if that is meant, raise SCHEMA_VERSION and run python -m tests.contracts.schema"
    )


def test_every_exported_name_exists_once() -> None:
    packages = [m.name for m in pkgutil.iter_modules(mmrlhf_ray.__path__, "mmrlhf_ray.") if m.ispkg]
    assert packages
    for package in map(importlib.import_module, packages):
        names = getattr(package, "__all__", [])
        assert len(names) == len(set(names)), package.__name__
        assert [name for name in names if not hasattr(package, name)] == [], package.__name__


def test_the_commands_are_those_of_the_readme() -> None:
    from mmrlhf_ray.cli.main import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    training = {"sft", "reward-model", "preference", "ppo", "train"}
    others = {"config", "demo", "parity", "doctor", "plan", "submit", "report"}
    models = {"export", "average", "push", "generate", "chat", "serve"}
    decisions = {"discrete", "discrete-export", "discrete-serve", "behaviour"}
    assert names == training | {"evaluate", "probe-reward", "iterate"} | others | models | decisions
