"""Fetching media: from allowed hosts, never from inside, never without end. Against real servers."""

import ipaddress
import ssl
import time

import pytest

from mmrlhf_ray.config.data import RemoteMedia
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media.remote import PUBLIC_NETWORK, fetch, is_public
from mmrlhf_ray.data.records.sources import MediaPlace, load_media
from tests.unit.data.web import certificate_for, loopback_too, named, site
from tests.unit.tiny import picture

PNG = picture(1)
HOST = "media.test"
HERE = named({HOST: ["127.0.0.1"]})
REMOTE = RemoteMedia(allow_hosts=(HOST,), allow_http=True, deadline_s=5)


def sends(body, status=200, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirects(to, status=302):
    return lambda handler: sends(b"", status, Location=to(handler) if callable(to) else to)(handler)


def get(answer, path="/a.png", remote=REMOTE, network=HERE, max_bytes=10_000):
    with site(answer) as server:
        return fetch(f"http://{HOST}:{server.port}{path}", remote, max_bytes, network), server.asked


def refused(answer, reason, **options):
    with pytest.raises(RowError, match=reason) as error:
        get(answer, **options)
    return error.value


def test_bytes_come_whatever_type_they_are_said_to_have():
    got, asked = get(sends(PNG, Content_Type="text/html"))
    assert got == PNG
    assert asked[0][0].startswith(f"{HOST}:")


def test_an_address_is_a_media_reference(tmp_path):
    with pytest.raises(RowError, match="not in data.remote.allow_hosts"):
        load_media("image", "https://example.org/a.png", MediaPlace(tmp_path, remote=REMOTE))
    with pytest.raises(RowError, match="name its host in data.remote.allow_hosts"):
        load_media("image", "https://example.org/a.png", MediaPlace(tmp_path))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://other.test/a.png", "at host 'other.test', which is not in"),
        ("https://media.test.evil.test/a.png", "not in data.remote.allow_hosts"),
        ("https://evilmedia.test/a.png", "not in data.remote.allow_hosts"),
        ("https://media.test@evil.test/a.png", "holds a name or password"),
        ("https://me:pw@media.test/a.png", "holds a name or password"),
        ("http://media.test/a.png", "is not an https address"),
        ("ftp://media.test/a.png", "is not an https address"),
        ("https:///a.png", "at host ''"),
        ("https://[::1/a.png", "is not an address"),
        ("https://media.test:99999/a.png", "is not an address"),
        ("https://media.test/\x00", "is not an address"),
    ],
)
def test_addresses_that_are_not_allowed(url, reason):
    with pytest.raises(RowError, match=reason):
        fetch(url, RemoteMedia(allow_hosts=(HOST,)), 100, HERE)


@pytest.mark.parametrize(
    ("allowed", "host", "fits"),
    [
        (".test", "media.test", True),
        (".test", "test", False),
        ("MEDIA.test", "Media.Test", True),
        ("test", "media.test", False),
    ],
)
def test_hosts_are_allowed_by_name_or_by_what_they_are_below(allowed, host, fits):
    remote = RemoteMedia(allow_hosts=(allowed,))
    reason = "no such name" if fits else "not in data.remote.allow_hosts"
    with pytest.raises(RowError, match=reason):
        fetch(f"https://{host}/a.png", remote, 100, named({}))


PRIVATE = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
    "fc00::1", "fd12::1", "fec0::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::a00:1",
    "2002:a00:1::", "2002:7f00:1::", "2001:db8::1", "2001::1", "100::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))
    network = named({HOST: [address]})
    strict = type(network)(network.resolve)
    with pytest.raises(RowError, match=r"leads to .*, which is not a public address"):
        fetch(f"https://{HOST}/a.png", REMOTE, 100, strict)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "localhost",
     "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127。0。0。1"],
)  # fmt: skip
def test_every_spelling_of_an_inner_address_is_seen_through(host):
    """By the system's own resolver; allowed by name, so that only the check of the address is left."""
    remote = RemoteMedia(allow_hosts=(host.strip("[]"), "127.0.0.1"), allow_http=True)
    with site(sends(PNG)) as server:
        with pytest.raises(RowError, match=r"not a public address|is not an address|not in data.remote|has no address"):
            fetch(f"http://{host}:{server.port}/a.png", remote, 10_000, PUBLIC_NETWORK)
        assert server.asked == []


def test_one_inner_address_among_public_ones_is_enough():
    mixed = named({HOST: ["93.184.216.34", "10.0.0.1"]})
    with pytest.raises(RowError, match="leads to 10.0.0.1"):
        fetch(f"https://{HOST}/a.png", REMOTE, 100, mixed)


def test_a_name_is_resolved_once_and_the_connection_goes_there():
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])

    async def resolve(host, port):
        return next(answers)

    assert get(sends(PNG), network=type(HERE)(resolve, loopback_too))[0] == PNG
    assert next(answers) == ["10.0.0.1"]


def test_another_address_is_tried_where_one_does_not_listen():
    network = type(HERE)(named({HOST: ["::1", "127.0.0.1"]}).resolve, lambda address: address.is_loopback)
    assert get(sends(PNG), network=network)[0] == PNG


def test_redirects_are_followed_as_far_as_allowed():
    def answer(handler):
        number = int(handler.path[1:])
        (sends(PNG) if number == 0 else redirects(f"/{number - 1}"))(handler)

    assert get(answer, path="/3")[0] == PNG
    refused(answer, "redirects more than data.remote.max_redirects=3 times", path="/4")
    no_redirects = REMOTE.model_copy(update={"max_redirects": 0})
    refused(answer, "more than data.remote.max_redirects=0", path="/1", remote=no_redirects)


def test_a_redirect_loop_ends():
    refused(redirects("/a.png"), "redirects more than")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://inner.test/a.png", "leads to 10.0.0.1, which is not a public address"),
        ("http://169.254.169.254/latest/meta-data/", "host '169.254.169.254', which is not in"),
        ("http://other.test/a.png", "host 'other.test', which is not in"),
        ("file:///etc/passwd", "is not an https address"),
        ("//other.test/a.png", "host 'other.test'"),
        ("http://me:pw@media.test/", "holds a name or password"),
        ("http://[::1", "Invalid URL in location header"),
    ],
)
def test_redirects_go_through_the_same_checks(status, target, reason):
    remote = REMOTE.model_copy(update={"allow_hosts": (HOST, "inner.test")})
    network = named({HOST: ["127.0.0.1"], "inner.test": ["10.0.0.1"]})
    refused(redirects(target, status), reason, remote=remote, network=network)


def test_a_redirect_to_nowhere():
    refused(sends(b"", 302), "redirects to nowhere")


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(65_536))


def test_an_endless_body_is_cut_at_the_limit():
    refused(endless, "has more than 10000 bytes, the limit")


def test_a_length_above_the_limit_is_believed():
    refused(sends(b"", Content_Length="10001"), "has more than 10000 bytes, the limit")


@pytest.mark.parametrize("length", ["-5", "x", "1e3"])
def test_a_length_that_is_none(length):
    refused(sends(b"", Content_Length=length), "cannot be fetched")


def test_a_body_that_ends_early_is_refused():
    refused(sends(PNG, Content_Length=str(len(PNG) + 5)), "cannot be fetched")


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-A: b\r\n")
        handler.wfile.flush()
        time.sleep(0.05)


def silent(handler):
    time.sleep(5)


@pytest.mark.parametrize("answer", [drip, drip_headers, silent])
def test_slow_servers_end_at_the_deadline(answer):
    hasty = REMOTE.model_copy(update={"deadline_s": 0.5})
    refused(answer, r"within data.remote.deadline_s=0\.5", remote=hasty)


def test_the_deadline_is_for_all_redirects_together():
    def answer(handler):
        time.sleep(0.3)
        redirects("/again")(handler)

    hasty = REMOTE.model_copy(update={"deadline_s": 0.5, "max_redirects": 100})
    refused(answer, r"within data.remote.deadline_s=0\.5", remote=hasty)


def test_compressed_bodies_are_refused():
    refused(sends(PNG, Content_Encoding="gzip"), "sent compressed")


@pytest.mark.parametrize("status", [204, 206, 304, 403, 404, 500])
def test_other_answers(status):
    refused(sends(b"", status), f"answers with status {status}")


def test_queries_are_not_told():
    error = refused(sends(b"", 404), "status 404", path="/a.png?token=secret")
    assert "secret" not in str(error)


def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert get(sends(PNG))[0] == PNG


@pytest.mark.parametrize(("valid_for", "reason"), [(HOST, None), ("other.test", "CERTIFICATE_VERIFY_FAILED")])
def test_certificates_are_the_hosts_though_we_connect_to_the_address(tmp_path, valid_for, reason):
    files = certificate_for(valid_for, tmp_path)
    network = named({HOST: ["127.0.0.1"]}, ssl.create_default_context(cafile=files[0]))
    remote = RemoteMedia(allow_hosts=(HOST,))
    with site(sends(PNG), files) as server:
        url = f"https://{HOST}:{server.port}/a.png"
        if reason is None:
            assert fetch(url, remote, 10_000, network) == PNG
            return
        with pytest.raises(RowError, match=reason):
            fetch(url, remote, 10_000, network)


def test_unknown_certificates_are_refused(tmp_path):
    with site(sends(PNG), certificate_for(HOST, tmp_path)) as server, pytest.raises(RowError, match="CERTIFICATE"):
        fetch(f"https://{HOST}:{server.port}/a.png", RemoteMedia(allow_hosts=(HOST,)), 10_000, HERE)
