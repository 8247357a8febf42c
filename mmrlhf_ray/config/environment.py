"""Environments: what answers a turn of the policy, so that an episode has several."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mmrlhf_ray.config.base import MostMedia
from mmrlhf_ray.config.paths import FunctionText, PathText
from mmrlhf_ray.config.rewards import EnvironmentReward, Reward
from mmrlhf_ray.config.section import Section

CallFormat = Literal["auto", "hermes", "json", "words"]


class EnvironmentBase(Section):
    """Keys that every environment has."""

    max_turns: PositiveInt = 4
    """Turns of the policy in an episode; the last one ends it."""
    max_media: PositiveInt = 8
    """Clips that observations may show in an episode."""
    max_turn_tokens: PositiveInt | None = None
    """Tokens of one turn of the policy; `null` = as many as the response may still have."""
    long_turn: Literal["ends", "is_closed"] = "ends"
    """What becomes of a turn that `max_turn_tokens` cuts off: it `ends` the episode, or it `is_closed` for the policy,
    and the environment answers what there is of it."""
    max_observation_tokens: PositiveInt = 512
    """Tokens of an observation, those of its media counted."""
    max_text_characters: PositiveInt = 4000
    """Text of an observation; longer text is cut, and the policy is told."""
    max_media_bytes: PositiveInt = 8 * 2**20
    """Encoded size of one clip in an observation; a larger one is not shown, and the policy is told."""
    call_s: PositiveFloat = 10.0
    """Seconds that one answer may take; the process is killed when it takes longer."""
    processes: PositiveInt = 2
    """Processes that environments run in, for each generator: so many calls run at one time."""
    memory_mb: PositiveInt = 4096
    """Address space that a process may add to what it starts with."""
    call_format: CallFormat = "auto"
    """How a turn calls a tool: `hermes` (`<tool_call>…</tool_call>`), `json`, `words` (`crop 0 0 500 500`); `auto` = as
    the model's chat template has it."""


def _one_tool(tool: str | dict[str, dict[str, Any]]) -> str | dict[str, dict[str, Any]]:
    if isinstance(tool, dict) and len(tool) != 1:
        raise ValueError(
            f"expected one tool with its arguments, as in `python: {{seconds: 2}}`, got {len(tool)} keys "
            f"({', '.join(tool) or 'none'}); write each tool as an element of its own"
        )
    return tool


Tool = Annotated[FunctionText | dict[FunctionText, dict[str, Any]], AfterValidator(_one_tool)]


class ToolsEnvironment(EnvironmentBase):
    """Tools that the policy may call; a turn without a call is its answer and ends the episode."""

    kind: Literal["tools"]
    tools: tuple[Tool, ...] = Field(min_length=1)
    """Built-in tools (`crop`, `zoom`, `frames`, `listen`, `python`, `search`) and functions of yours
    (`path/to/file.py:function`), each by name or as `name: {argument: value}`."""
    max_calls: PositiveInt = 1
    """Calls of one turn that are run; of others the policy is told that they were not."""
    search_index: PathText | None = None
    """Directory of .txt, .md and .jsonl files, or one such file, that the tool `search` looks into."""

    @field_validator("tools")
    @classmethod
    def _names_differ(cls, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        names = [tool_name(name) for name, _ in named_tools(tools)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two tools are called {', '.join(twice)}; the policy could not tell them apart")
        return tools

    @model_validator(mode="after")
    def _index(self) -> "ToolsEnvironment":
        searches = "search" in [name for name, _ in named_tools(self.tools)]
        if searches and self.search_index is None:
            raise ValueError("tools has search, but search_index is not given; name the directory that it looks into")
        if self.search_index is not None and not searches:
            raise ValueError(f"search_index={self.search_index}, but tools has no search; add it, or leave the key out")
        return self


def named_tools(tools: tuple[Tool, ...]) -> list[tuple[str, dict[str, Any]]]:
    """(built-in's name or `path/to/file.py:function`, its arguments) of each."""
    return [(tool, {}) if isinstance(tool, str) else next(iter(tool.items())) for tool in tools]


def tool_name(tool: str) -> str:
    """The name that the policy calls a tool by."""
    return tool.rpartition(":")[2]


class PythonEnvironment(EnvironmentBase):
    """A class of yours with `reset`, `step` and `close`; see docs/agents.md."""

    kind: Literal["python"]
    environment: FunctionText
    """`path/to/file.py:Class`; one object is made for each episode."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class."""


class GymnasiumEnvironment(EnvironmentBase):
    """An environment of Gymnasium: text in, a picture and text out."""

    kind: Literal["gymnasium"]
    id: str
    """As `gymnasium.make` takes it: `FrozenLake-v1`, or `module:Name-v0`, where importing the module registers it."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of `gymnasium.make`."""
    actions: dict[str, Any] | None = None
    """Word → action: the last of these words in a response is its action; `null` = the response is the action as
    JSON."""
    show: Literal["picture", "text", "both"] = "picture"
    """What the policy is shown: the rendered picture, the observation as text, or both."""


class HttpEnvironment(EnvironmentBase):
    """An environment server with `reset` and `step`, as OpenEnv has it."""

    kind: Literal["http"]
    url: str = Field(pattern=r"^(http|ws)s?://")
    """Address before `/reset` and `/step`; of a WebSocket (`ws://host:port/ws`), one connection for each episode."""
    token_env: str | None = None
    """Environment variable whose value is sent as bearer token."""
    action_key: str = "message"
    """Key of the action that holds the policy's text."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the request to reset."""
    send_prompt: bool = False
    """Whether the request to reset has `prompt_id`, `task`, `messages` and `extras`, ground truth included."""


EnvironmentConfig = Annotated[
    ToolsEnvironment | PythonEnvironment | GymnasiumEnvironment | HttpEnvironment, Field(discriminator="kind")
]


def check_episodes(
    environment: EnvironmentConfig | None, rewards: Sequence[Reward], max_response_tokens: int, most_media: MostMedia
) -> None:
    """Raise ValueError for an environment whose episodes have no room, and for rewards of one that is not there."""
    if environment is None:
        for reward in rewards:
            if isinstance(reward, EnvironmentReward):
                raise ValueError(f"rewards.{reward.name}: kind environment needs `environment`; give it")
            if reward.per_turn:
                raise ValueError(
                    f"rewards.{reward.name}.per_turn: without `environment` a response is one turn; leave it out"
                )
        return
    if environment.max_observation_tokens >= max_response_tokens:
        raise ValueError(
            f"environment.max_observation_tokens={environment.max_observation_tokens} must be below "
            f"sampling.max_response_tokens={max_response_tokens}, which bounds turns and observations together"
        )
    if environment.max_media > most_media.clips:
        raise ValueError(
            f"environment.max_media={environment.max_media} is above {most_media.key}={most_media.clips}, with which "
            "the sampler makes room for them; raise that, or lower it"
        )
