"""Real servers on this machine, with names of our own for them."""

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mmrlhf_ray.data.media.remote import IPAddress, Network, is_public
from tests.listening import Quiet, listening

Handler = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Site:
    """A server and what it was asked."""

    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(Host header, path) of each request."""


@contextmanager
def site(answer: Handler, certificate: tuple[Path, Path] | None = None) -> Iterator[Site]:
    """A server on the loopback address; with a certificate it speaks TLS."""

    class Handles(Quiet):
        def do_GET(self) -> None:  # the base class wants this name
            made.asked.append((self.headers["Host"], self.path))
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
    with listening(Handles, tls) as url:
        made = Site(int(url.rpartition(":")[2]))
        yield made


def certificate_for(name: str, folder: Path) -> tuple[Path, Path]:
    """(certificate, key) that is valid for one name, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return files


def loopback_too(address: IPAddress) -> bool:
    """As the real check, but for the address that test servers have."""
    return address == ipaddress.ip_address("127.0.0.1") or is_public(address)


def named(names: dict[str, Sequence[str]], certificates: ssl.SSLContext | bool = True) -> Network:
    """A network in which names have these addresses, and test servers may be visited."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        if host not in names:
            raise OSError(f"no such name: {host}")
        return names[host]

    return Network(resolve, loopback_too, certificates)
