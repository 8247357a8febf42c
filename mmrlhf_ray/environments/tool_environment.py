"""Tools as an environment: a turn that calls one is shown what it returns, and a turn that does not is the answer."""

from collections.abc import Mapping, Sequence

from mmrlhf_ray.config.environment import ToolsEnvironment
from mmrlhf_ray.data.media import MediaLimits
from mmrlhf_ray.environments.calls import Answer, Call, Unparsable, parse
from mmrlhf_ray.environments.functions import Refused, Tool
from mmrlhf_ray.environments.parts import CannotShow, parts_of
from mmrlhf_ray.environments.protocol import Part, Shown, Start, Step
from mmrlhf_ray.sandbox.inside import report


class ToolEnvironment:
    """One episode. It keeps nothing but the clips shown so far, so that another process can continue it."""

    def __init__(
        self, config: ToolsEnvironment, tools: Mapping[str, Tool], limits: MediaLimits, shown: Sequence[Shown]
    ):
        self._config, self._tools, self._limits = config, tools, limits
        self._shown = shown
        self._schemas = [tool.schema for tool in tools.values()]

    def reset(self, start: Start) -> tuple[Part, ...]:
        """Nothing beyond the prompt."""
        return ()

    def step(self, response: str) -> Step:
        """Run the calls of a turn. Tools that fail say so in text; the episode goes on."""
        turn = parse(response, self._schemas, self._config.call_format)
        if isinstance(turn, Answer):
            return Step((), None, True)
        if isinstance(turn, Unparsable):
            return Step((f"The call cannot be read: {turn.why}.",), None, False, turn.why)
        parts: list[Part] = []
        problems: list[str] = []
        for call in turn[: self._config.max_calls]:
            found, problem = self._run(call)
            parts += found
            problems += [] if problem is None else [problem]
        left = turn[self._config.max_calls :]
        if left:
            names = ", ".join(call.name for call in left)
            parts.append(f"Calls in one turn: {len(turn)}, at most {self._config.max_calls}; not run: {names}.")
        return Step(tuple(parts), None, False, "; ".join(problems) or None)

    def close(self) -> None:
        """Nothing is held."""

    def _run(self, call: Call) -> tuple[tuple[Part, ...], str | None]:
        try:
            value = self._tools[call.name].call(call.arguments, self._shown, self._limits)
        except Refused as refused:
            return _failed(call, str(refused))
        except (Exception, SystemExit) as error:  # noqa: BLE001  the policy is told
            return _failed(call, report(error, __file__))
        try:
            return parts_of(value), None
        except CannotShow as error:
            return _failed(call, str(error))


def _failed(call: Call, why: str) -> tuple[tuple[Part, ...], str]:
    said = f"{call.name} failed: {why}"
    return (said,), said
