"""JSON files that hold one object: manifests whose records lie inside, and objects that are none."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mmrlhf_ray.data.rowfiles.base import FRAGMENT_ROWS, Fragment, Row, reading, slices, version_of
from mmrlhf_ray.errors import DataError

_HOLDERS = {"data", "annotations", "rows", "records", "items", "examples", "samples", "instances", "train", "test"}
"""Keys under which objects that are no records hold some."""

_Rows = list[dict[str, Any]]


class JSONObject:
    """COCO's captions, one row for each, with the file of its image in `image`; SQuAD's questions, one row for each,
    with the paragraph in `context`. Other objects are refused."""

    def __init__(self, file: str) -> None:
        self._file = file

    def fragments(self) -> list[Fragment]:
        return slices(self._file, len(_records(self._file, version_of(self._file))), FRAGMENT_ROWS)

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        rows = _records(self._file, version_of(self._file))[fragment.first : fragment.first + fragment.rows]
        yield from enumerate(rows, start=fragment.first)


def holds_records(value: Any) -> bool:
    """Whether the only object of a file is not a record, but holds some."""
    return isinstance(value, Mapping) and "prompt" not in value and bool(_lists(value).keys() & _HOLDERS)


@lru_cache(maxsize=2)
def _records(file: str, version: tuple[int, ...] | None) -> _Rows:
    with reading(file) as raw:
        found = json.loads(raw.read().decode("utf-8-sig"))
    lists = _lists(found)
    if {"images", "annotations"} <= lists.keys():
        return _captions(file, lists["images"], lists["annotations"])
    if "data" in lists and all("paragraphs" in item for item in lists["data"]):
        return list(_questions(file, lists["data"]))
    about = [f"its key {key} holds a list of {len(items):,}" for key, items in lists.items()]
    remedy = "save that list as the file" if lists else "write a list of records, or one record per line"
    said = "; ".join(["an object, not a list of records", *about[:3]])
    raise DataError(f"{file} holds {said}; {remedy}")


def _lists(value: Mapping[str, Any]) -> dict[str, _Rows]:
    """The lists of objects in an object, by key."""
    lists = {key: item for key, item in value.items() if isinstance(item, list) and item}
    return {key: item for key, item in lists.items() if all(isinstance(one, dict) for one in item)}


def _captions(file: str, images: Sequence[Mapping[str, Any]], annotations: _Rows) -> _Rows:
    names = {image.get("id"): image.get("file_name") for image in images}
    rows = [
        {
            "image": names.get(note.get("image_id")),
            **{("annotation_id" if k == "id" else k): v for k, v in note.items()},
        }
        for note in annotations
        if "caption" in note
    ]
    if not rows:
        raise DataError(f"{file} holds COCO annotations without a caption; only captions are read")
    return rows


def _questions(file: str, articles: _Rows) -> Iterator[dict[str, Any]]:
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    title = {"title": article["title"]} if "title" in article else {}
                    yield {"context": paragraph["context"], **title, **asked}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not laid out as SQuAD is: data, paragraphs, qas; {error!r} is in the way"
        ) from error
