"""A feedback server as the loop uses it: over HTTP, as an administrator. Every call may be made again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pyarrow as pa

from mmrlhf_ray.errors import RunError
from mmrlhf_ray.feedback.annotations import JSON_COLUMNS
from mmrlhf_ray.feedback.client import answered, connect, parts
from mmrlhf_ray.schema import ANNOTATION

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Votes:
    """Of one item."""

    cast: int
    wanted: int


@dataclass(frozen=True)
class LoopClient:
    """Raises RunError where the server refuses, or cannot be reached for a minute."""

    http: httpx.Client
    """Has the address and the token."""

    @classmethod
    def connect(cls, url: str, token: str) -> "LoopClient":
        """Raises RunError unless it is a feedback server and the token an administrator's."""
        client = cls(connect(url, token, _TIMEOUT_S))
        client._call("GET", "/api/annotators")
        return client

    @property
    def url(self) -> str:
        return str(self.http.base_url)

    def add_media(self, media: pa.Table) -> None:
        """Upload a MEDIA table."""
        for row in media.to_pylist():
            self._call("PUT", f"/api/media/{row['media_id']}", content=row["data"], params={"kind": row["kind"]})

    def add_items(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put items into the queue; those that are there already change nothing."""
        for part in parts(rows):
            self._call("POST", "/api/items", json=part)

    def votes(self, item_ids: Sequence[str]) -> dict[str, Votes]:
        """Item → its votes. Raises RunError for items that are not there."""
        found: dict[str, Votes] = {}
        for part in parts(item_ids):
            for item_id, counted in self._call("POST", "/api/items/votes", json=part).json()["items"].items():
                found[item_id] = Votes(counted["votes"], counted["overlap"])
        lacking = [item_id for item_id in item_ids if item_id not in found]
        if lacking:
            raise RunError(
                f"{self.url}: {len(lacking)} of {len(item_ids)} questions of this run are not there, first {lacking[0]}"
                "; is it the server that the run was started with?"
            )
        return found

    def annotations(self) -> pa.Table:
        """The ANNOTATION table of all that was collected."""
        text = self._call("GET", "/api/export", params={"format": "annotations"}).text
        rows = [json.loads(line) for line in text.splitlines()]
        packed = [row | {key: json.dumps(row[key], ensure_ascii=False) for key in JSON_COLUMNS} for row in rows]
        return pa.Table.from_pylist(packed, schema=ANNOTATION)

    def items(self, task: str) -> list[dict[str, Any]]:
        """All items of a task, as GET /api/items has them."""
        found: list[dict[str, Any]] = []
        page = pages = 1
        while page <= pages:
            said = self._call("GET", "/api/items", params={"task": task, "page": page}).json()
            found += said["items"]
            page, pages = page + 1, said["pages"]
        return found

    def medium(self, media_id: str, kind: str) -> dict[str, Any]:
        """Row of the MEDIA table of what the server has stored."""
        answer = self._call("GET", f"/media/{media_id}")
        mime = answer.headers["content-type"].partition(";")[0]
        return {"media_id": media_id, "kind": kind, "mime": mime, "data": answer.content}

    def annotator_token(self, name: str) -> str:
        """A fresh token of the annotator of that name, whose account is made if it is not there."""
        known = [row for row in self._call("GET", "/api/annotators").json() if row["name"] == name]
        if known:
            return str(self._call("POST", f"/api/annotators/{known[0]['id']}/token").json()["token"])
        return str(self._call("POST", "/api/annotators", json={"name": name, "role": "annotator"}).json()["token"])

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return answered(self.http, method, path, **arguments)
