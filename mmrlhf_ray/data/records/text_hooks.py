"""Cleaning and redacting the texts of rows, before anything else looks at them.

    hooks = TextHookRunner(config.text)
    hooks.start()                            # ConfigError for a hook that cannot be loaded
    row, counts = hooks.apply(raw_row)       # RowError for a text that a hook fails on
    hooks.close()

User hooks run in one process of their own, as reward functions do; `builtin:pii` runs here.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmrlhf_ray.config.data import TextHooks
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.records.pii import mask_pii
from mmrlhf_ray.data.validate import MEDIA_LISTS, parse_json
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.sandbox.child import Child, ChildFailed

BUILT_IN_PII = "builtin:pii"

IMPORT_S = 60.0
"""How long the hooks' files may take to be imported."""
ROW_S = 20.0
"""How long one hook may take for one row."""
MEMORY_MB = 2048

_PROGRAM = "mmrlhf_ray.sandbox.text_process"
_NO_TEXT = frozenset({"prompt_id", "task", "modality", "media_ids", *MEDIA_LISTS.values()})
"""Keys whose strings are names."""
_NO_TEXT_IN_PARTS = frozenset({"role", "type", *MEDIA_LISTS})

_Place = Callable[[str], None]
"""Puts a text back where it was found."""


class TextHookRunner:
    """Runs `config.clean`, then `config.redact`, on every text of a row. Not for several threads."""

    def __init__(self, config: TextHooks):
        self._hooks = [(name, False) for name in config.clean] + [(name, True) for name in config.redact]
        files = [name for name, _ in self._hooks if name != BUILT_IN_PII]
        self._setup = {"functions": files, "memory_mb": MEMORY_MB}
        for name in files:
            file, _, function = name.rpartition(":")
            if not file or file == "builtin" or not function:
                raise ConfigError(f"data.text: {name!r}: expected path/to/file.py:function or {BUILT_IN_PII}")
        self._child: Child | None = None
        self._greeted = False

    def start(self) -> None:
        """Import the hooks. Raises ConfigError when one cannot be loaded."""
        if not self._setup["functions"]:
            return
        try:
            self._running(time.monotonic() + IMPORT_S)
        except ChildFailed as error:
            self.close()
            raise ConfigError(f"data.text: a hook cannot be loaded: {error}") from None

    def apply(self, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        """(a copy of the raw row with its texts changed, what redaction changed).

        Counts go by label (`EMAIL`, `PHONE`, …) for `builtin:pii` and by the hook's name for others, which count
        texts. `messages`, `extras` and `aspects` that are JSON text come back as what they stand for. Names
        (`prompt_id`, `task`) and media references are no texts. Raises RowError when a hook fails.
        """
        row = _copy(raw)
        found = list(_texts(row))
        texts = [text for text, _ in found]
        counts: Counter[str] = Counter()
        for name, counted in self._hooks if texts else ():
            before = texts
            if name == BUILT_IN_PII:
                texts, labels = mask_pii(texts)
                counts.update(labels)
            else:
                texts = self._ask(name, texts)
                if counted:
                    counts[name] += sum(a != b for a, b in zip(before, texts, strict=True))
        for text, (_, place) in zip(texts, found, strict=True):
            place(text)
        return row, {label: count for label, count in counts.items() if count}

    def close(self) -> None:
        """End the hooks' process. The next apply() starts another."""
        if self._child is not None:
            self._child.end()
        self._child, self._greeted = None, False

    def _ask(self, name: str, texts: Sequence[str]) -> list[str]:
        try:
            child = self._running(time.monotonic() + IMPORT_S)
            child.send({"function": name, "texts": list(texts)})
            reply = child.receive(time.monotonic() + ROW_S)
        except ChildFailed as error:
            self.close()
            raise RowError(f"text hook {name}: {error}", "fix the hook, or the row") from None
        if "failed" in reply:
            raise RowError(f"text hook {name} {reply['failed']}", "fix the hook, or the row")
        answer: list[str] = reply["texts"]
        return answer

    def _running(self, until: float) -> Child:
        if self._child is None:
            self._child = Child(_PROGRAM)
            self._child.send(self._setup)
        if not self._greeted:
            reply = self._child.receive(until)
            if "failed" in reply:
                raise ChildFailed(reply["failed"])
            self._greeted = True
        return self._child


def _copy(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Lists and objects anew, all else as it is; JSON text of a record as what it stands for."""
    row = {key: _copied(value) for key, value in raw.items()}
    for key in ("messages", "extras", "aspects"):
        if isinstance(row.get(key), str):
            with suppress(RowError):  # the check of the row says so
                row[key] = parse_json(row[key], key)
    return row


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _texts(row: dict[str, Any]) -> Iterator[tuple[str, _Place]]:
    """Every text of a row with its place."""
    for key, value in row.items():
        if key not in _NO_TEXT:
            names = _NO_TEXT_IN_PARTS if key == "messages" else frozenset()
            yield from _strings(row, key, value, names)


def _strings(holder: Any, key: Any, value: Any, names: frozenset[str]) -> Iterator[tuple[str, _Place]]:
    if isinstance(value, str):
        yield value, lambda text: holder.__setitem__(key, text)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(value, index, item, names)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in names:
                yield from _strings(value, name, item, names)
