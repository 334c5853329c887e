"""Writes tests/golden/codec.json: what transformers renders and encodes for a few chat templates.

Run with a Python that has transformers: python tests/python/golden_codec.py
"""

import json
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]

TINY = (
    "{% for message in messages %}"
    "{{ '<|' + (message['role'] if message['role'] in ['system', 'assistant'] else 'user') + '|>' }}"
    "{{ message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|user|>system\nBe helpful.<|end|>\n' }}{% endif %}"
    "{{'<|user|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
# Block trimming, loop controls, namespaces, Python methods, generation tags and JSON, on lines of their own.
LONG = """{%- set state = namespace(count=0) -%}
{% for message in messages %}
    {% if message.role == 'tool' %}
        {% continue %}
    {% endif %}
    {% set state.count = state.count + 1 %}
<|{{ message.role.lower() }}|>{{ state.count }}
    {% if message.role == 'assistant' %}
{% generation %}{{ message.content.strip() }}<|end|>{% endgeneration %}

    {% else %}
{{ message | tojson }} {{ message['content'].split(' ')[-1] | upper }}<|end|>
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>{{ state.count + 1 }}
{% endif %}
"""

CONVERSATIONS = [
    [("user", "Sort: tree"), ("assistant", "eert")],
    [("system", "Be brief."), ("user", "a <b> & 'c' \"d\" \\ é 日本"), ("assistant", " spaced out \n")],
    [("user", "one"), ("assistant", "1"), ("user", "two\n\nlines"), ("assistant", "2 🍇")],
    [("user", "weather?"), ("assistant", "{\"call\": 1}"), ("tool", "rain"), ("assistant", "It rains.")],
]


def byte_tokenizer():
    """A token per byte in byte order, written independently of raisin's own."""
    visible = list(range(ord("!"), ord("~") + 1)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    hidden = [byte for byte in range(256) if byte not in visible]
    character = {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    tokenizer = Tokenizer(models.BPE(vocab={character[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def main():
    tokenizer = byte_tokenizer()
    cases = []
    for template in (TINY, CHATML, LONG):
        for turns in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in turns]

            def apply(messages, prompt, tokenize):
                return tokenizer.apply_chat_template(
                    messages, chat_template=template, add_generation_prompt=prompt, tokenize=tokenize, return_dict=False
                )

            cases.append(
                {
                    "template": template,
                    "messages": messages,
                    "text": apply(messages, False, False),
                    "tokens": apply(messages, False, True),
                    "prompt_tokens": apply(messages[:-1], True, True),
                }
            )
    path = pathlib.Path(__file__).parent.parent / "golden" / "codec.json"
    path.write_text(json.dumps(cases, ensure_ascii=False, indent=None, separators=(",", ":")).replace('},{"template', '},\n{"template') + "\n")


if __name__ == "__main__":
    main()
