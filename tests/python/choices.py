"""Multiple-choice questions scored by transformers, under the chat templates that Python packages carry.

Usage: choices.py OUT. For each template, writes a model folder OUT/<number> (random weights, a token for each byte, the
special tokens of the families), and OUT/cases.json: a list of `{folder, name, items}`. An item is `{messages, choices,
scored}`; for each choice, `scored` has the tokens of the chat, the first and the last token (exclusive) that cover the
text of the choice, and the sum of their log-probabilities. An item is left out where the template refuses the
conversation or does not show its system text.
"""

import json
import sys
from pathlib import Path

import torch
from golden_codec import byte_tokenizer
from templates import AXOLOTL, TRL, Clock, packaged
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import chat_template_utils

FAMILIES = {
    "llama": ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"]),
    "mistral": ("<s>", "</s>", ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]),
    "": ("<|endoftext|>", "<|im_end|>", ["<|im_start|>"]),
}
LETTERS = ["A", "B", "C", "D"]


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


LISTED = "Which planet is the largest?\nA. Mars\nB. Venus\nC. Jupiter\nD. Earth"
ITEMS = [
    ([user(LISTED)], LETTERS),
    ([user(LISTED + "\nAnswer: A, B, C or D?")], LETTERS),
    ([system("Answer with one letter: A, B, C or D."), user(LISTED)], LETTERS),
    ([system("A"), user("A")], LETTERS),
    ([user("B")], ["B", "A"]),
    ([user("D C B A")], LETTERS),
    ([user("Is A before B?"), said("A"), user("And B before A?")], ["A", "B"]),
    ([user("Say A."), said("A"), user("Say A."), said("A"), user("Say A.")], LETTERS),
    ([user("Which planet is the largest?")], ["Mars", "Venus", "Jupiter", "Earth"]),
    ([user("Is the sky blue?")], ["yes", "no"]),
    ([user("True or False: 2 + 2 = 4")], ["True", "False"]),
    ([user("2 + 2 = 4?")], ["4", "5", "22", "4.0"]),
    ([user("Who speaks?")], ["user", "assistant", "system", "model", "tool"]),
    ([system("You are the assistant of a user."), user("Who are you?")], ["assistant", "user", "system"]),
    ([user("How does a turn begin?")], ["user", "user\nA", "im_start", "start_header_id", "INST"]),
    ([user("How does a turn end?")], ["im_end", "eot_id", "end", "/s"]),
    ([user("a")], ["a", "aa", "aaa"]),
    ([user("Continue: the cat sat on")], ["the mat", "the mat.", "the", "the mat and"]),
    ([user("Capital of Japan?")], ["東京", "大阪", "Tokyo", "tōkyō"]),
    ([user("café?")], ["é", "e", "è", "cafe\u0301"]),
    ([user("Which has a line break?")], ["one\ntwo", "one two", "one\n\ntwo"]),
    ([user("Which is quoted?")], ["\"a\"", "'a'", "`a`", "<b>a</b>", "{{ a }}"]),
    ([user("Pick a number.")], [str(number) for number in range(10)]),
    ([user("")], ["A", "B"]),
    ([user("A" * 200)], ["A" * 50, "A"]),
    ([system("Be brief."), user("One?"), said("1."), user("Two?")], ["2.", "1.", "Two."]),
    ([user("Think?")], ["think", "</think", "Today Date: 26 Jul 2024", "Cutting Knowledge"]),
    ([user("Which one has spaces?")], ["a b", "a  b", "ab"]),
]
PLACEHOLDER = "\u2603 placeholder \u2603"


def shows_system(tokenizer, messages):
    """Whether the template accepts the conversation and shows its system text, if there is one."""
    marked = [message | {"content": PLACEHOLDER} if message["role"] == "system" else message for message in messages]
    try:
        shown = tokenizer.apply_chat_template([*marked, said("x")], tokenize=False)
    except Exception:
        return False
    return marked == messages or PLACEHOLDER in shown


def covering(tokenizer, messages, choice):
    """The tokens of the chat, and the range of tokens that cover the text of the choice."""

    def render(answer):
        return tokenizer.apply_chat_template([*messages, said(answer)], tokenize=False)

    # The text before a choice does not depend on the choice.
    before, _ = render(PLACEHOLDER).rsplit(PLACEHOLDER, 1)
    text = render(choice)
    # Some templates trim the text of a turn.
    shown = choice if text.startswith(before + choice) else choice.strip()
    assert text.startswith(before + shown), (before, text)
    start, end = len(before), len(before) + len(shown)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = [at for at, (first, last) in enumerate(encoded.offset_mapping) if first < end and last > start]
    assert places == list(range(places[0], places[-1] + 1))
    return encoded.input_ids, places[0], places[-1] + 1


def score(model, tokens, start, end):
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    log_probs = logits.float().log_softmax(-1)
    return sum(log_probs[place - 1, tokens[place]].double().item() for place in range(start, end))


def main(out):
    chat_template_utils.datetime = Clock
    out = Path(out)
    templates = packaged("trl", TRL, "chat_templates")
    templates |= packaged("axolotl", AXOLOTL, "utils/chat_templates/templates")
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model, cases, left_out = None, [], 0
    for number, (name, source) in enumerate(templates.items()):
        bos, eos, others = next(value for key, value in FAMILIES.items() if key in name)
        tokenizer = byte_tokenizer()
        # Every family's tokens, so that one model serves all.
        every = [token for first, second, rest in FAMILIES.values() for token in (first, second, *rest)]
        tokenizer.add_special_tokens({"additional_special_tokens": every})
        tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = bos, eos, source
        if model is None:
            config = LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.3,
                tie_word_embeddings=False,
            )
            model = LlamaForCausalLM(config).eval()
        folder = out / str(number)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        items = []
        for messages, choices in ITEMS:
            if not shows_system(tokenizer, messages):
                left_out += 1
                continue
            scored = []
            for choice in choices:
                tokens, start, end = covering(tokenizer, messages, choice)
                scored.append(dict(tokens=tokens, start=start, end=end, sum=score(model, tokens, start, end)))
            items.append(dict(messages=messages, choices=choices, scored=scored))
        cases.append(dict(folder=str(number), name=name, items=items))
    (out / "cases.json").write_text(json.dumps(cases))
    print(f"{len(cases)} templates, {sum(len(case['items']) for case in cases)} items, {left_out} left out")


if __name__ == "__main__":
    main(sys.argv[1])
