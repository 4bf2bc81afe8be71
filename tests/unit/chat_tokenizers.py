"""Small tokenizers with the chat templates that models have, written after their public behaviour."""

import json
from dataclasses import dataclass, replace

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "You are a precise math reasoner. Solve the problem step by step.",
    "Ada has 12 pens and buys 7 more. How many pens does Ada have now? #### 19",
    "system user assistant model\n\nProblem:\nSolution:\n",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% set first = namespace(text='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set first.text = m.content + '\n\n' %}"
    "{% elif m.role == 'user' %}[INST] {{ first.text + m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_QWEN = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + CHATML
)
_THINKING = (
    CHATML.removesuffix("{% endif %}")
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_ALWAYS_THINKING = CHATML.removesuffix("{% endif %}") + "<think>\n{% endif %}"
_ZEPHYR_WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}</s>\n"
    "{% elif m.role == 'assistant' %}<|assistant|>\n{{ m.content }}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n{% endif %}<tools>{{ tools | tojson }}</tools><|im_end|>\n"
    "{% elif messages[0].role == 'system' %}"
    "<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "<|im_start|>user\n<tool_response>{{ m.content }}</tool_response><|im_end|>\n"
    "{% elif m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A tokenizer's control tokens and its template."""

    template: str | None
    special: tuple[str, ...]
    end_of_turn: str
    """The token with which the template ends a turn."""
    eos: str
    bos: str | None = None
    markup: tuple[str, ...] = ()
    """Tokens of the template that the tokenizer does not call special."""
    is_sentencepiece: bool = False
    has_system_role: bool = True


FAMILIES = {
    "chatml": Family(
        template=CHATML,
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        end_of_turn="<|im_end|>",
        eos="<|endoftext|>",
    ),
    "llama_3": Family(
        template=_LLAMA_3,
        special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
        end_of_turn="<|eot_id|>",
        eos="<|end_of_text|>",
        bos="<|begin_of_text|>",
    ),
    "gemma": Family(
        template=_GEMMA,
        special=("<start_of_turn>", "<end_of_turn>", "<eos>"),
        end_of_turn="<end_of_turn>",
        eos="<eos>",
        bos="<bos>",
        is_sentencepiece=True,
        has_system_role=False,
    ),
    "mistral": Family(
        template=_MISTRAL,
        special=("[INST]", "[/INST]", "</s>"),
        end_of_turn="</s>",
        eos="</s>",
        bos="<s>",
        is_sentencepiece=True,
    ),
    "qwen_2.5": Family(
        template=_QWEN,
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        end_of_turn="<|im_end|>",
        eos="<|im_end|>",
    ),
    "qwen_3": Family(
        template=_THINKING,
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        end_of_turn="<|im_end|>",
        eos="<|im_end|>",
        markup=("<think>", "</think>"),
    ),
    "no_system_role": Family(
        template=_ZEPHYR_WITHOUT_SYSTEM,
        special=("</s>",),
        end_of_turn="</s>",
        eos="</s>",
        markup=("<|user|>", "<|assistant|>"),
        has_system_role=False,
    ),
    "with_bos": Family(
        template=_WITH_BOS, special=("</s>",), end_of_turn="</s>", eos="</s>", bos="<s>"
    ),
    "tools": Family(
        template=_TOOLS,
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        end_of_turn="<|im_end|>",
        eos="<|im_end|>",
        markup=("<tools>", "</tools>", "<tool_response>", "</tool_response>"),
    ),
}
FAMILIES["always_thinking"] = replace(FAMILIES["qwen_3"], template=_ALWAYS_THINKING)


def make_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A byte-level BPE, or one like SentencePiece's with a prefix space and byte fallback."""
    special = [*family.special, *([family.bos] if family.bos else [])]
    backend = _sentencepiece(special) if family.is_sentencepiece else _byte_level()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in family.markup])
    if family.bos:
        backend.post_processor = TemplateProcessing(
            single=f"{family.bos} $A",
            special_tokens=[(family.bos, backend.token_to_id(family.bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.eos,
        chat_template=family.template,
    )


def _byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _sentencepiece(special: list[str]) -> Tokenizer:
    """As in SentencePiece, control tokens and bytes are in the model's own vocabulary, before the pieces."""
    # White space is kept, so that merges can cross the borders between template and text.
    prefix_space = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = prefix_space
    pieces.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    trained = json.loads(pieces.to_str())["model"]
    first = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: i for i, token in enumerate([*first, *trained["vocab"]])}
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(left, right) for left, right in trained["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.pre_tokenizer = prefix_space
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend
