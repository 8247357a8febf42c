"""An environment that answers turns with given clips, one each, whatever the policy says."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from mmrlhf_ray.environments.protocol import Part, Shown, Start, Step

QUESTION = "what is this ?"


class Shows:
    """Done when all clips have been shown."""

    def __init__(self, clips: Sequence[tuple[str, str, str]]):
        """`clips`: kind, MIME type and file of each."""
        self._left = deque(clips)

    def reset(self, start: Start) -> tuple[Part, ...]:
        """Nothing beyond the prompt."""
        return ()

    def step(self, response: str) -> Step:
        """The next clip, with a question behind it."""
        if not self._left:
            return Step((), None, True)
        kind, mime, file = self._left.popleft()
        return Step((Shown(kind, mime, Path(file).read_bytes()), QUESTION), None, False)
