"""Rows as the users of each format have them, and the raw rows that are made of them."""

import json

from tests.unit.data.formats.example import ASKED, FILLED, ONE, PNG, RESPONSES, SEVEN, TAGGED, example
from tests.unit.data.formats.manifest_examples import MANIFESTS, PKU_SAFERLHF

TRL = [
    example("trl", "PROMPT", {"prompt": ASKED, "images": [PNG]}, {"messages": ASKED, "images": [PNG]}),
    example(
        "trl",
        "PREFERENCE",
        {"prompt": ASKED, "images": [PNG], "chosen": SEVEN, "rejected": ONE, "margin": 0.5, "source": "web"},
        {
            "messages": ASKED,
            "images": [PNG],
            "chosen": "Seven.",
            "rejected": "One.",
            "margin": 0.5,
            "extras": {"source": "web"},
        },
    ),
    example(  # parts as `datasets` gives them back
        "trl",
        "DEMONSTRATION",
        {"messages": [{"role": "user", "content": FILLED, "name": None}, *SEVEN], "image": PNG},
        {"messages": ASKED, "images": [PNG], "response": "Seven."},
    ),
    example(
        "trl",
        "DEMONSTRATION",
        {"prompt": [{"role": "user", "content": "Which digit?"}], "images": ["7.png"], "completion": SEVEN},
        {"messages": ASKED, "images": ["7.png"], "response": "Seven."},
    ),
    example(
        "trl",
        "DEMONSTRATION",
        {"prompt": "The sky is", "completion": " blue.", "label": False},
        {"prompt": "The sky is", "response": " blue.", "feedback": -1.0},
    ),
    example(  # the prompt is what both have in common
        "trl",
        "PREFERENCE",
        {"chosen": [*ASKED, *SEVEN], "rejected": [*ASKED, *ONE], "images": [PNG]},
        {"messages": ASKED, "images": [PNG], "chosen": "Seven.", "rejected": "One."},
    ),
]
MS_SWIFT = [
    example(
        "ms_swift",
        "DEMONSTRATION",
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "<image><audio>Same?"},
                {"role": "assistant", "content": "Yes."},
            ],
            "images": ["7.png"],
            "audios": ["7.wav"],
            "label": True,
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "audio"}, {"type": "text", "text": "Same?"}],
                },
            ],
            "images": ["7.png"],
            "audios": ["7.wav"],
            "response": "Yes.",
            "feedback": 1.0,
        },
    ),
    example(  # media without tags come first
        "ms_swift",
        "PREFERENCE",
        {
            "messages": [{"role": "user", "content": "Which digit?"}, {"role": "assistant", "content": "Seven."}],
            "images": ["7.png"],
            "rejected_response": "One.",
            "margin": 2,
        },
        {"messages": ASKED, "images": ["7.png"], "chosen": "Seven.", "rejected": "One.", "margin": 2},
    ),
    example(
        "ms_swift",
        "PREFERENCE",
        {
            "messages": [
                {"role": "user", "content": "<image>Which digit?"},
                {"role": "assistant", "content": "Seven."},
            ],
            "rejected_messages": [
                {"role": "user", "content": "<image>Which digit?"},
                {"role": "assistant", "content": "One."},
            ],
            "images": ["7.png"],
            "rejected_images": ["7.png"],
        },
        {"messages": ASKED, "images": ["7.png"], "chosen": "Seven.", "rejected": "One."},
    ),
]
LLAMAFACTORY = [
    example(
        "llamafactory",
        "PREFERENCE",
        {
            "conversations": [{"from": "human", "value": "<image>\nWhich digit?"}],
            "chosen": {"from": "gpt", "value": "Seven."},
            "rejected": {"from": "gpt", "value": "One."},
            "images": ["7.png"],
            "system": "",
        },
        {"messages": TAGGED, "images": ["7.png"], "chosen": "Seven.", "rejected": "One."},
    ),
    example(
        "llamafactory",
        "DEMONSTRATION",
        {
            "conversations": [
                *({"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}),
                {"from": "human", "value": "<video>Which way?"},
                {"from": "gpt", "value": "Up."},
            ],
            "system": "Be brief.",
            "videos": ["up.mp4"],
            "kto_tag": False,
            "tools": "[]",
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which way?"}]},
            ],
            "videos": ["up.mp4"],
            "response": "Up.",
            "feedback": -1.0,
            "extras": {"tools": "[]"},
        },
    ),
]
OPENAI = [
    example(
        "openai",
        "DEMONSTRATION",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}},
                        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
                        {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
                        {"type": "text", "text": "Same?"},
                    ],
                },
                {"role": "assistant", "content": "Yes."},
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "data:image/png;base64,iVBO"},
                        {"type": "audio", "audio": "data:audio/wav;base64,UklG"},
                        {"type": "video", "video": "https://example.org/a.mp4"},
                        {"type": "text", "text": "Same?"},
                    ],
                }
            ],
            "response": "Yes.",
            "extras": {"image_detail": ["low"]},
        },
    ),
    example(
        "openai",
        "PREFERENCE",
        {
            "input": {"messages": [{"role": "user", "content": "Hi."}]},
            "preferred_output": [{"role": "assistant", "content": "Hello."}],
            "non_preferred_output": [{"role": "assistant", "content": "Bye."}],
        },
        {"messages": [{"role": "user", "content": "Hi."}], "chosen": "Hello.", "rejected": "Bye."},
    ),
]
LLAVA = [
    example(
        "llava",
        "DEMONSTRATION",
        {
            "id": "000000033471",
            "image": "coco/000000033471.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhich digit?"},
                {"from": "gpt", "value": "Seven."},
            ],
        },
        {
            "messages": TAGGED,
            "images": ["coco/000000033471.jpg"],
            "response": "Seven.",
            "extras": {"id": "000000033471"},
        },
    ),
    example(
        "llava",
        "PROMPT",
        {"video": "up.mp4", "conversations": [{"from": "human", "value": "<image>\nWhich digit?"}]},
        {
            "messages": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "\nWhich digit?"}]}],
            "videos": ["up.mp4"],
        },
    ),
]
PAIR = {"question": "Which digit?", "chosen": "Seven.", "rejected": "One."}
PAIR_READ = {"prompt": "Which digit?", "images": [PNG], "chosen": "Seven.", "rejected": "One."}
RLAIF_V = [
    example(
        "rlaif_v",
        "PREFERENCE",
        {"ds_name": "RLAIF-V", "image": PNG, **PAIR, "origin_dataset": "coco", "idx": "3", "image_path": "7.png"},
        PAIR_READ | {"extras": {"ds_name": "RLAIF-V", "origin_dataset": "coco", "idx": "3", "image_path": "7.png"}},
    ),
    example(
        "rlaif_v",
        "PREFERENCE",
        {"ds_name": "RLHF-V", "image": PNG, "text": json.dumps(PAIR), "idx": 3},
        PAIR_READ | {"extras": {"ds_name": "RLHF-V", "idx": 3}},
    ),
]
ALIGN_ANYTHING = [
    example(
        "align_anything",
        "PREFERENCE",
        {"question": "Which digit?", "image": PNG, **RESPONSES, "overall_response": 2, "clarity_rate": 2},
        PAIR_READ | {"extras": {"clarity_rate": 2}},
    ),
    example(
        "align_anything",
        "PREFERENCE",
        {"prompt": "Which tone?", "audio_path": "a.wav", **RESPONSES, "overall_response": 1},
        {"prompt": "Which tone?", "audios": ["a.wav"], "chosen": "One.", "rejected": "Seven."},
    ),
    example(
        "align_anything",
        "RANKING",
        {
            "question": "Which way?",
            "video_path": "a.mp4",
            **RESPONSES,
            "more_helpful_response_id": 2,
            "safer_response_id": 1,
        },
        {
            "prompt": "Which way?",
            "videos": ["a.mp4"],
            "responses": ["One.", "Seven."],
            "ranks": [2, 1],
            "aspects": {"helpful": [0.0, 1.0], "safe": [1.0, 0.0]},
        },
    ),
    example(
        "align_anything_safer",
        "PREFERENCE",
        {"question": "Which digit?", **RESPONSES, "more_helpful_response_id": 2, "safer_response_id": 1},
        {
            "prompt": "Which digit?",
            "chosen": "One.",
            "rejected": "Seven.",
            "extras": {"more_helpful_response_id": 2},
        },
    ),
]
COMPLETIONS = [
    {
        "model": "a",
        "response": "Seven.",
        "annotations": {
            "Helpfulness": {"Rating": "5", "Rationale": "Right."},
            "Visual Faithfulness": {"Rating": "4", "Rationale": "Seen."},
        },
    },
    {"model": "b", "response": "One.", "annotations": {"Helpfulness": {"Rating": "N/A", "Rationale": "?"}}},
]
RATED = {
    "prompt": "Which digit?",
    "images": [PNG],
    "responses": ["Seven.", "One."],
    "aspects": {"Helpfulness": [5.0, None], "Visual Faithfulness": [4.0, None]},
    "extras": {
        "id": "3",
        "completions": [
            {
                "model": "a",
                "annotations": {
                    "Helpfulness": {"Rationale": "Right."},
                    "Visual Faithfulness": {"Rationale": "Seen."},
                },
            },
            {"model": "b", "annotations": {"Helpfulness": {"Rationale": "?"}}},
        ],
    },
}
OVERALL = [
    {"response": "Seven.", "overall_score": 8.5, "annotations": {}},
    {"response": "Two.", "overall_score": 6, "annotations": {}},
    {"response": "One.", "overall_score": 3.0, "annotations": {}},
]
ULTRAFEEDBACK = [
    example(
        "ultrafeedback",
        "RANKING",
        {"id": "3", "prompt": "Which digit?", "image": PNG, "completions": COMPLETIONS},
        RATED,
    ),
    example(  # a sequence of objects as `datasets` keeps it: an object of lists
        "ultrafeedback",
        "RANKING",
        {
            "id": "3",
            "prompt": "Which digit?",
            "image": PNG,
            "completions": {key: [c[key] for c in COMPLETIONS] for key in ("model", "response", "annotations")},
            "models": None,
        },
        RATED,
    ),
    example(
        "ultrafeedback",
        "PREFERENCE",
        {"source": "web", "instruction": "Which digit?", "completions": OVERALL},
        {
            "prompt": "Which digit?",
            "chosen": "Seven.",
            "rejected": "One.",
            "margin": 5.5,
            "extras": {"source": "web", "completions": OVERALL},
        },
    ),
]
VERL = [
    example(
        "verl",
        "PROMPT",
        {
            "data_source": "hiyouga/geometry3k",
            "prompt": [{"role": "user", "content": "<image>Which digit?"}],
            "images": [PNG],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "7"},
            "extra_info": {"split": "train", "index": 3},
        },
        {
            "messages": ASKED,
            "images": [PNG],
            "task": "hiyouga/geometry3k",
            "extras": {
                "ground_truth": "7",
                "reward_model": {"style": "rule"},
                "ability": "math",
                "extra_info": {"split": "train", "index": 3},
            },
        },
    ),
    example(
        "verl",
        "PROMPT",
        {"data_source": "a", "prompt": [{"role": "user", "content": "<video>"}], "videos": [{"video": "a.mp4"}]},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}], "videos": ["a.mp4"], "task": "a"},
    ),
    example(
        "verl",
        "PROMPT",
        {
            "data_source": "a",
            "prompt": [{"role": "user", "content": "<video>"}],
            "videos": [{"type": "video", "video": "a.mp4"}],
        },
        {"messages": [{"role": "user", "content": [{"type": "video"}]}], "videos": ["a.mp4"], "task": "a"},
    ),
]
EXAMPLES = [
    *TRL, *MS_SWIFT, *LLAMAFACTORY, *OPENAI, *LLAVA, *RLAIF_V, *ALIGN_ANYTHING, *ULTRAFEEDBACK, *VERL, *PKU_SAFERLHF,
    *MANIFESTS,
]  # fmt: skip
