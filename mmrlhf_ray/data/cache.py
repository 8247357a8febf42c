"""A cache bounded by bytes."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from mmrlhf_ray.data.encode import EncodedPrompt


class PromptCache:
    """Encoded prompts, least recently used first out, at most `max_bytes` of features."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._bytes = 0
        self._items: OrderedDict[str, EncodedPrompt] = OrderedDict()
        self.misses = 0

    def get(self, prompt_id: str, encode: Callable[[], EncodedPrompt]) -> EncodedPrompt:
        """The cached prompt, or a fresh one."""
        if prompt_id in self._items:
            self._items.move_to_end(prompt_id)
            return self._items[prompt_id]
        self.misses += 1
        item = encode()
        self._items[prompt_id] = item
        self._bytes += _size(item)
        while self._bytes > self._max_bytes and len(self._items) > 1:
            _, old = self._items.popitem(last=False)
            self._bytes -= _size(old)
        return item


def _size(item: EncodedPrompt) -> int:
    return sum(np.asarray(a).nbytes for features in item.features.values() for a in features.values())
