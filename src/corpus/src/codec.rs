//! The tokenizer and the chat template of a model folder: conversations to tokens, and tokens to text.
//!
//! A training sequence is the whole rendered chat, encoded at once, exactly as `apply_chat_template` of `transformers`
//! does. To find the tokens that carry a loss, the chat is rendered turn by turn: the text that a turn adds after the
//! generation prompt is what the model has to produce. It includes the end-of-turn token, but not the white space after
//! it. If a template rewrites earlier turns, the text of the turn is searched for in the rendered chat instead.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::message::{Example, Instruction, Message, conversation};
use super::template::ChatTemplate;
use raisin_base::error::{Context as _, Problem, Result, anyhow};
use raisin_base::files::if_there;

/// A sequence of tokens, and which of them are targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    /// `supervised[i]` is true if token i is a target, which is predicted from the tokens before it. The first token is
    /// never a target.
    pub supervised: Vec<bool>,
}

impl Sequence {
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&target| target).count()
    }

    /// The sequence up to target number `number`, counted from 1. `None` if the sequence has no target.
    fn until_target(mut self, number: usize) -> Option<Self> {
        let targets = self.supervised.iter().enumerate().filter(|(_, target)| **target);
        let end = targets.take(number).last()?.0 + 1;
        if self.supervised[end..].contains(&true) {
            self.tokens.truncate(end);
            self.supervised.truncate(end);
        }
        Some(self)
    }
}

/// The tokenizer and chat template of a model folder.
pub struct Codec {
    /// The model folder.
    pub(super) folder: PathBuf,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    special: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
    stop: Vec<u32>,
}

/// Which assistant turns of a conversation carry a loss.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Targets {
    EveryTurn,
    LastTurn,
    /// The last turn without its end-of-turn token. The probability of a multiple-choice answer is defined in this way.
    LastTurnText,
}

const SPECIAL_TOKEN_NAMES: [&str; 5] = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token"];

impl Codec {
    /// Reads tokenizer.json and, if they exist, tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
    /// generation_config.json and config.json.
    pub fn load(model_folder: &Path) -> Result<Self> {
        let path = model_folder.join("tokenizer.json");
        if !path.is_file() {
            return Err(Problem::new(format!("{} has no tokenizer.json", model_folder.display()))
                .hint("a model folder needs the fast tokenizer: save it with `tokenizer.save_pretrained(folder)`")
                .into());
        }
        let mut tokenizer =
            Tokenizer::from_file(&path).map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| anyhow!(error))?;
        let config = read_json(&model_folder.join("tokenizer_config.json"))?;
        let map = read_json(&model_folder.join("special_tokens_map.json"))?;
        let names: Vec<(String, String)> = SPECIAL_TOKEN_NAMES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), token_text(&config[name]).or(token_text(&map[name]))?)))
            .collect();
        let source = template_source(model_folder, &config)?;
        let template = source.map(|source| ChatTemplate::compile(&source, names.clone())).transpose();
        let template = template.with_context(|| format!("in {}", model_folder.display()))?;
        let id_of = |wanted: &str| {
            names.iter().find(|(name, _)| name == wanted).and_then(|(_, text)| tokenizer.token_to_id(text))
        };
        let decoder = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<String> =
            decoder.values().filter(|token| token.special).map(|token| token.content.clone()).collect();
        special.sort();
        let eos = id_of("eos_token");
        let first_of_nothing = tokenizer.encode("", true).map_err(|error| anyhow!(error))?.get_ids().first().copied();
        let bos = first_of_nothing.filter(|id| Some(*id) == id_of("bos_token"));
        let mut codec =
            Self { folder: model_folder.to_owned(), tokenizer, template, special, bos, eos, stop: Vec::new() };
        codec.stop = codec.find_stop_tokens(model_folder)?;
        Ok(codec)
    }

    /// The tokens of a text, without added special tokens. Special tokens in the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }

    /// The text of tokens, without special tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(|error| anyhow!("cannot decode tokens: {error}"))
    }

    /// The number of tokens, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// A row of the pool as a training sequence in which every assistant turn carries a loss; `None` if no target is
    /// left within `max_tokens`.
    pub fn instruction(&self, instruction: &Instruction, max_tokens: usize) -> Result<Option<Sequence>> {
        self.sequence(&instruction.messages, Targets::EveryTurn, max_tokens)
            .with_context(|| format!("instruction {}", instruction.id))
    }

    /// Many rows of the pool as training sequences, encoded on all cores.
    pub fn instructions(&self, instructions: &[Instruction], max_tokens: usize) -> Result<Vec<Option<Sequence>>> {
        instructions.par_iter().map(|instruction| self.instruction(instruction, max_tokens)).collect()
    }

    /// The responses of a row, each after an empty prompt; log p(y) is computed on them. `whole` is the row with its
    /// prompts. If `whole` was cut at `max_tokens`, the result is cut after the same number of targets, so that both
    /// have the same y.
    pub fn responses_alone(
        &self,
        instruction: &Instruction,
        whole: &Sequence,
        max_tokens: usize,
    ) -> Result<Option<Sequence>> {
        let responses = instruction.messages.iter().filter(|message| message.is_assistant());
        let messages: Vec<Message> =
            responses.flat_map(|message| conversation(None, "", Some(&message.content))).collect();
        let alone = self
            .sequence(&messages, Targets::EveryTurn, max_tokens)
            .with_context(|| format!("the responses of instruction {} alone", instruction.id))?;
        let cut = whole.tokens.len() >= max_tokens;
        Ok(alone.and_then(|alone| if cut { alone.until_target(whole.supervised_tokens()) } else { Some(alone) }))
    }

    /// A task example with `response` as its answer. Only the response carries a loss, its end-of-turn token included.
    pub fn example(&self, example: &Example, response: &str, max_tokens: usize) -> Result<Option<Sequence>> {
        self.answered(example, response, Targets::LastTurn, max_tokens)
    }

    /// A task example with a choice as its answer. Only the text of the choice carries a loss, without the end-of-turn
    /// token: multiple-choice scoring sums the log-probabilities of this text.
    pub fn choice(&self, example: &Example, choice: &str, max_tokens: usize) -> Result<Option<Sequence>> {
        self.answered(example, choice, Targets::LastTurnText, max_tokens)
    }

    /// The tokens from which a model generates: the conversation and the start of the assistant's turn.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        match &self.template {
            Some(template) => self.encode(&template.render(messages, true)?),
            None => {
                let text: String = messages.iter().flat_map(|message| [message.content.as_str(), "\n"]).collect();
                Ok(self.bos.into_iter().chain(self.encode(&text)?).collect())
            }
        }
    }

    /// The tokens that end a generation.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop
    }

    fn answered(&self, example: &Example, text: &str, targets: Targets, max_tokens: usize) -> Result<Option<Sequence>> {
        let mut messages = example.messages.clone();
        messages.push(Message::new("assistant", text));
        self.sequence(&messages, targets, max_tokens).with_context(|| format!("example {}", example.id))
    }

    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding> {
        self.tokenizer.encode(text, false).map_err(|error| anyhow!("cannot tokenize: {error}"))
    }

    fn sequence(&self, messages: &[Message], targets: Targets, max_tokens: usize) -> Result<Option<Sequence>> {
        let (text, mut turns) = match &self.template {
            Some(template) => self.rendered(template, messages)?,
            None => joined(messages),
        };
        if targets != Targets::EveryTurn {
            turns.drain(..turns.len().saturating_sub(1));
        }
        let mut spans: Vec<Range<usize>> = turns.into_iter().flatten().collect();
        if targets == Targets::LastTurnText
            && let Some(span) = spans.last_mut()
            && let Some(ending) = self.special.iter().find(|ending| text[span.clone()].ends_with(ending.as_str()))
        {
            span.end -= ending.len();
        }
        let encoding = self.encoding(&text)?;
        let mut tokens = encoding.get_ids().to_vec();
        let mut supervised: Vec<bool> =
            encoding.get_offsets().iter().map(|offsets| spans.iter().any(|span| belongs(*offsets, span))).collect();
        if self.template.is_none() {
            tokens.splice(..0, self.bos);
            supervised.splice(..0, self.bos.map(|_| false));
            if let Some(eos) = self.eos.filter(|_| targets != Targets::LastTurnText) {
                tokens.push(eos);
                supervised.push(true);
            }
        }
        tokens.truncate(max_tokens);
        supervised.truncate(max_tokens);
        if let Some(first) = supervised.first_mut() {
            *first = false;
        }
        Ok(supervised.contains(&true).then_some(Sequence { tokens, supervised }))
    }

    /// The rendered chat, and the byte range of each assistant turn in it; `None` for a turn that is not found.
    fn rendered(&self, template: &ChatTemplate, messages: &[Message]) -> Result<(String, Vec<Option<Range<usize>>>)> {
        let full = template.render(messages, false)?;
        let mut spans: Vec<Option<Range<usize>>> = Vec::new();
        for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.is_assistant()) {
            let through = if index + 1 == messages.len() {
                Some(full.len())
            } else {
                let text = template.render(&messages[..=index], false).ok();
                text.filter(|text| full.starts_with(text.as_str())).map(|text| text.len())
            };
            let before = template.render(&messages[..index], true).ok().filter(|text| full.starts_with(text.as_str()));
            let span = match (before, through) {
                (Some(before), Some(through))
                    if before.len() < through && full[before.len()..through].contains(message.content.trim()) =>
                {
                    Some(self.without_trailing_space(&full, before.len()..through))
                }
                _ => {
                    let end = spans.iter().rev().flatten().next().map_or(0, |span| span.end);
                    self.found(&full, end, message.content.trim())
                }
            };
            spans.push(span);
        }
        Ok((full, spans))
    }

    /// The span without the white space after the end-of-turn token, such as the line break of ChatML.
    fn without_trailing_space(&self, text: &str, span: Range<usize>) -> Range<usize> {
        let trimmed = text[span.clone()].trim_end();
        let closed = self.special.iter().any(|token| trimmed.ends_with(token.as_str()));
        if closed { span.start..span.start + trimmed.len() } else { span }
    }

    /// The span of a turn in a chat that cannot be rendered turn by turn: its text and the special token that closes
    /// it.
    fn found(&self, text: &str, from: usize, content: &str) -> Option<Range<usize>> {
        let start = from + text[from..].find(content).filter(|_| !content.is_empty())?;
        let end = start + content.len();
        let rest = text[end..].trim_start();
        let gap = text.len() - end - rest.len();
        let closing = self.special.iter().filter(|token| rest.starts_with(token.as_str())).map(String::len).max();
        Some(start..closing.map_or(end, |length| end + gap + length))
    }

    fn find_stop_tokens(&self, model_folder: &Path) -> Result<Vec<u32>> {
        let mut stop: BTreeSet<u32> = self.eos.into_iter().collect();
        for file in ["generation_config.json", "config.json"] {
            let config = read_json(&model_folder.join(file))?;
            let eos = &config["eos_token_id"];
            let ids = eos.as_array().cloned().unwrap_or_else(|| vec![eos.clone()]);
            for id in ids.iter().filter(|id| !id.is_null()) {
                let token = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let path = model_folder.join(file);
                stop.insert(token.ok_or_else(|| {
                    Problem::new(format!("`eos_token_id` in {} is {id}, which is no token", path.display()))
                        .hint("a token is a whole number from 0; null stands for no token")
                })?);
            }
        }
        // The end-of-turn token of many chat models is not their end-of-sequence token.
        let probe = conversation(None, "a", Some("b"));
        if self.template.is_some()
            && let Ok(Some(sequence)) = self.sequence(&probe, Targets::LastTurn, usize::MAX)
        {
            let last = sequence.supervised.iter().rposition(|&target| target).map(|index| sequence.tokens[index]);
            let decoder = self.tokenizer.get_added_tokens_decoder();
            stop.extend(last.filter(|id| decoder.get(id).is_some_and(|token| token.special)));
        }
        Ok(stop.into_iter().collect())
    }
}

/// Whether the text of a token lies in the span. Byte-level tokenizers report a token of spaces as an empty range at
/// its end.
fn belongs((start, end): (usize, usize), span: &Range<usize>) -> bool {
    if start == end { span.start < end && end <= span.end } else { end > span.start && start < span.end }
}

/// The text of a conversation without a chat template: one line for each turn.
fn joined(messages: &[Message]) -> (String, Vec<Option<Range<usize>>>) {
    let mut text = String::new();
    let mut spans = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let start = text.len();
        text.push_str(&message.content);
        if message.is_assistant() {
            spans.push(Some(start..text.len()));
        }
    }
    (text, spans)
}

/// The source of the chat template. chat_template.jinja takes precedence over tokenizer_config.json, whose entry may be
/// a list of named templates.
fn template_source(folder: &Path, config: &Value) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    let text = if_there(std::fs::read_to_string(&path)).with_context(|| format!("cannot read {}", path.display()))?;
    if text.is_some() {
        return Ok(text);
    }
    let entry = &config["chat_template"];
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|item| item["name"] == "default").or(list.first())?;
        default["template"].as_str().map(str::to_owned)
    };
    Ok(entry.as_str().map(str::to_owned).or_else(|| entry.as_array().and_then(named)))
}

/// The text of a special token, which is written as a text or as `{"content": ...}`.
fn token_text(entry: &Value) -> Option<String> {
    entry.as_str().or_else(|| entry["content"].as_str()).map(str::to_owned)
}

/// The JSON of a file; null if the file does not exist.
fn read_json(path: &Path) -> Result<Value> {
    match if_there(std::fs::read(path)).with_context(|| format!("cannot read {}", path.display()))? {
        Some(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display())),
        None => Ok(Value::Null),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
