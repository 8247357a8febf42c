"""Roles that share a device: who is on it in which phase, and that they never hold more than it has."""

from dataclasses import dataclass, field

import pytest

from mmrlhf_ray.errors import RunFailed
from mmrlhf_ray.runtime.devices import Held, Phase
from mmrlhf_ray.workers.turns import Turns

DEVICE = 100


@dataclass
class Role:
    """Two actors that say where they are."""

    name: str
    nbytes: int
    said: list[str]
    here: bool = True
    device_bytes: int | None = DEVICE
    fails: list[str] = field(default_factory=list)

    def leave(self) -> list[Held]:
        self.here = False
        self.said.append(f"{self.name} leaves")
        return [Held(0, self.device_bytes)] * 2

    def enter(self, phase: Phase) -> list[Held]:
        if self.fails:
            raise RunFailed(self.fails.pop())
        self.here = True
        self.said.append(f"{self.name} enters")
        return [Held(self.nbytes, self.device_bytes)] * 2


def turns_of(said: list[str], **sizes: int) -> Turns:
    return Turns([tuple(sizes)], {name: Role(name, nbytes, said) for name, nbytes in sizes.items()})


def test_who_is_not_at_work_leaves_before_the_others_enter() -> None:
    said: list[str] = []
    turns = turns_of(said, generator=60, policy=70, scorer=20)
    turns.begin("generate")
    assert said == ["policy leaves", "scorer leaves", "generator enters"]
    said.clear()
    turns.begin("generate")
    assert said == [], "nothing moves within a phase"
    turns.begin("judge")
    assert said == ["generator leaves", "policy enters", "scorer enters"]
    said.clear()
    turns.begin("learn")
    assert said == ["generator leaves", "scorer leaves", "policy enters"]
    assert [entry[:2] for entry in turns.ledger.history[:3]] == [
        ("generate", "policy"),
        ("generate", "scorer"),
        ("generate", "generator"),
    ]


def test_more_than_a_device_has_is_refused_by_name() -> None:
    turns = turns_of([], generator=60, policy=70)
    turns.begin("learn")
    with pytest.raises(RunFailed, match=r"push: the roles on device 0 .* hold more than its .*generator .*policy"):
        turns.begin("push")


def test_just_as_much_as_a_device_has_is_fine() -> None:
    turns = turns_of([], generator=30, policy=70)
    turns.begin("push")
    assert sum(held.nbytes for held in turns.ledger.entries.values()) == 2 * DEVICE


def test_roles_of_other_devices_do_not_count() -> None:
    said: list[str] = []
    roles = {name: Role(name, 60, said) for name in ("generator", "policy", "scorer", "critic")}
    turns = Turns([("generator", "policy"), ("scorer", "critic")], roles)
    turns.begin("learn")
    assert [name for name, role in roles.items() if role.here] == ["policy", "critic"]


def test_after_a_failure_everybody_is_told_again() -> None:
    said: list[str] = []
    turns = turns_of(said, generator=60, policy=70)
    turns.roles["policy"].fails.append("died")  # type: ignore[attr-defined]
    with pytest.raises(RunFailed, match="died"):
        turns.begin("learn")
    said.clear()
    turns.begin("learn")
    assert said == ["generator leaves", "policy enters"]
    turns.forget()
    said.clear()
    turns.begin("learn")
    assert said == ["generator leaves", "policy enters"]
