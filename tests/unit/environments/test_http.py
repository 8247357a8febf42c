"""Environment servers: a real one in a process of its own, over HTTP and over a WebSocket."""

import base64
import socket

import pytest

from mmrlhf_ray.config import HttpEnvironment
from mmrlhf_ray.data.media import decode_image
from mmrlhf_ray.environments.check import check_environment
from mmrlhf_ray.environments.http import ServerEnvironment, observed
from mmrlhf_ray.environments.pool import EnvironmentPool
from mmrlhf_ray.environments.protocol import EpisodeFailed, Shown
from mmrlhf_ray.errors import ConfigError
from tests.unit.environments.server import picture
from tests.unit.environments.support import run, served

PNG = base64.b64encode(picture(9)).decode()
URI = f"data:image/png;base64,{PNG}"
SHOWN = Shown("image", "image/png", picture(9))


@pytest.fixture(scope="module")
def port():
    with served() as number:
        yield number


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("COUNTER_TOKEN", "secret")


def addressed(url, **values):
    return HttpEnvironment(kind="http", url=url, processes=1, **{"token_env": "COUNTER_TOKEN", "call_s": 2} | values)


@pytest.fixture(scope="module", params=["http://127.0.0.1:{}/", "ws://127.0.0.1:{}/ws"], ids=["http", "ws"])
def pool(port, request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNTER_TOKEN", "secret")
        made = EnvironmentPool(addressed(request.param.format(port), arguments={"from": 1}))
        yield made
        made.shut_down()


def test_episodes_are_kept_apart(pool, start):
    async def two():
        one, other = await pool.reset(start(seed=4)), await pool.reset(start(seed=5))
        steps = [await pool.step(one, "up"), await pool.step(other, "down"), await pool.step(one, "up")]
        for episode in (one, other):
            await pool.close(episode)
        return one.observation + other.observation, steps

    first, steps = run(two())
    assert first == ("at 1, seed 4", "at 1, seed 5")
    assert [(step.observation[1], step.reward, step.done) for step in steps] == [
        ('{"at": 2}', 0.5, False), ('{"at": 0}', 0.5, False), ('{"at": 3}', 0.5, True)]  # fmt: skip
    assert [decode_image(step.observation[0].data).getpixel((0, 0))[0] for step in steps] == [2, 0, 3]


@pytest.mark.parametrize("turn", ["crash", "hang"])
def test_a_server_that_fails_ends_its_episode_alone(pool, start, turn):
    async def two():
        failing, other = await pool.reset(start()), await pool.reset(start())
        with pytest.raises(EpisodeFailed, match=r"step: (answered|could not be asked \(ReadTimeout|no answer)"):
            await pool.step(failing, turn)
        return (await pool.step(other, "up")).observation[1]

    assert run(two()) == '{"at": 2}'


def test_a_server_that_is_not_there_is_said_before_the_start(port):
    check_environment(addressed(f"http://127.0.0.1:{port}"))
    check_environment(addressed(f"ws://127.0.0.1:{port}/ws"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
        for url in (f"http://127.0.0.1:{nobody}", f"ws://127.0.0.1:{nobody}/ws"):
            with pytest.raises(ConfigError, match=f"environment.url='{url}' cannot be used: .* cannot be"):
                check_environment(addressed(url))
    with pytest.raises(ConfigError, match="token_env=OTHER_TOKEN, but that environment variable is not set"):
        check_environment(addressed(f"http://127.0.0.1:{port}", token_env="OTHER_TOKEN"))


def test_the_prompt_is_sent_only_where_the_configuration_says_so(port, start):
    told = []
    for send in (False, True):
        episode = ServerEnvironment(addressed(f"http://127.0.0.1:{port}", send_prompt=send))
        told += episode.reset(start(extras={"answer": 4}))
        episode.close()
    assert told == ["at 0, seed 1", "at 0, seed 1, task t, extras {'answer': 4}, messages [], prompt_id p"]


def test_a_wrong_token_is_said(port, start, monkeypatch):
    monkeypatch.setenv("COUNTER_TOKEN", "guessed")
    pool = EnvironmentPool(addressed(f"http://127.0.0.1:{port}"))
    with pytest.raises(EpisodeFailed, match="reset: answered HTTP 401: .*who are you"):
        run(pool.reset(start()))
    pool.shut_down()


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("text", ("text",)),
        (URI, (SHOWN,)),
        (None, ()),
        (7, ("7",)),
        ({"echoed_message": "hello", "reward": 1, "done": False, "metadata": {}}, ("hello",)),
        ({"stdout": "x", "exit_code": 0}, ('{"stdout": "x", "exit_code": 0}',)),
        ({"image": PNG, "text": "look"}, (SHOWN, "look")),
        ({"image": "not base64!"}, ('{"image": "not base64!"}',)),
        ([{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": URI}}], ("look", SHOWN)),
        ({"content": [{"type": "image", "data": PNG, "mime": "image/png"}, "now"], "turn": 3}, (SHOWN, "now")),
        ({"board": [[0, 1], [1, 0]]}, ('{"board": [[0, 1], [1, 0]]}',)),
        ([[0, 1], [1, 0]], ("[[0, 1], [1, 0]]",)),
    ],
)  # fmt: skip
def test_observations_are_read_kindly(value, parts):
    assert tuple(observed(value)) == parts
