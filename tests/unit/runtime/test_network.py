"""The interface that ranks meet over."""

import os
import socket

import psutil
import pytest

from mmrlhf_ray.runtime.network import meet_over

VARIABLE = "GLOO_SOCKET_IFNAME"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is as before afterwards
    monkeypatch.delenv(VARIABLE)


@pytest.mark.parametrize("name", sorted(psutil.net_if_addrs()))
def test_it_is_the_one_with_the_nodes_address(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in psutil.net_if_addrs()[name]:
        if address.family == socket.AF_INET:
            meet_over(address.address)
            assert os.environ[VARIABLE] == name


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv(VARIABLE, "ib0")
    meet_over("127.0.0.1")
    assert os.environ[VARIABLE] == "ib0"


def test_an_address_of_no_interface_changes_nothing() -> None:

    meet_over("203.0.113.1")  # of an address translation, say
    assert VARIABLE not in os.environ
