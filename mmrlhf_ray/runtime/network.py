"""Which network interface ranks meet over."""

import os

import psutil

_GLOO = "GLOO_SOCKET_IFNAME"


def meet_over(address: str) -> None:
    """Have gloo use this host's interface that has `address`, for process groups that this process joins from now on.

    By itself gloo takes the address that the host's name stands for, which on many hosts (Debian's 127.0.1.1) is one
    that no other host reaches. What the environment says already wins, and so does gloo where no interface has it.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if address in (own.address for own in addresses):
            os.environ.setdefault(_GLOO, name)
