//! The tokenizer and the chat template of a model folder: conversations to tokens, and tokens to text.
//!
//! A training sequence is the whole rendered chat, encoded at once, exactly as `apply_chat_template` of `transformers`
//! does. [`placement`](super::placement) says which parts of the chat are targets: what the model has to produce after
//! the generation prompt. A target includes the end-of-turn token, but not the white space after it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::finding::{Encoded, Finding, FindingKind};
use super::fit::fit;
use super::frame::ChatFrame;
use super::message::{Example, Instruction, Message, conversation};
use super::placement::{self, Placed};
use super::template::{ChatTemplate, ChatValues};
use raisin_base::error::{Context as _, Problem, Result, anyhow};
use raisin_base::files::if_there;
use raisin_base::panics::of_library;

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

    /// Cuts the sequence after target number `number`, counted from 1.
    fn until_target(&mut self, number: usize) {
        let targets = self.supervised.iter().enumerate().filter(|(_, target)| **target);
        let end = targets.take(number).last().map_or(0, |(last, _)| last + 1);
        if self.supervised[end..].contains(&true) {
            self.tokens.truncate(end);
            self.supervised.truncate(end);
        }
    }
}

/// The tokenizer and chat template of a model folder.
pub struct Codec {
    /// The model folder.
    pub(super) folder: PathBuf,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    frame: ChatFrame,
    /// Whether the folder has no chat template, so that conversations are rendered with [`PLAIN_TEMPLATE`].
    is_plain: bool,
    eos: Option<u32>,
    stop: Vec<u32>,
}

/// The template of a base model, whose folder has no chat template: one turn after the other, separated by line breaks.
/// The end-of-sequence token follows a last turn of the assistant.
const PLAIN_TEMPLATE: &str = "{{ first_token }}{% for message in messages %}{{ message.content }}{% if not loop.last %}\
    {{ '\\n' }}{% elif message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}\
    {% if add_generation_prompt and messages %}{{ '\\n' }}{% endif %}";

/// Which assistant turns of a conversation carry a loss.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Targets {
    EveryTurn,
    LastTurn,
    /// The last turn without its end-of-turn token. The probability of a multiple-choice answer is defined in this way.
    LastTurnText,
}

/// The longest token. The longest tokens of public models have some hundreds of bytes.
const MOST_TOKEN_BYTES: usize = 4096;

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
        let mut tokenizer = read_tokenizer(&path)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| anyhow!(error))?;
        let config = read_json(&model_folder.join("tokenizer_config.json"))?;
        let map = read_json(&model_folder.join("special_tokens_map.json"))?;
        let names: Vec<(String, String)> = SPECIAL_TOKEN_NAMES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), token_text(&config[name]).or(token_text(&map[name]))?)))
            .collect();
        let id_of = |wanted: &str| {
            names.iter().find(|(name, _)| name == wanted).and_then(|(_, text)| tokenizer.token_to_id(text))
        };
        let decoder = tokenizer.get_added_tokens_decoder();
        let mut special: Vec<String> =
            decoder.values().filter(|token| token.special).map(|token| token.content.clone()).collect();
        special.sort();
        let eos = id_of("eos_token");
        let source = template_source(model_folder, &config)?;
        let is_plain = source.is_none();
        let template = match source {
            Some(source) => ChatTemplate::compile(&source, names),
            None => {
                let first_of_nothing =
                    guarded(|| tokenizer.encode("", true)).with_context(|| format!("in {}", path.display()))?;
                let has_first = first_of_nothing.get_ids().first().is_some_and(|id| Some(*id) == id_of("bos_token"));
                let bos = names.iter().find(|(name, _)| name == "bos_token").map(|(_, text)| text.clone());
                let first = bos.filter(|_| has_first).unwrap_or_default();
                let names = names.into_iter().chain([("first_token".to_owned(), first)]).collect();
                ChatTemplate::compile(PLAIN_TEMPLATE, names)
            }
        };
        let template = template.with_context(|| format!("in {}", model_folder.display()))?;
        let frame = ChatFrame::of(&template, special);
        let folder = model_folder.to_owned();
        let mut codec = Self { folder, tokenizer, template, frame, is_plain, eos, stop: Vec::new() };
        codec.stop = codec.find_stop_tokens(model_folder)?;
        Ok(codec)
    }

    /// What a stage says about a model without a chat template; `None` for a model with one.
    pub fn default_note(&self) -> Option<String> {
        self.is_plain.then(|| {
            "the model has no chat template: the turns of a conversation are joined by line breaks, and the \
             end-of-sequence token ends the last response"
                .to_owned()
        })
    }

    /// The tokens of a text, without added special tokens. Special tokens in the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }

    /// The text of tokens, without special tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.tokenizer.decode(tokens, true)).context("cannot decode tokens")
    }

    /// The text of tokens, with special tokens.
    pub fn decode_with_special(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.tokenizer.decode(tokens, false)).context("cannot decode tokens")
    }

    /// The number of tokens, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The token with the largest number, and its text; `None` if the tokenizer has no token.
    pub fn highest_token(&self) -> Option<(u32, String)> {
        self.tokenizer.get_vocab(true).into_iter().map(|(text, id)| (id, text)).max()
    }

    /// A row of the pool as a training sequence in which every assistant turn carries a loss, except turns that the
    /// file excludes.
    pub fn instruction(&self, instruction: &Instruction, max_tokens: usize) -> Encoded {
        self.sequence(&instruction.messages, &instruction.tools, Targets::EveryTurn, max_tokens)
    }

    /// Many rows of the pool as training sequences, encoded on all cores.
    pub fn instructions(&self, instructions: &[Instruction], max_tokens: usize) -> Vec<Encoded> {
        instructions.par_iter().map(|instruction| self.instruction(instruction, max_tokens)).collect()
    }

    /// The responses of a row, each after an empty prompt; log p(y) is computed on them. `whole` is the row with its
    /// prompts. If `whole` was cut at `max_tokens`, the result is cut after the same number of targets, so that both
    /// have the same y.
    pub fn responses_alone(&self, instruction: &Instruction, whole: &Encoded, max_tokens: usize) -> Encoded {
        let responses = instruction.messages.iter().filter(|message| message.is_assistant());
        let messages: Vec<Message> =
            responses.flat_map(|response| [Message::new("user", ""), response.clone()]).collect();
        let mut alone = self.sequence(&messages, &[], Targets::EveryTurn, max_tokens);
        if let (Some(alone), Some(whole)) = (&mut alone.sequence, &whole.sequence)
            && whole.tokens.len() >= max_tokens
        {
            alone.until_target(whole.supervised_tokens());
        }
        alone
    }

    /// A task example with its reference response. Only the response carries a loss, its end-of-turn token included.
    pub fn example(&self, example: &Example, max_tokens: usize) -> Encoded {
        self.sequence(&example.answered(), &example.tools, Targets::LastTurn, max_tokens)
    }

    /// A task example with a choice as its answer. Only the text of the choice carries a loss, without the end-of-turn
    /// token: multiple-choice scoring sums the log-probabilities of this text.
    pub fn choice(&self, example: &Example, choice: &str, max_tokens: usize) -> Encoded {
        let mut messages = example.messages.clone();
        messages.push(Message::new("assistant", choice));
        self.sequence(&messages, &example.tools, Targets::LastTurnText, max_tokens)
    }

    /// The tokens from which a model generates: the conversation and the start of the assistant's turn.
    ///
    /// # Errors
    /// The template or the tokenizer refuses the conversation.
    pub fn prompt(&self, example: &Example) -> Result<Vec<u32>> {
        let fitted = fit(&self.frame, &example.messages, &example.tools);
        let values = ChatValues::in_form(&fitted.messages, &fitted.tools, self.frame.form);
        let chat = self.template.render(&values, values.turns(), true);
        self.encode(&chat.context("the chat template refuses the conversation")?)
    }

    /// The tokens that end a generation.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop
    }

    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding> {
        guarded(|| self.tokenizer.encode(text, false)).context("cannot tokenize")
    }

    fn sequence(&self, messages: &[Message], tools: &[Value], targets: Targets, max_tokens: usize) -> Encoded {
        let encoded = placement::place(&self.template, &self.frame, messages, tools)
            .and_then(|placed| self.encoded(messages, placed, targets, max_tokens));
        encoded.unwrap_or_else(|error| Encoded::refused(format!("{error:#}")))
    }

    fn encoded(&self, messages: &[Message], placed: Placed, targets: Targets, max_tokens: usize) -> Result<Encoded> {
        let Placed { text, mut turns, last_content, mut findings } = placed;
        let last = messages.len().checked_sub(1).filter(|last| messages[*last].is_assistant());
        // What the template leaves out of the prompt concerns the last turn too.
        let of_last = |finding: &Finding| {
            let is_last = finding.turn.is_none_or(|turn| last == Some(turn as usize - 1));
            is_last || finding.kind == FindingKind::ContextDropped
        };
        match targets {
            Targets::EveryTurn => {
                let assistants = messages.iter().filter(|message| message.is_assistant());
                for (turn, _) in turns.iter_mut().zip(assistants).filter(|(_, message)| message.untrained) {
                    turn.clear();
                }
            }
            Targets::LastTurn => {
                turns.drain(..turns.len().saturating_sub(1));
                findings.retain(of_last);
            }
            Targets::LastTurnText => {
                turns = vec![last_content.into_iter().collect()];
                findings.retain(of_last);
                if turns[0].is_empty() && !findings.iter().any(|finding| finding.kind.is_unsupervised()) {
                    findings.extend(last.map(|last| Finding::of_turn(FindingKind::TurnUnplaced, last)));
                }
            }
        }
        let mut spans: Vec<Range<usize>> = turns.into_iter().flatten().collect();
        spans.sort_by_key(|span| span.start);
        let encoding = self.encoding(&text)?;
        let tokens = encoding.get_ids();
        let mut supervised = vec![false; tokens.len()];
        let mut next = 0;
        for (mark, offsets) in supervised.iter_mut().zip(encoding.get_offsets()) {
            while spans.get(next).is_some_and(|span| span.end <= offsets.0 && span.end < offsets.1) {
                next += 1;
            }
            *mark = spans[next..].iter().take(2).any(|span| belongs(*offsets, span));
        }
        if let Some(first) = supervised.first_mut() {
            *first = false;
        }
        let (whole, targets) = (tokens.len(), supervised.iter().filter(|target| **target).count());
        supervised.truncate(max_tokens);
        let sequence = supervised
            .contains(&true)
            .then(|| Sequence { tokens: tokens[..whole.min(max_tokens)].to_vec(), supervised });
        Ok(Encoded { sequence, tokens: whole, targets, findings })
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
        if let Some(sequence) = self.sequence(&probe, &[], Targets::LastTurn, usize::MAX).sequence {
            let last = sequence.supervised.iter().rposition(|&target| target).map(|index| sequence.tokens[index]);
            let decoder = self.tokenizer.get_added_tokens_decoder();
            stop.extend(last.filter(|id| decoder.get(id).is_some_and(|token| token.special)));
        }
        Ok(stop.into_iter().collect())
    }
}

/// Reads tokenizer.json.
fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The tokenizers library panics on some texts that are no JSON.
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
        .with_context(|| format!("{} is not JSON", path.display()))?;
    let tokenizer =
        guarded(|| Tokenizer::from_bytes(&bytes)).with_context(|| format!("cannot read {}", path.display()))?;
    let longest = tokenizer.get_vocab(false).keys().map(String::len).max().unwrap_or(0);
    if longest > MOST_TOKEN_BYTES {
        // When a tokenizer of SentencePiece is dropped, the library recurses as deep as its longest token is long.
        std::mem::forget(tokenizer);
        let message = format!("{} has a token of {longest} bytes, and the limit is {MOST_TOKEN_BYTES}", path.display());
        return Err(Problem::new(message).hint("the tokenizer is damaged; fetch the file again").into());
    }
    Ok(tokenizer)
}

/// Calls the tokenizers library, which panics on some tokenizers instead of returning an error.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match of_library(run) {
        Ok(done) => done.map_err(|error| anyhow!(error)),
        Err(words) => Err(Problem::new(format!("the tokenizers library failed: {words}"))
            .hint("the tokenizer is damaged; save it again with `tokenizer.save_pretrained(folder)`")
            .into()),
    }
}

/// Whether the text of a token lies in the span. Byte-level tokenizers report a token of spaces as an empty range at
/// its end.
fn belongs((start, end): (usize, usize), span: &Range<usize>) -> bool {
    if start == end { span.start < end && end <= span.end } else { end > span.start && start < span.end }
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
