"""Prompts that are encoded before their turn comes."""

from collections import deque
from typing import Any

import ray

from mmrlhf_ray.rollout.batch import Prompts, TakeStats, concat_prompts
from mmrlhf_ray.rollout.ledger import Ledger
from mmrlhf_ray.workers.roles.prompts import PendingPrompts, PromptServer


class PromptsAhead:
    """Draws positions from the ledger and has them encoded; gives prompts in the order drawn."""

    def __init__(self, server: PromptServer, ledger: Ledger):
        self._server, self._ledger = server, ledger
        self._encoded: deque[Prompts] = deque()
        self._pending: deque[PendingPrompts] = deque()
        self.stats = TakeStats.sum([])
        """What the prompts that were taken cost, since a caller last cleared this."""

    @property
    def waiting(self) -> int:
        """Prompts that were asked for and not taken."""
        return self.encoded + sum(pending.count for pending in self._pending)

    @property
    def encoded(self) -> int:
        """Prompts that can be taken without waiting."""
        return sum(len(prompts.table) for prompts in self._encoded)

    @property
    def refs(self) -> list["ray.ObjectRef[Any]"]:
        """What must be there before collect() finds more."""
        return [*self._pending[0].refs] if self._pending else []

    def ask(self, count: int, at_once: int) -> None:
        """Have another `count` prompts encoded, `at_once` in a call; nothing blocks."""
        while count > 0:
            part = min(count, at_once)
            self._pending.append(self._server.ask([self._ledger.draw() for _ in range(part)]))
            count -= part

    def collect(self) -> None:
        """Wait for the prompts that were asked for first. Raises DataError for those that cannot be used."""
        self._encoded.append(self._pending.popleft().result())

    def take(self, count: int) -> list[Prompts]:
        """The next `count` prompts, in as few parts as they were encoded in. Waits for those that are not."""
        parts: list[Prompts] = []
        while count:
            if not self._encoded:
                self.collect()
            head = self._encoded.popleft()
            self.stats = TakeStats.sum([self.stats, head.stats])
            parts.append(head.slice(0, min(count, len(head.table))))
            taken = len(parts[-1].table)
            if taken < len(head.table):
                self._encoded.appendleft(head.slice(taken, len(head.table)))
            count -= taken
        return parts

    def take_joined(self, count: int) -> Prompts:
        """The next `count` prompts as one."""
        self.ask(count - self.waiting, count)
        return concat_prompts(self.take(count))
