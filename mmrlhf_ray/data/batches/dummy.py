"""One minimal prompt per media kind, to run a media tower where a rank has nothing for it."""

import io
import json
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import soundfile
from PIL import Image

from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import Encoder, Features, RawMedia, encode_prompt
from mmrlhf_ray.data.media import to_png

_SIDE = 28  # pixels; processors enlarge what is too small for them


def _image() -> bytes:
    return to_png(Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128)))


def _audio(sampling_rate: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(sampling_rate // 5, dtype=np.float32), sampling_rate, format="WAV")
    return out.getvalue()


def _video() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(2))
        stream.width = stream.height = _SIDE
        stream.pix_fmt = "bgr0"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((_SIDE, _SIDE, 3), 128, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def dummy_rows(encoder: Encoder, kinds: Sequence[str]) -> tuple[dict[str, TokenRow], dict[str, Features]]:
    """A row for each of `kinds` and one for plain text (key "text"), with the features they need."""
    data = {"image": _image, "audio": lambda: _audio(encoder.sampling_rate), "video": _video}
    rows: dict[str, TokenRow] = {}
    features: dict[str, Features] = {}
    for kind in ("text", *kinds):
        media = [RawMedia(f"dummy-{kind}", kind, data[kind]())] if kind in data else []
        parts = [{"type": item.kind} for item in media] + [{"type": "text", "text": "."}]
        encoded = encode_prompt(encoder, json.dumps([{"role": "user", "content": parts}]), media)
        rows[kind] = TokenRow(encoded.token_ids, [], [item.media_id for item in media])
        features |= encoded.features
    return rows, features
