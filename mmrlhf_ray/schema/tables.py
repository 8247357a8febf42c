"""Arrow schemas, declared once. One row is one record; lists are ragged and never padded.

T is the number of response tokens of the row. Token-level lists of one row all have length T.
"""

from collections.abc import Collection
from itertools import chain, combinations

import pyarrow as pa

SCHEMA_VERSION = "8"

MEDIA_KINDS = ("image", "audio", "video")


def modality_of(kinds: Collection[str]) -> str:
    """The column `modality` of a row that shows media of these kinds."""
    return "+".join(kind for kind in MEDIA_KINDS if kind in kinds) or "text"


MODALITIES = tuple(map(modality_of, chain.from_iterable(combinations(MEDIA_KINDS, n) for n in range(4))))
"""All there can be."""

_TOKENS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())
_STRINGS = pa.list_(pa.string())
_SPANS = pa.list_(pa.struct([("version", pa.int64()), ("start", pa.int32()), ("end", pa.int32())]))
_SEGMENTS = pa.list_(
    pa.struct(
        [
            ("kind", pa.string()),  # response | observation
            ("start", pa.int32()),  # tokens [start, end) of the response part
            ("end", pa.int32()),
            ("shows", _STRINGS),  # kinds of the clips that an observation shows, in order
            ("reward", pa.float32()),  # of the turn, from the environment; NaN = it gave none
            ("problem", pa.string()),  # why a tool failed, or ""
        ]
    )
)


def _schema(name: str, *fields: tuple[str, pa.DataType]) -> pa.Schema:
    metadata = {"mmrlhf.table": name, "mmrlhf.schema_version": SCHEMA_VERSION}
    return pa.schema([pa.field(n, t, nullable=False) for n, t in fields], metadata=metadata)


_PROMPT_FIELDS = (
    ("prompt_id", pa.string()),
    ("messages", pa.string()),  # JSON: chat messages, content parts {"type": "text"|"image"|"audio"|"video"}
    ("media_ids", _STRINGS),  # in the order of the media parts in `messages`
    ("task", pa.string()),
    ("modality", pa.string()),  # kinds present, joined by "+" in the order image, audio, video; or "text"
    ("extras", pa.string()),  # JSON: ground truth, facts, …
)

PROMPT = _schema("PROMPT", *_PROMPT_FIELDS)

# Encoded media and raw media live in their own tables, so n samples of a prompt never copy a clip.
MEDIA = _schema(
    "MEDIA",
    ("media_id", pa.string()),  # sha256 of `data`
    ("kind", pa.string()),
    ("mime", pa.string()),
    ("data", pa.large_binary()),
)

FEATURES = _schema(
    "FEATURES",
    ("media_id", pa.string()),
    ("key", pa.string()),  # the processor's own name of the tensor, e.g. pixel_values
    ("dtype", pa.string()),  # numpy dtype name
    ("shape", pa.list_(pa.int64())),
    ("data", pa.large_binary()),  # C-contiguous
)

# A prompt after the processor, as the generator and every learner take it.
ENCODED_PROMPT = _schema(
    "ENCODED_PROMPT",
    ("group_id", pa.int64()),  # the position drawn: a prompt that is drawn twice is two groups
    ("prompt_id", pa.string()),
    ("task", pa.string()),
    ("modality", pa.string()),
    ("prompt_token_ids", _TOKENS),  # processor-expanded
    ("collapsed_token_ids", _TOKENS),  # one placeholder per clip, for the sampler
    ("facts_token_ids", _TOKENS),
    ("media_ids", _STRINGS),
)

# A demonstration or preference after the processor, as Ray Data hands it to the training workers.
TRAINING_ROW = _schema(
    "TRAINING_ROW",
    ("row", pa.int64()),  # number in the records that were read
    ("prompt_id", pa.string()),
    ("task", pa.string()),
    ("modality", pa.string()),
    ("context_token_ids", _TOKENS),  # facts if asked for, then the processor-expanded prompt
    ("responses_token_ids", pa.list_(_TOKENS)),  # a demonstration; chosen and rejected; or all ranked responses
    ("margin", pa.float32()),
    ("feedback", _FLOATS),  # per response: chosen 1, rejected -1, a demonstration's own, 0 where no one judged
    ("ranks", pa.list_(pa.int32())),  # per response, 1 = best; empty where no one ranked
    ("ratings", pa.list_(_FLOATS)),  # per response, one for each aspect asked for, NaN = not rated; or empty
    ("ref_logprobs", pa.list_(_FLOATS)),  # per response and token; empty until computed
    ("marked", pa.list_(pa.list_(pa.bool_()))),  # per response and token: a person marked it; empty without marks
    ("media_ids", _STRINGS),
    ("features", pa.large_binary()),  # FEATURES of the row's media as an Arrow IPC stream
    ("problem", pa.string()),  # why the row cannot be used, or ""
)

DEMONSTRATION = _schema(
    "DEMONSTRATION",
    *_PROMPT_FIELDS,
    ("response", pa.string()),
    ("feedback", pa.float32()),  # 1 liked, -1 disliked, fractions = weighted; 0 = a demonstration to imitate
)

PREFERENCE = _schema(
    "PREFERENCE",
    *_PROMPT_FIELDS,
    ("chosen", pa.string()),
    ("rejected", pa.string()),
    ("margin", pa.float32()),  # 0 where the source has none
)

RANKING = _schema(
    "RANKING",
    *_PROMPT_FIELDS,
    ("responses", _STRINGS),
    ("ranks", pa.list_(pa.int32())),  # of each response, 1 = best, equal = tie; empty where there are ratings only
    ("aspects", pa.string()),  # JSON: {aspect: [rating per response, null = not rated]}
)

# The canonical record of feedback; pairs are derived from it. Ranks and ratings are in the order of `responses`: the
# order in which they were shown is undone. Texts and spans are about responses[order_shown[0]].
ANNOTATION = _schema(
    "ANNOTATION",
    ("annotation_id", pa.string()),
    ("item_id", pa.string()),  # what was asked; the same for all who were asked it
    ("prompt_id", pa.string()),
    ("responses", _STRINGS),
    ("turns", pa.string()),  # JSON: [[{kind, text, media_ids}] of each response], [] where all are of one turn
    ("sources", _STRINGS),  # who or what wrote each response; "" = unknown
    ("annotator_id", pa.string()),
    ("role", pa.string()),  # annotator | reviewer: the decision on a disagreement, which outweighs the votes
    ("kind", pa.string()),  # pair | rank | rate | correct | demonstrate | spans | critique | implicit
    ("order_shown", pa.list_(pa.int32())),  # indices into `responses`
    ("choice", pa.string()),  # what was clicked in a pair, as shown: left | right | tie | both_bad; else ""
    ("ranks", pa.list_(pa.int32())),  # rank of each response, 1 = best, equal = tie
    ("aspects", pa.string()),  # JSON: {aspect: [rating per response, null = not rated]}
    ("text", pa.string()),  # the corrected response, or the demonstration
    ("spans", pa.string()),  # JSON: [[start, end, note]] of what is wrong, in Unicode characters of the response
    ("regions", pa.string()),  # JSON: places pointed at, of any kind of answer; see feedback/regions.py
    ("critique", pa.string()),  # asked for, or given along with another answer
    ("comment", pa.string()),  # for those who run the collection
    ("gold", pa.bool_()),  # asked to test the annotator: not for training
    ("round", pa.int32()),
    ("milliseconds", pa.int64()),  # time spent
    ("created", pa.string()),  # ISO 8601, UTC; "" = unknown
)

_ROLLOUT_FIELDS = (
    ("sample_id", pa.string()),
    ("group_id", pa.int64()),  # responses of one group are compared with each other
    ("prompt_id", pa.string()),
    ("task", pa.string()),
    ("modality", pa.string()),
    ("policy_version", pa.int32()),  # that sampled the first token
    ("versions", _SPANS),  # which version sampled tokens [start, end), in order; empty where no policy sampled them
    ("segments", _SEGMENTS),  # of an episode of several turns, in order; empty where the response is one turn
    ("prompt_token_ids", _TOKENS),  # processor-expanded
    ("facts_token_ids", _TOKENS),  # text the reward model reads before the prompt; empty without facts
    ("response_token_ids", _TOKENS),
    ("response_mask", pa.list_(pa.bool_())),  # true = sampled by the policy, and trained on
    ("rollout_logprobs", _FLOATS),
    ("finish_reason", pa.string()),  # stop | length
    ("media_ids", _STRINGS),  # of the prompt, then those of the observations, as their tokens stand
)

ROLLOUT = _schema("ROLLOUT", *_ROLLOUT_FIELDS)

EXPERIENCE = _schema(
    "EXPERIENCE",
    *_ROLLOUT_FIELDS,
    ("score", pa.float32()),
    ("rewards", _FLOATS),
    ("old_logprobs", _FLOATS),
    ("ref_logprobs", _FLOATS),  # NaN where no reference was asked
    ("values", _FLOATS),
    ("advantages", _FLOATS),
    ("returns", _FLOATS),
    # The same number of entries for each token, one teacher's after the other (algorithms/distillation.py); else empty.
    ("teacher_distributions", _FLOATS),
)

# Decoded responses for people to look at and evaluation to score; written, never trained on.
RESPONSE = _schema(
    "RESPONSE",
    ("step", pa.int32()),  # the policy version that answered
    ("policy", pa.string()),  # label of the policy: sft, ppo, …
    ("media", pa.string()),  # own | swapped: with whose media the prompt was asked
    ("prompt_id", pa.string()),
    ("task", pa.string()),
    ("modality", pa.string()),
    ("text", pa.string()),  # of an episode its last turn, the answer
    ("finish_reason", pa.string()),
    ("response_tokens", pa.int32()),
    ("score", pa.float32()),  # mixed over the rewards; NaN where none was asked
    ("kl", pa.float32()),  # sum over tokens of k1 to the reference, nats; NaN where none was asked
    ("sample_id", pa.string()),
    ("group_id", pa.int64()),  # responses of one group answer one prompt
    ("messages", pa.string()),  # of the prompt, as in PROMPT
    ("media_ids", _STRINGS),
    ("extras", pa.string()),  # of the prompt, as in PROMPT: ground truth, facts, …
    ("components", pa.string()),  # JSON: {reward component: its number, null = none}
    ("advantage", pa.float32()),  # mean over the tokens that are trained on; NaN where nothing is learned
    # The lists below have one entry per token, or are empty where tokens are not kept.
    ("response_token_ids", _TOKENS),
    ("tokens", _STRINGS),  # the text of each
    ("response_mask", pa.list_(pa.bool_())),
    ("rollout_logprobs", _FLOATS),
    ("old_logprobs", _FLOATS),
    ("ref_logprobs", _FLOATS),  # NaN where no reference was asked
    ("ratios", _FLOATS),  # of the learner's probability before the update to the sampler's; NaN of what none sampled
    ("advantages", _FLOATS),
    ("versions", _SPANS),  # as in ROLLOUT
    ("turns", pa.string()),  # JSON: an episode's segments as in ROLLOUT, each with `text` and `media_ids`; else []
)

# A reward model's scores of held-out responses, and people's ranks and ratings of them.
EVAL_SCORE = _schema(
    "EVAL_SCORE",
    ("row", pa.int64()),  # number in the records that were read
    ("prompt_id", pa.string()),
    ("task", pa.string()),
    ("modality", pa.string()),
    ("response", pa.int32()),  # number in the row
    ("score", pa.float32()),  # mean over the members of the ensemble
    ("uncertainty", pa.float32()),  # standard deviation over them
    ("members", _FLOATS),  # score by each of them
    ("rank", pa.int32()),  # people's, 1 = best, equal = tie; 0 = no one ranked
    ("aspects", _FLOATS),  # the model's rating of each aspect; empty without aspects
    ("ratings", _FLOATS),  # people's, NaN = not rated; empty without aspects
    ("form", _FLOATS),  # measures of form, in the order of `debias`
)

# Honest and adversarial responses, as rewards score them.
PROBE = _schema(
    "PROBE",
    ("prompt_id", pa.string()),
    ("task", pa.string()),
    ("modality", pa.string()),
    ("probe", pa.string()),  # honest, or how the response tries to fool
    ("text", pa.string()),
    ("response_tokens", pa.int32()),
    ("score", pa.float32()),  # mixture; NaN where a component's missing number drops the row
    ("scores", _FLOATS),  # by each component, in the order of `rewards`; NaN = none
)

TABLES = {
    "PROMPT": PROMPT,
    "MEDIA": MEDIA,
    "FEATURES": FEATURES,
    "ENCODED_PROMPT": ENCODED_PROMPT,
    "DEMONSTRATION": DEMONSTRATION,
    "PREFERENCE": PREFERENCE,
    "RANKING": RANKING,
    "ANNOTATION": ANNOTATION,
    "ROLLOUT": ROLLOUT,
    "EXPERIENCE": EXPERIENCE,
    "RESPONSE": RESPONSE,
    "TRAINING_ROW": TRAINING_ROW,
    "EVAL_SCORE": EVAL_SCORE,
    "PROBE": PROBE,
}
