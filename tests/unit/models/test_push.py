"""Models to a hub, with the hub's own library against a hub that this test serves."""

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.config.paths import MAY_FETCH
from mmrlhf_ray.errors import ConfigError, MissingExtra, ModelError, RunFailed
from mmrlhf_ray.models.card import CARD_FILE, Base, CardFacts, write_card
from mmrlhf_ray.models.hub import model_directory
from mmrlhf_ray.models.push import Upload, prepare, push
from tests.listening import Quiet, listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(Quiet):
    """As much of a hub as an upload asks for: small files in the commit, large ones by LFS before it."""

    token = "hf_write"
    created: list[dict[str, Any]]
    stored: dict[str, bytes]
    """sha256 → what was put."""
    files: dict[str, bytes]
    """Those of the commit."""

    def do_GET(self) -> None:
        self._answer(200, {"id": "org/mine", "siblings": []})

    def do_PUT(self) -> None:
        data = self._body()
        self.stored[hashlib.sha256(data).hexdigest()] = data
        self._answer(200, {})

    def do_POST(self) -> None:
        if self.headers["authorization"] != f"Bearer {self.token}":
            self._answer(401, {"error": "Invalid username or password."})
            return
        path, body = self.path.partition("?")[0], self._body()
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.created.append(json.loads(body))
            self._answer(200, {"url": self._url("/org/mine"), "name": "org/mine"})
        elif path.startswith("/api/models/org/mine/preupload/"):
            asked = json.loads(body)["files"]
            modes = {f["path"]: "lfs" if f["path"].endswith(".safetensors") else "regular" for f in asked}
            self._answer(
                200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
            )
        elif path == "/org/mine.git/info/lfs/objects/batch":
            made = [
                {**own, "actions": {"upload": {"href": self._url(f"/put/{own['oid']}")}}}
                for own in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": made})
        elif path.startswith("/api/models/org/mine/commit/"):
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": path})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]
        url = self._url(f"/org/mine/commit/{COMMIT}")
        self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    handler = type("Hub", (_Hub,), {"created": [], "stored": {}, "files": {}})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the command sets it
    monkeypatch.setenv(MAY_FETCH, "1")
    monkeypatch.setenv("HF_TOKEN", _Hub.token)
    with listening(handler) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield handler


@pytest.fixture
def exported(omni: Path, tmp_path: Path) -> Path:
    """A run's model with a card, and files that stay here."""
    path = tmp_path / "run" / "model"
    shutil.copytree(omni, path)
    write_card(path, CardFacts("mine", "Trained.", [Base("base")]))
    (path / ".cache").mkdir()
    (path / ".cache" / "lock").write_text("x")
    return path


def test_all_files_arrive(hub: type[_Hub], exported: Path) -> None:
    upload = prepare(model_directory(str(exported.parent)), "org/mine")
    assert upload.files == tuple(sorted(file.name for file in exported.iterdir() if file.is_file()))
    assert CARD_FILE in upload.files
    assert "model.safetensors" in upload.files
    assert upload.sizes["config.json"] == (exported / "config.json").stat().st_size
    assert push(upload, private=True).endswith("/org/mine")
    (made,) = hub.created
    assert (made["organization"], made["name"]) == ("org", "mine")
    assert made.get("private") or made.get("visibility") == "private"
    assert hub.files == {name: (exported / name).read_bytes() for name in upload.files}


def test_a_token_that_may_not_write(hub: type[_Hub], exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = prepare(exported, "hf:org/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(RunFailed, match=r"hf:org/mine: the hub did not take it: .*401.*that the token may write there"):
        push(upload, private=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match=r"no token to write with; log in with `hf auth login`, or set HF_TOKEN"):
        push(upload, private=False)
    assert hub.files == {}


def test_without_a_network(exported: Path, hub: type[_Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    upload = prepare(exported, "org/mine")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunFailed, match=r"did not take it: ConnectError.*; check the network"):
        push(upload, private=False)
    monkeypatch.delenv(MAY_FETCH)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set, so that nothing is sent"):
        push(upload, private=False)


def test_modelscope_needs_its_package(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = prepare(exported, "ms:org/mine")
    monkeypatch.setattr("mmrlhf_ray.models.push.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="ms:org/mine needs the package modelscope: pip install modelscope"):
        push(upload, private=False)


@pytest.mark.parametrize("name", ["mine", "org/", "ms:mine", "https://example.org/org/mine", "a/b/c"])
def test_names_that_no_hub_has(exported: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected ORG/NAME for Hugging Face, or ms:ORG/NAME"):
        prepare(exported, name)


def prepared(exported: Path) -> Upload:
    return prepare(exported, "org/mine")


def test_incomplete_exports_are_refused(exported: Path, tmp_path: Path) -> None:
    weights = exported / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=r"model.safetensors: cannot be read: .*; export the model again"):
        prepared(exported)
    weights.unlink()
    with pytest.raises(ModelError, match="not all files of the model are there"):
        prepared(exported)
    weights.write_bytes(whole)
    (exported / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="expected the model's tokenizer"):
        prepared(exported)
    (tmp_path / "tokenizer.json").rename(exported / "tokenizer.json")
    (exported / CARD_FILE).unlink()
    with pytest.raises(ModelError, match="expected a model card, found none"):
        prepared(exported)


def test_a_run_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found no config.json there or in model$"):
        model_directory(str(tmp_path))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ModelError, match="the run has exported none yet: see `mmrlhf export`"):
        model_directory(str(tmp_path))
