"""One small tokenizer for all tiny families: characters, line breaks and a few merges, and the family's own tokens."""

import string
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

CONTEXT_TOKENS = 1024

BOS, BOXES = "<bos>", ("<|box_start|>", "<|box_end|>")
PAD, UNK, START, END = "<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"
# Line breaks merge as in real vocabularies, where an expanded placeholder may meet one that the template wrote.
_MERGES = (("\n", "\n"), ("\n\n", "\n"), ("\n\n", "\n\n"), ("t", "h"), ("th", "e"), ("i", "s"), (" ", "s"), ("e", "r"))


def build_tokenizer(
    media_tokens: Mapping[str, str], others: Sequence[str] = (), *, bos: bool = False
) -> PreTrainedTokenizerFast:
    """`media_tokens`: name that the processor asks for → token. `others`: special tokens that responses could hold.
    `bos`: put BOS before every text, as Gemma's and Llama's tokenizers do."""
    special = list(dict.fromkeys([PAD, UNK, START, END, *media_tokens.values(), *others, *([BOS] if bos else [])]))
    characters = [*special, *string.printable.replace("\r\x0b\x0c", ""), *(a + b for a, b in _MERGES)]
    vocabulary = {token: i for i, token in enumerate(characters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(_MERGES), unk_token=UNK))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(f"{BOS} $A", None, [(BOS, vocabulary[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS if bos else None,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        extra_special_tokens=dict(media_tokens),
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
    )


def chat_template(shown_as: Mapping[str, str], *, bos: bool = False) -> str:
    """ChatML with `shown_as`: media kind → what stands in the prompt for a clip. `bos`: begin with BOS."""
    media = "".join(f"{{%- elif part.type == '{kind}' -%}}{{{{ {text!r} }}}}" for kind, text in shown_as.items())
    return ("{{ bos_token }}" if bos else "") + (
        "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
        "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
        "{%- for part in message.content -%}"
        "{%- if part.type == 'text' -%}{{ part.text }}" + media + "{%- endif -%}"
        "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )
