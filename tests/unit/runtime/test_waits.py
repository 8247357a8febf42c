"""What Ray raises in the place of an answer, in our words."""

import pytest
from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError, RayTaskError

from mmrlhf_ray.errors import DataError, EngineDied, RoleFailed, Unreachable
from mmrlhf_ray.runtime.waits import role_error

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: Generator
\tactor_id: 2b0f
\tpid: 4711
\tname: generator-0
\tnamespace: ppo-1f
\tip: 10.0.0.7
The actor is dead because its node has died. Some common causes include: a, b."""


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("f", "remote traceback", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (task_error(RuntimeError("lost\nin detail")), "push: g-0 raised RuntimeError: lost"),
        (task_error(OSError(28, "No space left on device")), "push: g-0 raised OSError: [Errno 28] No space left"),
        (task_error(KeyError("x")), "push: g-0 raised KeyError: 'x'"),
        (task_error(AssertionError()), "push: g-0 raised AssertionError: no message"),
        (
            ActorUnavailableError("The actor is temporarily unavailable: RpcError", b"2b0f" * 4),
            "push: g-0 cannot be reached; its node, or the network to it, was gone at least for a moment: ",
        ),
        (ObjectLostError("ab", "owner", "call site"), "push: the answer of g-0 was lost: "),
    ],
)
def test_an_error_that_is_none_of_ours(error: Exception, said: str) -> None:
    told = role_error(error, "push", "g-0")
    assert type(told) is (Unreachable if isinstance(error, ActorUnavailableError) else RoleFailed)
    assert str(told).startswith(said)
    assert "\n" not in str(told)


def test_an_error_of_ours_is_raised_as_it_is() -> None:
    cause = DataError("row 3: too long\nrow 4: too long")
    assert role_error(task_error(cause), "push", "g-0") is cause


def test_a_dead_engine_is_told_with_the_name_of_its_generator_once() -> None:
    told = role_error(task_error(EngineDied("its engine process died")), "generating responses", "generator-1")
    assert type(told) is RoleFailed
    assert str(told) == "generating responses: generator-1: its engine process died"
    assert role_error(task_error(told), "push", "policy-0") is told


def test_a_death_says_why_and_where_but_no_names_twice() -> None:
    told = role_error(RayActorError("2b0f", DIED), "push", "g-0")
    assert "died: The actor died unexpectedly before finishing this task. pid: 4711 ip: 10.0.0.7" in str(told)
    assert str(told).endswith("its node has died.")
