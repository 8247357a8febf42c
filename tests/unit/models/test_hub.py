"""Models by name, with the hub's own library against a hub that this test serves."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrlhf_ray.config import SFTConfig
from mmrlhf_ray.config.paths import MAY_FETCH
from mmrlhf_ray.errors import MissingExtra, ModelError
from mmrlhf_ray.models.hub import HubModel, local_model
from mmrlhf_ray.planning.settle import settled
from tests.listening import Quiet, listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "x"}',
    "model.safetensors": b"weights",
    "README.md": b"---\nlicense: mit\n---\n",
    "LICENSE": b"Do as you like.",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"raise SystemExit",
}


class _Hub(Quiet):
    """As much of a hub as a download asks for."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        content, headers = b"", {}
        if path.startswith("/api/models/org/name/revision/"):
            named = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            content = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": named}).encode()
        elif path.startswith("/api/models/org/name/tree/"):
            content = json.dumps(
                [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in self.files.items()]
            ).encode()
        elif path.startswith("/org/name/resolve/") and path.rpartition("/")[2] in self.files:
            content = self.files[path.rpartition("/")[2]]
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    handler = type("Hub", (_Hub,), {"files": dict(FILES), "asked": []})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the command sets it
    monkeypatch.setenv(MAY_FETCH, "1")
    with listening(handler) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield handler


def test_a_model_is_fetched_once_and_without_code_and_pickles(hub: type[_Hub]) -> None:
    found = Path(local_model("hf:org/name"))
    assert {file.name for file in found.iterdir()} == FILES.keys() - {"pytorch_model.bin", "modeling.py"}
    assert found.name == COMMIT
    asked = len(hub.asked)
    assert asked
    assert local_model("hf:org/name") == str(found)
    assert len(hub.asked) == asked


def test_what_an_interrupted_download_left_is_fetched(hub: type[_Hub]) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    hub.files = {"config.json": b"{}", "model.safetensors.index.json": index, "model-1.safetensors": b"1",
                 "model-2.safetensors": b"2"}  # fmt: skip
    found = Path(local_model("hf:org/name@v2"))
    assert any("/revision/v2" in path for path in hub.asked)
    (found / "model-2.safetensors").unlink()
    assert local_model("hf:org/name@v2", fetch=False) == "hf:org/name@v2"
    assert local_model("hf:org/name@v2") == str(found)
    assert (found / "model-2.safetensors").read_bytes() == b"2"


def test_a_model_that_is_not_there_is_refused_with_the_command_by_hand(hub: type[_Hub]) -> None:
    with pytest.raises(ModelError) as caught:
        local_model("hf:org/nothing@main")
    said = str(caught.value)
    assert said.startswith("hf:org/nothing@main: cannot be fetched: RepositoryNotFoundError: ")
    assert said.endswith(
        "; where there is a network, `hf download org/nothing --revision main --local-dir models/nothing` fetches it: "
        "give that directory instead"
    )


def test_a_repository_without_safetensors_is_refused(hub: type[_Hub]) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(ModelError, match="not all the weights in safetensors; expected a model in Hugging Face format"):
        local_model("hf:org/name")


def test_where_there_is_no_network(hub: type[_Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"cannot be fetched: .*`hf download org/name --local-dir models/name`"):
        local_model("hf:org/name")


def test_a_user_who_is_offline_is_not_fetched_for(hub: type[_Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MAY_FETCH)
    with pytest.raises(ModelError, match="not here, and HF_HUB_OFFLINE is set: nothing is fetched; unset it"):
        local_model("hf:org/name")
    assert hub.asked == []


def test_modelscope_is_an_extra() -> None:
    with pytest.raises(MissingExtra) as caught:
        local_model("ms:org/name@v1")
    assert "`modelscope download --model org/name --revision v1 --local_dir models/name`" in str(caught.value)


def test_directories_stay() -> None:
    assert (local_model("models/x"), HubModel.of("/models/hf:x")) == ("models/x", None)


@pytest.mark.parametrize("path", ["hf:name", "hf:a/b/c", "ms:", "hf:a/b@", "hf:a b/c"])
def test_a_wrong_name_is_refused_with_the_configuration(path: str) -> None:
    with pytest.raises(ValueError, match=rf"path={path}: expected {path[:3]}ORG/NAME or {path[:3]}ORG/NAME@REVISION"):
        SFTConfig.model_validate({"name": "n", "model": {"path": path}, "data": {"path": "d"}, "steps": 1})


def test_a_job_is_settled_with_the_directory(hub: type[_Hub]) -> None:
    cfg = SFTConfig.model_validate({"name": "n", "model": {"path": "hf:org/name"}, "data": {"path": "d"}, "steps": 1})
    assert settled(cfg, fetch=False).model.path == cfg.model.path == "hf:org/name"
    assert Path(settled(cfg).model.path).name == COMMIT
