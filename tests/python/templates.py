"""Chats rendered by transformers' `apply_chat_template`, for the chat templates that Python packages carry.

Usage: templates.py OUT [GGUF]. Writes OUT: a list of `{name, source, messages, tools, prompt, text}`; `text` is null
where the template refuses the conversation. The clock of the templates is set to the day that raisin's shows.
"""

import importlib.util
import json
import sys
from datetime import datetime
from pathlib import Path

from golden_codec import byte_tokenizer
from transformers.utils import chat_template_utils

# Templates of the families that raisin runs, by package.
TRL = ["llama3", "llama3_1", "llama3_2", "llama3_training", "qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training",
       "qwen3_instruct_2507", "qwen3_vl"]
AXOLOTL = ["chatml", "llama3", "mistral_v1", "mistral_v2v3", "mistral_v3_tekken", "mistral_v7_tekken", "qwen_25", "qwen3"]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather <now> & here, \"quoted\", at 20 °C.",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "City, e.g. Zürich\n(or 東京)"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "integer", "minimum": 1, "default": 3},
                    "threshold": {"type": ["number", "null"], "default": 0.5, "multipleOf": 1e-05},
                },
                "required": ["location"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, id="abcdefghi"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "What is the weather in Zürich?\n\n<b>Now</b> & 'later'."}
ASKS = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"location": "Zürich", "days": 2, "threshold": 1.0})]}
ANSWER = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": "{\"temperature\": 21.5, \"sky\": \"blue 🌤\"}"}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
CONVERSATIONS = {
    "plain": [USER, {"role": "assistant", "content": "It is sunny. "}],
    "prompt": [USER],
    "system": [SYSTEM, USER, {"role": "assistant", "content": "Sunny."}, {"role": "user", "content": " And tomorrow? "}],
    "tools": [SYSTEM, USER, ASKS, ANSWER, {"role": "assistant", "content": "21.5 °C and blue."}, {"role": "user", "content": "Thanks"}],
    "tool result last": [USER, ASKS, ANSWER],
    "two calls": [
        USER,
        {"role": "assistant", "content": "Let me look.", "tool_calls": [call("now", {}, "a23456789"), call("get_weather", {"location": "東京", "unit": "celsius"}, "b23456789")]},
        {"role": "tool", "name": "now", "tool_call_id": "a23456789", "content": "12:00"},
        {"role": "tool", "name": "get_weather", "tool_call_id": "b23456789", "content": "rain"},
        {"role": "assistant", "content": "Noon, and rain."},
    ],
    "no content": [USER, {"role": "assistant", "content": None, "tool_calls": [call("now", {})]}, ANSWER | {"content": "1"}],
    "thought": [
        USER,
        {"role": "assistant", "content": "<think>\nIt is July.\n</think>\n\nWarm."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "<think>\nYes.\n</think>\n\nYes."},
    ],
    "thought apart": [
        USER,
        {"role": "assistant", "reasoning_content": "It is July.", "content": "Warm."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "reasoning_content": "\nYes.\n", "content": "Yes."},
    ],
    "thought before a call": [
        USER,
        {"role": "assistant", "reasoning_content": "I need the tool.", "content": "", "tool_calls": ASKS["tool_calls"]},
        ANSWER,
    ],
    "typed parts": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Three."}]},
    ],
    "order": [SYSTEM, {"role": "assistant", "content": "I begin."}, USER, USER],
    "unknown role": [USER, {"role": "narrator", "content": "Meanwhile."}],
}


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 12)


def packaged(package, names, folder):
    root = Path(importlib.util.find_spec(package).submodule_search_locations[0]) / folder
    return {f"{package}/{name}": (root / f"{name}.jinja").read_text() for name in names}


def main(out, smollm=""):
    chat_template_utils.datetime = Clock
    templates = packaged("trl", TRL, "chat_templates")
    templates |= packaged("axolotl", AXOLOTL, "utils/chat_templates/templates")
    if smollm:
        import gguf

        templates["smollm2"] = gguf.GGUFReader(smollm).fields["tokenizer.chat_template"].contents()
    tokenizer = byte_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = "<|user|>", "<|end|>"
    cases, refused = [], 0
    for name, source in templates.items():
        for title, messages in CONVERSATIONS.items():
            for tools in (None, TOOLS):
                for prompt in (False, True):
                    try:
                        text = tokenizer.apply_chat_template(
                            messages, tools=tools, chat_template=source, add_generation_prompt=prompt, tokenize=False
                        )
                    except Exception:
                        text, refused = None, refused + 1
                    cases.append(
                        dict(name=f"{name}: {title}", source=source, messages=messages, tools=tools, prompt=prompt, text=text)
                    )
    Path(out).write_text(json.dumps(cases))
    print(f"{len(templates)} templates, {len(cases)} conversations, {refused} of them refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
