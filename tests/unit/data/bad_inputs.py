"""More than 200 inputs that are bad, or odd and good, made by code. `cases()` lists them, `write_case()` writes one."""

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.data import bad_media as media
from tests.unit.data.bad_rows import row_cases

Files = Mapping[str, bytes | Callable[[], bytes]]

NAMES = {"image": "picture.png", "audio": "sound.wav", "video": "clip.mp4"}
LISTS = {"image": "images", "audio": "audios", "video": "videos"}


@dataclass(frozen=True)
class Case:
    """One bad row and why it is."""

    name: str
    row: Any
    """An object, or the bytes of a line."""
    reason: str
    """Regular expression that its reason must match."""
    schema: str = "PROMPT"
    files: Files = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    """Makes what is no plain file."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """More of the data configuration."""
    heavy: bool = False
    """Would take much memory if it were believed."""


def shows(kind: str, reference: Any) -> dict[str, Any]:
    return {"prompt": f"<{kind}> What is this?", LISTS[kind]: [reference]}


def showing(name: str, kind: str, data: bytes | Callable[[], bytes], reason: str, **more: Any) -> Case:
    """A row that shows one file of these bytes."""
    return Case(name, shows(kind, NAMES[kind]), reason, files={NAMES[kind]: data}, **more)


def write_case(case: Case, directory: Path) -> Path:
    """Write a case as the second of two rows; returns the file of records."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in case.files.items():
        (directory / name).write_bytes(data if isinstance(data, bytes) else data())
    if case.prepare is not None:
        case.prepare(directory)
    file = directory / "rows.jsonl"
    line = case.row if isinstance(case.row, bytes) else json.dumps(case.row).encode()
    file.write_bytes(json.dumps(GOOD[case.schema]).encode() + b"\n" + line + b"\n")
    return file


GOOD: Mapping[str, Mapping[str, Any]] = {
    "PROMPT": {"prompt_id": "good", "prompt": "Is this row good?"},
    "DEMONSTRATION": {"prompt_id": "good", "prompt": "Is this row good?", "response": "Yes."},
    "PREFERENCE": {"prompt_id": "good", "prompt": "Is this row good?", "chosen": "Yes.", "rejected": "No."},
    "RANKING": {"prompt_id": "good", "prompt": "Is this row good?", "responses": ["Yes.", "No."], "ranks": [1, 2]},
}


def cases() -> list[Case]:
    """All of them; names are unique."""
    made = [*_damaged(), *_bombs(), *_sounds(), *_clips(), *_references(), *_addresses()]
    made += [Case(f"row: {name}", row, reason, schema) for name, row, reason, schema in row_cases()]
    assert len({case.name for case in made}) == len(made)
    return made


def _damaged() -> Iterator[Case]:
    broken = r"cut off|damaged|broken header|has no samples|zero frames|no (sound|picture) track|cannot be decoded|got "
    for name, (kind, data) in media.truncated().items():
        yield showing(f"truncated {name}", kind, data, broken)
    for name, kind, data in media.scrambled():
        yield showing(name, kind, data, broken)
    for kind in NAMES:
        yield showing(f"empty file as {kind}", kind, b"", "got an empty file")
        for name, data in media.FOREIGN.items():
            yield showing(
                f"{name} as {kind}",
                kind,
                data,
                rf"expected {kind} .*got (bytes that begin with|TIFF|SVG|PDF|an HTML page)",
            )
    others = {"image": media.image, "audio": media.sound, "video": media.clip}
    for kind in NAMES:
        for other, make in others.items():
            if other != kind:
                yield showing(
                    f"{other} as {kind}",
                    kind,
                    make,
                    rf"expected {kind} .*, got (image|audio|video)/|has no sound track",
                )
    yield showing("empty WebP as clip", "video", b"RIFF\x04\x00\x00\x00WEBP", "broken header|cut off")


def _bombs() -> Iterator[Case]:
    pixels = r"pixels, the limit is 50000000|exceeds the limit of 50000000 pixels"
    for side in (8_000, 30_000, 200_000, 2**31 - 1):
        yield showing(f"PNG header of {side}²", "image", media.png(side, side, b""), pixels, heavy=True)
    yield showing(
        "PNG of 12000² black pixels", "image",
        lambda: media.png(12_000, 12_000, media.deflated_zeros(12_000 * 12_001), colour=0), pixels, heavy=True,
    )  # fmt: skip
    yield showing("PNG of no width", "image", media.png(0, 10, b""), "broken header|cut off|damaged")
    yield showing("PNG of no height", "image", media.png(10, 0, b""), "broken header|cut off|damaged")
    yield showing(
        "PNG with a text that inflates", "image",
        lambda: media.png(8, 8, b"", media.chunk(b"zTXt", b"a\0\0" + media.deflated_zeros(200 << 20))),
        "too large|cut off|damaged|broken header", heavy=True,
    )  # fmt: skip
    jpeg = media.image("JPEG")
    yield showing("JPEG header of 65500²", "image", media.jpeg_size(jpeg, 65_500, 65_500), pixels, heavy=True)
    yield showing("JPEG header of 65500×1000", "image", media.jpeg_size(jpeg, 65_500, 1_000), pixels, heavy=True)
    gif = media.patched(media.image("GIF"), 6, struct.pack("<HH", 65_535, 65_535))
    yield showing("GIF screen of 65535²", "image", gif, pixels, heavy=True)
    yield showing("GIF screen of 65535² as clip", "video", gif, "pixels", heavy=True)
    yield showing("GIF whose second frame grows", "video", media.growing_gif, "pixels|is 60000×60000", heavy=True)
    yield showing(
        "WebP header of 16383²", "image", lambda: media.webp_lossless_size(16_383, 16_383), pixels, heavy=True
    )
    bmp = media.patched(media.image("BMP"), 18, struct.pack("<ii", 100_000, 100_000))
    yield showing("BMP header of 100000²", "image", bmp, pixels, heavy=True)
    zipped = "expected image .*got a ZIP archive"
    yield showing("zip bomb as picture", "image", media.zip_bomb, zipped, heavy=True)
    yield showing(
        "file above the limit of bytes",
        "image",
        lambda: media.image() + bytes(65 << 20),
        "the limit is 67108864",
        heavy=True,
    )
    for form in ("GIF", "WEBP"):
        yield showing(
            f"{form} of 25 frames", "video", lambda form=form: media.animation(form, 25), "21 frames, the limit is 20",
            config={"limits": {"frames": 20}},
        )  # fmt: skip
    yield showing(
        "clip above the limit of pixels over all frames", "video", media.clip, "pixels over all frames",
        config={"limits": {"clip_pixels": 5_000}},
    )  # fmt: skip


def _sounds() -> Iterator[Case]:
    wav = media.sound()
    for name, bad in (("NaN", np.nan), ("+Inf", np.inf), ("-Inf", -np.inf)):
        samples = media.sine(16_000)
        samples[77] = bad
        yield showing(f"sound with {name}", "audio", media.float_wav(samples), "audio sample 77 is NaN or infinite")
    yield showing("sound of no samples", "audio", media.float_wav(np.zeros(0, np.float32)), "audio has no samples")
    rates = {"0": 0, "2 GHz": 2_000_000_000}
    for name, rate in rates.items():
        yield showing(
            f"sound of {name}", "audio", media.patched(wav, 24, struct.pack("<I", rate)), "Hz|cut off|damaged"
        )
    for channels in (0, 65, 65_535):
        data = media.patched(wav, 22, struct.pack("<H", channels))
        yield showing(f"sound of {channels} channels", "audio", data, "channels|cut off|damaged|samples")
    lying = media.patched(wav, 40, struct.pack("<I", 0x70000000))
    yield showing(
        "WAV that promises 2 GB",
        "audio",
        media.patched(lying, 4, struct.pack("<I", 0x70000024)),
        "cut off|seconds",
        heavy=True,
    )
    long = {"limits": {"seconds": 0.5}}
    for form in ("WAV", "FLAC", "OGG", "MP3"):
        data = media.sound(form)
        yield showing(f"{form} above the limit of seconds", "audio", data, r"seconds, the limit is 0\.5", config=long)
    yield showing("M4A above the limit of seconds", "audio", media.sound_track, r"the limit is 0\.5", config=long)
    flac = media.sound("FLAC")
    samples = media.patched(flac, 21, bytes([flac[21] | 0x0F]) + b"\xff\xff\xff\xff")
    yield showing("FLAC that promises 2³⁶ samples", "audio", samples, "seconds, the limit", heavy=True)
    yield showing("clip without sound as sound", "audio", lambda: media.clip("mp4"), "has no sound track")
    yield showing(
        "unknown codec in WAV", "audio", media.patched(wav, 20, struct.pack("<H", 0x7777)), "unknown encoding"
    )


def _clips() -> Iterator[Case]:
    avi = media.clip("avi")
    frames = avi.index(b"strh") + 8 + 32  # dwLength of the stream header
    yield showing(
        "AVI that promises 5000 frames",
        "video",
        media.patched(avi, frames, struct.pack("<I", 5_000)),
        "frames, the limit|seconds, the limit",
        heavy=True,
    )
    yield showing("clip of no frames", "video", media.no_frames, "video has zero frames")
    yield showing("clip of sound alone", "video", media.sound_track, "has no picture track")
    yield showing("Ogg of sound alone as clip", "video", lambda: media.sound("OGG"), "has no picture track")
    for limits, reason in (
        ({"frames": 5}, "12 frames, the limit is 5|6 frames, the limit is 5"),
        ({"pixels": 500}, "frame has 1024 pixels, the limit is 500"),
        ({"seconds": 1.0}, "seconds, the limit is 1"),
        ({"bytes": 100}, "bytes, the limit is 100"),
    ):
        for form, codec in (("mp4", "mpeg4"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")):
            (name,) = limits
            yield showing(
                f"{form} above the limit of {name}",
                "video",
                lambda f=form, c=codec: media.clip(f, c),
                reason,
                config={"limits": limits},
            )
    yield showing(
        "clip sampled above the limit of frames",
        "video",
        media.clip,
        "30 frames, the limit is 20",
        config={"limits": {"frames": 20}, "video": {"fps": 10}},
    )


def _references() -> Iterator[Case]:
    def case(name: str, reference: Any, reason: str, prepare: Callable[[Path], None] | None = None) -> Case:
        return Case(f"reference: {name}", shows("image", reference), reason, prepare=prepare)

    outside = "leads out of"

    def secret(root: Path) -> None:
        (root.parent / "secret.png").write_bytes(media.image())

    def link(name: str, target: str) -> Callable[[Path], None]:
        return lambda root: (secret(root), (root / name).symlink_to(target))[0]

    yield case("parent", "../secret.png", outside, secret)
    yield case("parent in disguise", "./a/../../secret.png", "leads out of|cannot be opened", secret)
    yield case("parent, encoded", "..%2fsecret.png", "cannot be opened", secret)
    yield case("parent, backslashes", "..\\secret.png", "cannot be opened", secret)
    yield case("absolute", "/etc/hostname", outside)
    yield case("absolute, twice", "//etc/hostname", outside)
    yield case("device", "/dev/zero", outside)
    yield case("process", "/proc/self/environ", outside)
    yield case("home", "~/secret.png", "cannot be opened")
    yield case("link out", "link.png", outside, link("link.png", "../secret.png"))
    yield case("link to a device", "zero.png", outside, link("zero.png", "/dev/zero"))
    yield case("link to a directory out", "up/secret.png", outside, link("up", ".."))
    yield case("link to itself", "loop.png", "cannot be opened", link("loop.png", "loop.png"))
    yield case("link to nothing", "gone.png", "cannot be opened", link("gone.png", "none.png"))
    yield case("pipe", "pipe.png", "is not a regular file", lambda root: os.mkfifo(root / "pipe.png"))
    yield case("directory", ".", "is not a regular file")
    yield case("nothing", "", "is empty, expected media")
    yield case("missing", "none.png", "No such file")
    yield case("NUL", "a\0b.png", "embedded null")
    yield case("too long", "a" * 5_000, "File name too long")
    yield case("half a surrogate", "\ud800.png", "half a character")
    yield case("data URI without comma", "data:image/png;base64", "without a comma")
    yield case("data URI, no base64", "data:image/png;base64,!!!!", "not base64")
    yield case("data URI, odd length", "data:image/png;base64,AAAAA", "not base64")
    yield case("data URI of text", "data:text/plain,hello", "got bytes that begin with b'hello'")
    yield case("data URI of nothing", "data:image/png;base64,", "an empty file")
    yield case("number", 7, "expected text")
    yield case("list", ["a.png"], "expected text")
    yield case("object of other keys", {"url": "a.png"}, "expected media")
    yield case("object of nothing", {"bytes": None, "path": None}, "expected media")
    yield case("object with text as bytes", {"bytes": "AAAA", "path": None}, "expected media")
    for scheme in (
        "file:///etc/hostname",
        "ftp://a.test/a.png",
        "s3://bucket/a.png",
        "gopher://a.test/",
        "jar:file://a!/b",
    ):
        yield case(scheme, scheme, "is an address of a kind that is not fetched")
    yield case("address where none is allowed", "https://example.org/a.png", "name its host in data.remote.allow_hosts")


PRIVATE_HOSTS = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
    "localhost", "localhost.", "10.0.0.1", "10.1", "172.16.0.1", "192.168.0.1", "192.168.1", "169.254.169.254",
    "2852039166", "0xa9fea9fe", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
]  # fmt: skip


def _addresses() -> Iterator[Case]:
    """Inner addresses in many spellings, allowed by name so that only the check of the address is left."""
    for host in PRIVATE_HOSTS:
        allowed = tuple({host.strip("[]"), host.strip("[].")})
        yield Case(
            f"address: {host}",
            shows("image", f"http://{host}/a.png"),
            "not a public address|is not an address|has no address|not in data.remote.allow_hosts",
            config={"remote": {"allow_hosts": allowed, "allow_http": True}},
        )
    allowed = {"remote": {"allow_hosts": ("media.test",)}}
    for name, url in {
        "other host": "https://other.test/a.png",
        "host in the name": "https://media.test@other.test/a.png",
        "host in the path": "https://other.test/media.test/a.png",
        "host as the start": "https://media.test.other.test/a.png",
        "host behind a fragment": "https://other.test#media.test",
        "no encryption": "http://media.test/a.png",
        "port of its own": "https://media.test:70000/a.png",
        "line break": "https://media.test/\r\nHost: inner",
    }.items():
        yield Case(
            f"address: {name}",
            shows("image", url),
            "allow_hosts|allow_http|password|no address|no https",
            config=allowed,
        )
