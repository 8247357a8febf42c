"""Manifests of data sets that were not made for chat: captions, transcripts, questions about a text.

None of them says what the model is asked, except SQuAD; the request that is put in is part of the format.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import Embedding, Kind, MediaNames, Row, raw_row, refuse
from mmrlhf_ray.data.formats.chat import media_lists
from mmrlhf_ray.data.validate import MEDIA_LISTS, text

CAPTION, TRANSCRIBE = "Describe the image.", "Transcribe the speech."
_OF_OTHERS = {"prompt", "messages", "conversations", "question", "instruction", "chosen", "response", "response_1"}
_IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
_SOUND_FILES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")

_IMAGE_KEYS = {"image": "images", "file_name": "images"}
_CAPTION_KEYS = ("caption", "captions", "text", "txt")
_SOUND_KEYS = {"audio": "audios", "audio_filepath": "audios", "file_name": "audios"}
_TRANSCRIPT_KEYS = ("text", "transcript", "transcription", "sentence", "txt")
_OFFSET = "offset"


@dataclass(frozen=True)
class Captions:
    """A caption of an image: COCO's, img2dataset's, and the imagefolder of `datasets`."""

    name: str = "captions"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION"})
    writes: frozenset[Kind] = frozenset()
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset((*_IMAGE_KEYS, "images", *_CAPTION_KEYS))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        image = "images" in row or "image" in row or _named(row, _IMAGE_FILES)
        plain = {"text"} if _named(row, _IMAGE_FILES) else set()
        return image and bool(row.keys() & {"caption", "captions", "txt", *plain}) and not row.keys() & _OF_OTHERS

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        lists = _one_medium(row, "images", _IMAGE_KEYS)
        captions = row.get("captions")
        if isinstance(captions, list) and captions and "caption" not in row:  # the others stay in the extras
            caption, used = text(captions[0], "captions[0]"), (*_IMAGE_KEYS, "images")
        else:
            key = next((key for key in ("caption", "text", "txt", "captions") if key in row), "caption")
            caption, used = text(row.get(key), key), (*_IMAGE_KEYS, "images", key)
        return raw_row(row, used, prompt=CAPTION, response=caption, **lists)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        refuse(True, f"{kind.lower()}s: it is read only", self.name)
        return {}


@dataclass(frozen=True)
class Transcripts:
    """A sound and what is said in it: NeMo's manifests, LibriSpeech and Common Voice as `datasets` has them."""

    name: str = "transcripts"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION"})
    writes: frozenset[Kind] = frozenset()
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset((*_SOUND_KEYS, "audios", *_TRANSCRIPT_KEYS))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        sound = row.keys() & {"audio", "audios", "audio_filepath"} or _named(row, _SOUND_FILES)
        return bool(sound and row.keys() & set(_TRANSCRIPT_KEYS)) and not row.keys() & _OF_OTHERS

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        if row.get(_OFFSET):
            raise RowError("offset cannot be expressed: the row is a part of its file", "cut the files, one a row")
        lists = _one_medium(row, "audios", _SOUND_KEYS)
        key = next((key for key in _TRANSCRIPT_KEYS if key in row), "text")
        used = (*_SOUND_KEYS, "audios", key)
        return raw_row(row, used, prompt=TRANSCRIBE, response=text(row.get(key), key), **lists)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        refuse(True, f"{kind.lower()}s: it is read only", self.name)
        return {}


@dataclass(frozen=True)
class Squad:
    """SQuAD and its kin: a question about `context`, or about media, and every answer that counts as right."""

    name: str = "squad"
    reads: frozenset[Kind] = frozenset({"PROMPT", "DEMONSTRATION"})
    writes: frozenset[Kind] = frozenset()
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset(("context", "question", "answers", *MEDIA_LISTS, *MEDIA_LISTS.values()))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        about = row.keys() & {"context", *MEDIA_LISTS, *MEDIA_LISTS.values()}
        return bool(about) and row.keys() >= {"question", "answers"} and not row.keys() & (_OF_OTHERS - {"question"})

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        asked = [text(row[key], key) for key in ("context", "question") if row.get(key)]
        answers = _answers(row.get("answers"))
        lists = media_lists(row, MEDIA_LISTS)
        extras = {"answer": answers[0], "answers": answers} if answers and "answer" not in row else {"answers": answers}
        if kind == "DEMONSTRATION" and not answers:
            raise RowError("answers is empty", "leave questions without an answer out, or read them as prompts")
        used = (*self.keys, *MEDIA_LISTS)
        response = answers[0] if answers else None
        return raw_row(row, used, prompt="\n\n".join(asked), response=response, extras=extras, **lists)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        refuse(True, f"{kind.lower()}s: it is read only", self.name)
        return {}


def _named(row: Row, endings: tuple[str, ...]) -> bool:
    """Whether `file_name` is a file of that kind."""
    name = row.get("file_name")
    return isinstance(name, str) and name.lower().endswith(endings)


def _one_medium(row: Row, key: str, single: Mapping[str, str]) -> dict[str, list[Any]]:
    given = {name: of for name, of in single.items() if row.get(name)}
    if len(given) > 1:  # file_name is the name of what stands in the other
        given.pop("file_name", None)
    lists = media_lists({name: row[name] for name in (key, *given) if name in row}, given)
    found = lists.get(key, [])
    if len(found) != 1:
        raise RowError(f"{len(found)} {key}, expected one", f"name one file in {next(iter(single))}")
    return lists


def _answers(value: Any) -> list[str]:
    """The texts of SQuAD's {"text": […]}, of a list of {"text": …}, or of a list of texts."""
    found = value.get("text") if isinstance(value, Mapping) else value
    items = found if isinstance(found, list) else [found]
    texts = [item.get("text") if isinstance(item, Mapping) else item for item in items if item is not None]
    return [text(item, f"answers[{number}]") for number, item in enumerate(texts)]
