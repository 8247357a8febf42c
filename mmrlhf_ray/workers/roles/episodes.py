"""Episodes: the policy and an environment take turns, until the environment is done or there is no room for more."""

import asyncio
import json
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmrlhf_ray.config.data import MediaLimits
from mmrlhf_ray.config.environment import EnvironmentConfig
from mmrlhf_ray.config.generator import GeneratorConfig
from mmrlhf_ray.config.online import SamplingConfig
from mmrlhf_ray.data.encoding.encode import (
    EncodedPrompt,
    Encoder,
    Features,
    RawMedia,
    decode_response,
    encode_prompt,
    too_many_media,
)
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.data.encoding.turns import Content, encode_turn
from mmrlhf_ray.data.media import MediaRow, media_id
from mmrlhf_ray.environments.calls import with_format
from mmrlhf_ray.environments.check import tool_schemas
from mmrlhf_ray.environments.pool import EnvironmentPool
from mmrlhf_ray.environments.pool import Episode as Played
from mmrlhf_ray.environments.protocol import EpisodeFailed, Part, Shown, Start
from mmrlhf_ray.errors import RunFailed
from mmrlhf_ray.rollout.episode import Episode, Row, Turn
from mmrlhf_ray.schema import ENCODED_PROMPT, MEDIA, PROMPT, ROLLOUT, check, modality_of
from mmrlhf_ray.workers.roles.engine import engine_alive
from mmrlhf_ray.workers.roles.engine_input import clips_of, prefix_order, sampling_parameters
from mmrlhf_ray.workers.roles.sampler import Sampler

if TYPE_CHECKING:
    from mmrlhf_ray.workers.roles.engine import Request

_ATTEMPTS = 3
"""At an episode whose environment fails."""
_TURN_STRIDE = 1_000_000_007
"""Keeps the seeds of a response's turns apart from those of other responses."""
EpisodeTables = tuple[pa.Table, pa.Table, pa.Table]
"""ROLLOUT, and MEDIA and FEATURES of what observations show."""


@dataclass
class _Game:
    """One response, and the environment that it is played in."""

    prompt: Row
    """Of ENCODED_PROMPT."""
    start: Start
    number: int
    seed: int
    clips: dict[str, RawMedia]
    """All that the response shows so far, by id."""
    decoded: dict[str, Any]
    """Media as the sampler takes them; those of one batch share it."""
    episode: Episode = field(init=False)
    played: Played | None = None
    own: dict[str, MediaRow] = field(default_factory=dict)
    """Of observations."""
    features: dict[str, Features] = field(default_factory=dict)
    finish_reason: str = ""
    failures: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Back to the prompt."""
        self.episode, self.own, self.features, self.finish_reason = Episode(self.prompt, self.number), {}, {}, ""


class Episodes:
    """Plays episodes with a sampler. One that fails is played again; after three failures the run ends with why."""

    def __init__(
        self,
        sampler: Sampler,
        encoder: Encoder,
        config: EnvironmentConfig,
        sampling: SamplingConfig,
        generator: GeneratorConfig,
        most_prompt_tokens: int,
        limits: MediaLimits | None,
    ):
        """`limits`: of media that tools decode."""
        self._sampler, self._config, self._sampling = sampler, config, sampling
        self._encoder = replace(encoder, tools=tool_schemas(config))
        self._most_media, self._most_prompt_tokens = generator.most_media, most_prompt_tokens
        self._pool = EnvironmentPool(with_format(config, encoder.chat_template), limits)

    async def play(
        self, prompts: pa.Table, records: pa.Table, media: pa.Table, n_samples: int, together: bool
    ) -> EpisodeTables:
        """`n_samples` responses to each row of `prompts`, in prompt order; `records`: PROMPT, those among them. Else as
        Sampler.generate(). `together`: all take their turns at the same time, so that an idle engine does exactly the
        same every time."""
        for table, schema in ((prompts, ENCODED_PROMPT), (records, PROMPT), (media, MEDIA)):
            check(table, schema, "Episodes.play")
        games = self._games(prompts, records, media, n_samples)
        try:
            async with engine_alive():
                if together:
                    await self._in_step(games)
                else:
                    await _all(self._alone(game) for game in games)
        finally:
            for game in games:
                await self._close(game)
        rows = [game.episode.as_row(game.finish_reason) for game in games]
        own = {name: row for game in games for name, row in game.own.items()}
        features = {name: parts for game in games for name, parts in game.features.items()}
        shown = pa.Table.from_pylist(list(own.values()), schema=MEDIA)
        return pa.Table.from_pylist(rows, schema=ROLLOUT), shown, features_table(features)

    def close(self) -> None:
        """End the environments."""
        self._pool.shut_down()

    def _games(self, prompts: pa.Table, records: pa.Table, media: pa.Table, n_samples: int) -> list[_Game]:
        rows, known = prompts.to_pylist(), {row["prompt_id"]: row for row in records.to_pylist()}
        clips, raw = clips_of(rows, media), {row["media_id"]: row for row in media.to_pylist()}
        decoded: dict[str, Any] = {}
        games = []
        for row in rows:
            record, first = known[row["prompt_id"]], self._sampler.seed_of(row, n_samples)
            shown = tuple(Shown(raw[m]["kind"], raw[m]["mime"], raw[m]["data"]) for m in row["media_ids"])
            # Responses that are compared begin alike.
            start = Start(row["prompt_id"], row["task"], record["messages"], record["extras"], shown, first % 2**31)
            games += [_Game(row, start, k, first + k, dict(clips), decoded) for k in range(n_samples)]
        return games

    async def _alone(self, game: _Game) -> None:
        await self._begin(game)
        while not game.finish_reason:
            async with self._sampler.adding(together=False):
                asked = await self._ask(game)
            await self._go_on(game, asked)

    async def _in_step(self, games: Sequence[_Game]) -> None:
        await _all(self._begin(game) for game in games)
        while running := [game for game in games if not game.finish_reason]:
            async with self._sampler.adding(together=True):
                asked = {i: await self._ask(running[i]) for i in prefix_order([g.episode.asked for g in running])}
            await _all(self._go_on(game, asked[i]) for i, game in enumerate(running))

    async def _begin(self, game: _Game) -> None:
        try:
            await self._reset(game)
        except EpisodeFailed as failure:
            await self._again(game, failure)

    async def _reset(self, game: _Game) -> None:
        game.restart()
        game.played = await self._pool.reset(game.start)
        if game.played.observation:
            prompt = await asyncio.to_thread(self._beginning, game, game.played.observation)
            game.episode = Episode(prompt, game.number)

    async def _again(self, game: _Game, failure: EpisodeFailed) -> None:
        await self._close(game)
        game.failures += 1
        if game.failures == _ATTEMPTS:
            raise RunFailed(
                f"prompt {game.start.prompt_id}: its environment failed {_ATTEMPTS} times: {failure.reason}"
            ) from failure
        await self._begin(game)

    async def _close(self, game: _Game) -> None:
        played, game.played = game.played, None
        if played is not None:
            with suppress(EpisodeFailed):
                await self._pool.close(played)

    async def _ask(self, game: _Game) -> "Request":
        """Within Sampler.adding()."""
        episode, asked = game.episode, game.episode.asked
        self._sampler.refuse_unseen([asked])
        left = self._sampling.max_response_tokens - len(episode.response_token_ids)
        most = min(left, self._config.max_turn_tokens or left)
        sampling = self._sampling.model_copy(update={"max_response_tokens": most})
        params = sampling_parameters(self._encoder, sampling, 1, game.seed + episode.turns * _TURN_STRIDE)
        return await self._sampler.ask(asked, game.clips, params, game.decoded)

    async def _go_on(self, game: _Game, asked: "Request") -> None:
        """Take the policy's turn and, unless that was the last, the environment's."""
        turn, finished = self._sampler.turn_of(game.episode.asked, await asked.result())
        try:
            game.finish_reason = await self._answered(game, turn, cut=finished == "length")
        except EpisodeFailed as failure:
            await self._again(game, failure)

    async def _answered(self, game: _Game, turn: Turn, *, cut: bool) -> str:
        """The finish reason, "" where the episode goes on."""
        episode = game.episode
        episode.respond(turn)
        if cut and (self._config.long_turn == "ends" or len(turn.token_ids) != self._config.max_turn_tokens):
            return "length"
        assert game.played is not None
        step = await self._pool.step(game.played, decode_response(self._encoder, turn.token_ids))
        episode.judge(step.reward, step.problem)
        if step.done:
            unanswered = step.observation and episode.turns == self._config.max_turns
            return "length" if unanswered else "stop"
        seen, shown = await asyncio.to_thread(self._observed, game, step.observation)
        if cut:  # what closes the turn was not sampled
            end = [self._encoder.eos_token_ids[0]]
            seen = replace(seen, token_ids=end + seen.token_ids, collapsed_token_ids=end + seen.collapsed_token_ids)
        if len(episode.response_token_ids) + len(seen.token_ids) >= self._sampling.max_response_tokens:
            return "length"
        self._note(game, seen, shown)
        episode.observe(seen, [(clip["kind"], clip["media_id"]) for clip in shown])
        return ""

    def _observed(self, game: _Game, parts: Sequence[Part]) -> tuple[EncodedPrompt, list[MediaRow]]:
        """An observation as tokens, and its clips. What cannot be shown is told in words, and noted as a problem."""
        kinds = [*(game.clips[name].kind for name in game.episode.asked["media_ids"])]
        kinds += [part.kind for part in parts if isinstance(part, Shown)]
        why = too_many_media(kinds, self._most_media)
        if len(game.own) + sum(isinstance(part, Shown) for part in parts) > self._config.max_media:
            why = f"environment.max_media={self._config.max_media} clips have been shown"
        if why is None:
            content, shown = _content(parts)
            try:
                seen = encode_turn(self._encoder, content, _raw(shown))
            except ValueError as error:
                why = str(error)
            else:
                if len(seen.token_ids) <= self._config.max_observation_tokens:
                    return seen, shown
                most = self._config.max_observation_tokens
                why = f"{len(seen.token_ids)} tokens, more than environment.max_observation_tokens={most}"
        game.episode.segments[-1]["problem"] = f"the observation was not shown: {why}"
        return encode_turn(self._encoder, [{"type": "text", "text": "This cannot be shown."}], []), []

    def _beginning(self, game: _Game, parts: Sequence[Part]) -> Row:
        """The prompt with what an environment shows before the policy's first turn, at the end of its last message.
        Raises EpisodeFailed for what cannot be shown."""
        messages, (content, shown) = json.loads(game.start.messages), _content(parts)
        last = messages[-1]
        own = [{"type": "text", "text": last["content"]}] if isinstance(last["content"], str) else last["content"]
        messages[-1] = last | {"content": [*own, *content]}
        prompt_clips = [game.clips[name] for name in game.prompt["media_ids"]]
        try:
            encoded = encode_prompt(self._encoder, json.dumps(messages), [*prompt_clips, *_raw(shown)])
        except ValueError as error:
            raise EpisodeFailed(f"what it shows at the start cannot be shown: {error}") from error
        if len(encoded.token_ids) > self._most_prompt_tokens:
            raise EpisodeFailed(
                f"with what it shows at the start the prompt has {len(encoded.token_ids)} tokens, more than "
                f"data.max_prompt_tokens={self._most_prompt_tokens}"
            )
        self._note(game, encoded, shown)
        return {
            **game.prompt,
            "prompt_token_ids": encoded.token_ids,
            "collapsed_token_ids": encoded.collapsed_token_ids,
            "media_ids": [*game.prompt["media_ids"], *(clip["media_id"] for clip in shown)],
            "modality": modality_of({clip.kind for clip in prompt_clips} | {clip["kind"] for clip in shown}),
        }

    def _note(self, game: _Game, encoded: EncodedPrompt, shown: Sequence[MediaRow]) -> None:
        for clip, raw in zip(shown, _raw(shown), strict=True):
            game.own[raw.media_id], game.clips[raw.media_id] = clip, raw
            game.features[raw.media_id] = encoded.features[raw.media_id]


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it at once; where one fails the others are not left at work."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _content(parts: Sequence[Part]) -> tuple[Content, list[MediaRow]]:
    """Parts of a chat message, and the clips among them."""
    content: list[dict[str, Any]] = []
    shown: list[MediaRow] = []
    for part in parts:
        if isinstance(part, Shown):
            content.append({"type": part.kind})
            name = media_id(part.data)
            shown.append({"media_id": name, "kind": part.kind, "mime": part.mime, "data": part.data})
        else:
            content.append({"type": "text", "text": part})
    return content, shown


def _raw(shown: Sequence[MediaRow]) -> list[RawMedia]:
    return [RawMedia.of(clip) for clip in shown]
