"""What Ray Train's own processes import of us, which is therefore little."""

from typing import Any

import ray
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from mmrlhf_ray.runtime.network import meet_over


class MeetOverNodeAddress(TorchConfig):
    """Ray Train's process groups, over the interface that each node's address is of."""

    @property
    def backend_cls(self) -> type[Backend]:
        usual: type[Backend] = super().backend_cls

        class Meeting(usual):  # type: ignore[misc, valid-type]  # only here does Ray Train say which class it is
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(_meet_over_node_address)
                super().on_start(worker_group, backend_config)

        return Meeting


def _meet_over_node_address() -> None:
    meet_over(ray.util.get_node_ip_address())
