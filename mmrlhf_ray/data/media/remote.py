"""Media at addresses: from allowed hosts only, and never from inside one's own network.

A name is resolved once. Every address that the answer has must be public, and the connection goes to one of them, so
that a second answer cannot lead elsewhere. Redirects are followed one by one through the same checks.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from mmrlhf_ray.config.data import RemoteMedia
from mmrlhf_ray.data.errors import RowError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"Accept": "image/*, audio/*, video/*, */*;q=0.1", "Accept-Encoding": "identity", "User-Agent": "mmrlhf"}
_SHOWN_CHARACTERS = 120


async def system_resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, or of an address in any of the spellings that the system knows. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: IPAddress) -> bool:
    """Whether an address belongs to the public internet, as far as its number tells."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


@dataclass(frozen=True)
class Network:
    """How names become addresses and which of them may be visited."""

    resolve: Callable[[str, int], Awaitable[Sequence[str]]] = system_resolve
    allowed: Callable[[IPAddress], bool] = is_public
    certificates: ssl.SSLContext | bool = True
    """As httpx takes them."""


PUBLIC_NETWORK = Network()


def fetch(url: str, remote: RemoteMedia, max_bytes: int, network: Network = PUBLIC_NETWORK) -> bytes:
    """The bytes at an address, whatever type the server gives them. Raises RowError, after `remote.deadline_s` at
    most."""
    if not remote.allow_hosts:
        raise RowError(
            f"{_shown(url)} is an address",
            "download the media and give a path, or name its host in data.remote.allow_hosts (--allow-host)",
        )
    return asyncio.run(_fetch(url, remote, max_bytes, network))


async def _fetch(url: str, remote: RemoteMedia, max_bytes: int, network: Network) -> bytes:
    try:
        async with asyncio.timeout(remote.deadline_s):
            return await _follow(url, remote, max_bytes, network)
    except TimeoutError:
        reason = f"{_shown(url)} did not answer in full within data.remote.deadline_s={remote.deadline_s:g}"
        raise RowError(reason, "try again, or download the media and give a path") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        raise RowError(f"{_shown(url)} cannot be fetched: {told}", "correct the address, or try again") from error


async def _follow(url: str, remote: RemoteMedia, max_bytes: int, network: Network) -> bytes:
    # No proxy of the environment: it would resolve the name itself.
    async with httpx.AsyncClient(
        trust_env=False, verify=network.certificates, timeout=remote.deadline_s, follow_redirects=False
    ) as client:
        target = url
        for _ in range(remote.max_redirects + 1):
            content, location = await _visit(client, target, remote, max_bytes, network)
            if location is None:
                return content
            target = location
    raise RowError(
        f"{_shown(url)} redirects more than data.remote.max_redirects={remote.max_redirects} times",
        "give the address that it leads to",
    )


async def _visit(
    client: httpx.AsyncClient, target: str, remote: RemoteMedia, max_bytes: int, network: Network
) -> tuple[bytes, str | None]:
    """(content, None), or (nothing, where the server says to go)."""
    url = _checked(target, remote)
    host = url.raw_host.decode("ascii")
    addresses = await _addresses(url, host, network)
    for number, address in enumerate(addresses, start=1):
        request = client.build_request(
            "GET",
            url.copy_with(host=address),
            headers=_HEADERS | {"Host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": host},  # the certificate must be the host's, not the address's
        )
        try:
            response = await client.send(request, stream=True)
        except httpx.ConnectError:
            if number == len(addresses):
                raise
            continue
        try:
            return await _content(response, url, max_bytes)
        finally:
            await response.aclose()
    raise RowError(f"{_shown(target)} has no address", "correct the address")


def _checked(target: str, remote: RemoteMedia) -> httpx.URL:
    remedy = "give an address of a host in data.remote.allow_hosts"
    try:
        url = httpx.URL(target)
        if url.port is not None and not 0 < url.port < 65_536:
            raise ValueError(f"no port {url.port}")
    except (httpx.InvalidURL, ValueError) as error:
        raise RowError(f"{_shown(target)!r} is not an address: {error}", remedy) from error
    if url.scheme != "https" and not (url.scheme == "http" and remote.allow_http):
        raise RowError(f"{_shown(target)} is not an https address", "use https, or set data.remote.allow_http")
    if url.userinfo:
        raise RowError(f"{_shown(target)} holds a name or password", "give an address without")
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    if not any(_matches(host, allowed.lower()) for allowed in remote.allow_hosts):
        raise RowError(f"{_shown(target)} is at host {host!r}, which is not in data.remote.allow_hosts", remedy)
    return url


def _matches(host: str, allowed: str) -> bool:
    return host.endswith(allowed) and len(host) > len(allowed) if allowed.startswith(".") else host == allowed


async def _addresses(url: httpx.URL, host: str, network: Network) -> list[str]:
    """Those of the host. One that is not public makes all of them suspect."""
    try:
        found = await network.resolve(host, url.port or {"https": 443, "http": 80}[url.scheme])
        parsed = [ipaddress.ip_address(address.partition("%")[0]) for address in found]
    except (OSError, ValueError) as error:
        raise RowError(f"host {host!r} has no address: {error}", "correct the address, or try again") from error
    for address in parsed:
        if not network.allowed(address):
            raise RowError(
                f"{_shown(str(url))} leads to {address}, which is not a public address",
                "give media on public hosts, or download them and give paths",
            )
    return [str(address) for address in parsed]


async def _content(response: httpx.Response, url: httpx.URL, max_bytes: int) -> tuple[bytes, str | None]:
    shown = _shown(str(url))
    if response.status_code in _REDIRECTS:
        location = response.headers.get("Location")
        if not location:
            raise RowError(f"{shown} redirects to nowhere", "correct the address")
        return b"", str(url.join(location))
    if response.status_code != 200:
        raise RowError(f"{shown} answers with status {response.status_code}", "correct the address")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RowError(f"{shown} is sent compressed, which was not asked for", "serve the file as it is")
    too_long = RowError(f"{shown} has more than {max_bytes} bytes, the limit", "give a smaller file")
    if int(response.headers.get("Content-Length", 0) or 0) > max_bytes:
        raise too_long
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise too_long
    return bytes(content), None


def _shown(url: str) -> str:
    """Without name, password and query, which may be secret."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"[:_SHOWN_CHARACTERS]
