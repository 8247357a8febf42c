"""PKU-SafeRLHF's rows, and manifests of data sets that were not made for chat."""

from tests.unit.data.formats.example import PNG, RESPONSES, example

SAFE = {"prompt": "Which digit?", "response_0": "One.", "response_1": "Seven.", "is_response_0_safe": True}
PKU_SAFERLHF = [
    example(
        "align_anything",
        "PREFERENCE",
        SAFE | {"better_response_id": 1, "safer_response_id": 0},
        {
            "prompt": "Which digit?",
            "chosen": "Seven.",
            "rejected": "One.",
            "extras": {"is_response_0_safe": True, "safer_response_id": 0},
        },
    ),
    example(
        "align_anything",
        "RANKING",
        SAFE | {"better_response_id": 0, "safer_response_id": 1},
        {
            "prompt": "Which digit?",
            "responses": ["One.", "Seven."],
            "ranks": [1, 2],
            "aspects": {"helpful": [1.0, 0.0], "safe": [0.0, 1.0]},
            "extras": {"is_response_0_safe": True},
        },
    ),
    example(
        "align_anything_safer",
        "PREFERENCE",
        SAFE | {"safer_response_id": 0},
        {"prompt": "Which digit?", "chosen": "One.", "rejected": "Seven.", "extras": {"is_response_0_safe": True}},
    ),
    example(  # older rows count from 1
        "align_anything",
        "PREFERENCE",
        {"prompt": "Which digit?", **RESPONSES, "better_response_id": 2},
        {"prompt": "Which digit?", "chosen": "Seven.", "rejected": "One."},
    ),
]
CAPTIONED = {"prompt": "Describe the image.", "response": "A seven."}
HEARD = {"prompt": "Transcribe the speech.", "response": "seven"}
MANIFESTS = [
    example(
        "captions",
        "DEMONSTRATION",
        {"image": "7.jpg", "image_id": 3, "annotation_id": 9, "caption": "A seven."},
        CAPTIONED | {"images": ["7.jpg"], "extras": {"image_id": 3, "annotation_id": 9}},
    ),
    example(
        "captions",
        "DEMONSTRATION",
        {"image": PNG, "captions": ["A seven.", "A digit."]},
        CAPTIONED | {"images": [PNG], "extras": {"captions": ["A seven.", "A digit."]}},
    ),
    example(  # the imagefolder of `datasets`
        "captions",
        "DEMONSTRATION",
        {"file_name": "7.png", "text": "A seven."},
        CAPTIONED | {"images": ["7.png"]},
    ),
    example(  # img2dataset
        "captions",
        "DEMONSTRATION",
        {"images": [PNG], "txt": "A seven.", "key": "0007", "url": "https://example.org/7.png"},
        CAPTIONED | {"images": [PNG], "extras": {"key": "0007", "url": "https://example.org/7.png"}},
    ),
    example(  # NeMo
        "transcripts",
        "DEMONSTRATION",
        {"audio_filepath": "7.flac", "duration": 1.5, "text": "seven"},
        HEARD | {"audios": ["7.flac"], "extras": {"duration": 1.5}},
    ),
    example(  # LibriSpeech
        "transcripts",
        "DEMONSTRATION",
        {"file": "7.flac", "audio": {"bytes": b"fLaC", "path": "7.flac"}, "text": "seven", "speaker_id": 84},
        HEARD | {"audios": [{"bytes": b"fLaC", "path": "7.flac"}], "extras": {"file": "7.flac", "speaker_id": 84}},
    ),
    example(  # the audiofolder of `datasets`
        "transcripts",
        "PROMPT",
        {"file_name": "7.wav", "transcription": "seven"},
        HEARD | {"audios": ["7.wav"]},
    ),
    example(
        "squad",
        "DEMONSTRATION",
        {
            "id": "q",
            "context": "Seven is prime.",
            "question": "Is it?",
            "answers": {"text": ["Yes", "prime"], "answer_start": [0, 1]},
        },
        {
            "prompt": "Seven is prime.\n\nIs it?",
            "response": "Yes",
            "extras": {"answer": "Yes", "answers": ["Yes", "prime"], "id": "q"},
        },
    ),
    example(  # spoken
        "squad",
        "DEMONSTRATION",
        {"audio": "7.wav", "question": "Is it?", "answers": [{"text": "Yes", "answer_start": 0}]},
        {
            "prompt": "Is it?",
            "response": "Yes",
            "audios": ["7.wav"],
            "extras": {"answer": "Yes", "answers": ["Yes"]},
        },
    ),
    example(
        "squad",
        "PROMPT",
        {"context": "Seven is prime.", "question": "Is six?", "answers": []},
        {"prompt": "Seven is prime.\n\nIs six?", "extras": {"answers": []}},
    ),
]
