"""`mmrlhf data show`."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.data import show as data_show
from mmrlhf_ray.pipelines.data.rows import open_data
from mmrlhf_ray.reports.serving import HOST, page_server
from tests.unit.data.bad_inputs import cases, write_case
from tests.unit.pipelines.folder import bad_rows, demonstrations, media_folder, write_rows

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class _Tags(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def sources(self) -> list[str]:
        return [str(a[key]) for _, a in self.tags for key in ("src", "href") if a.get(key)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return media_folder(tmp_path / "data")


@pytest.fixture
def client(folder: Path) -> Iterator[httpx.Client]:
    evil = {"prompt": EVIL, "response": EVIL, "task": EVIL, "truth": EVIL}
    config = write_rows(folder, [*demonstrations(), evil, *bad_rows()])
    pages = data_show.Pages(open_data(config), 7)
    with page_server(partial(data_show.answer, pages), 0, data_show.POLICY) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        with httpx.Client(base_url=f"http://{HOST}:{server.server_port}", trust_env=False) as client:
            yield client
        server.shutdown()
        thread.join()


def test_pages_show_rows_with_their_media(client: httpx.Client, folder: Path) -> None:
    page = client.get("/")
    assert page.status_code == 200
    shown = _Tags(page.text)
    counts = {tag: sum(t == tag for t, _ in shown.tags) for tag in ("article", "img", "audio", "video", "script")}
    assert counts == {"article": 7, "img": 4, "audio": 1, "video": 1, "script": 0}
    audio = next(a["src"] for tag, a in shown.tags if tag == "audio")
    part = client.get(str(audio), headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, (folder / "tone.wav").read_bytes()[4:8])
    found = client.get(str(audio))
    assert found.content == (folder / "tone.wav").read_bytes()
    assert found.headers["content-type"] == "audio/wav"
    assert "page 1 of 2" in shown.text
    second = _Tags(client.get("/page/2").text)
    assert "is not JSON" in second.text
    assert "/page/1" in second.sources()


def test_texts_are_text(client: httpx.Client) -> None:
    page = client.get("/").text
    assert _Tags(page).text.count(EVIL) >= 3
    assert not [a for _, a in _Tags(page).tags if "onerror" in a]


def test_nothing_outside_is_asked_for_or_allowed(client: httpx.Client) -> None:
    for path in ("/", "/style.css", "/nothing"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert all(source.startswith("/") for source in _Tags(client.get("/").text).sources())


@pytest.mark.parametrize(
    "path",
    ["/page/0", "/page/3", "/page/99999999999", f"/media/{'0' * 64}", "/media/../rows.jsonl", "/%2e%2e/rows.jsonl"],
)
def test_what_is_not_there(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_other_names_of_this_machine_are_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "rows.example.org"}).status_code == 403
    assert client.post("/").status_code == 501


def test_media_that_are_no_longer_held_are_gone(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_show, "_HELD_BYTES", 1)
    shown = _Tags(client.get("/").text)
    found = [client.get(source).status_code for source in shown.sources() if source.startswith("/media/")]
    assert sorted(set(found)) == [200, 404]


def test_one_file_with_everything_in_it(folder: Path, tmp_path: Path) -> None:
    config = write_rows(folder, [*demonstrations(), {"prompt": EVIL, "response": "a"}])
    said = data_show.write_page(config, None, 20, tmp_path / "pages" / "rows.html")
    page = (tmp_path / "pages" / "rows.html").read_text()
    assert said == f"{tmp_path / 'pages' / 'rows.html'}: 7 of 7 rows"
    shown = _Tags(page)
    assert all(source.startswith("data:") for source in shown.sources())
    assert len(shown.sources()) == 6
    assert EVIL in shown.text
    (policy,) = re.findall(r"default-src &#39;none&#39;; img-src data:[^\"]*sha256-", page)
    assert policy
    assert "script" not in [tag for tag, _ in shown.tags]


def test_rankings_show_ranks_and_ratings(folder: Path, tmp_path: Path) -> None:
    row = {"prompt": "a", "responses": ["b", "c"], "ranks": [2, 1], "aspects": {"right": [1, None]}}
    data_show.write_page(write_rows(folder, [row]), None, 20, tmp_path / "rows.html")
    text = _Tags((tmp_path / "rows.html").read_text()).text
    assert "response 1, rank 2, right 1" in text
    assert "response 2, rank 1" in text


def test_a_port_that_is_taken(folder: Path) -> None:
    with (
        page_server(lambda path, query: None, 0, data_show.POLICY) as taken,
        pytest.raises(RunError, match="cannot be used: .*; choose another with --port"),
    ):
        data_show.serve(write_rows(folder, demonstrations()), None, 20, taken.server_port)


def test_every_bad_input_can_be_shown(tmp_path: Path) -> None:
    for number, case in enumerate(cases()):
        file = write_case(case, tmp_path / str(number) / "data")
        config = DataConfig(path=str(file), format="mmrlhf", on_bad_row="quarantine", **case.config)
        page = tmp_path / f"{number}.html"
        assert data_show.write_page(config, case.schema, 5, page) == f"{page}: 2 of 2 rows", case.name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_no_process(folder: Path, number: signal.Signals) -> None:
    path = write_rows(folder, demonstrations()).path
    command = [sys.executable, "-m", "mmrlhf_ray.cli", "data", "show", str(path)]
    # Shells start what runs in the background with SIGINT ignored, and tests may run there.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heard) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert httpx.get(address, trust_env=False).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stdout.read() == "ended\n"
    assert not [child for child in children if child.is_running()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)


def test_the_command_writes_one_file(folder: Path, tmp_path: Path) -> None:
    path = write_rows(folder, demonstrations()).path
    command = [sys.executable, "-m", "mmrlhf_ray.cli", "data", "show", str(path), "--rows", "2", "--once"]
    done = subprocess.run([*command, str(tmp_path / "p.html")], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'p.html'}: 2 of 6 rows\n"
    assert json.dumps(done.stderr) == '""'
