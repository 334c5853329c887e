//! The tables, files and examples that each kind declares, one file for each kind. docs/kinds is made from them, and a
//! running stage fails if it writes something else. This file has the columns and files that several kinds share.
//!
//! After a change, `RAISIN_BLESS=1 cargo test -p raisin pages` writes docs/kinds again.

pub mod clusters;
pub mod command;
pub mod dedup;
pub mod evaluate;
pub mod export;
pub mod features;
pub mod filter;
pub mod finetune;
pub mod generate;
pub mod influence;
pub mod ingest;
pub mod mix;
pub mod model;
pub mod overlap;
pub mod pretrain;
pub mod report;
pub mod selector;
pub mod sql;
pub mod task;
pub mod track;

use raisin_contract::outputs::ColumnType::{F64, I32, Text, Texts, U32, U64};
use raisin_contract::outputs::{ColumnDeclaration, FileDeclaration, TableDeclaration, column, file, table};

/// The conversation of a row.
const CONVERSATION: &[ColumnDeclaration] = &[
    column("system", Text, "the system text").null("if the conversation has none"),
    column("prompt", Text, "the last turn that asks").long(),
    column("response", Text, "the last turn of the assistant").long(),
];

const MESSAGES: ColumnDeclaration =
    column("messages", Text, "all turns as JSON: a list of `{\"role\", \"content\", ...}`, the response included")
        .null("if `system`, `prompt` and `response` hold the whole conversation")
        .long();

const TOOLS: ColumnDeclaration =
    column("tools", Text, "the tools that the assistant may call: a JSON list of schemas").null("without tools");

/// The table `instructions`.
const INSTRUCTIONS: &[&[ColumnDeclaration]] = &[
    &[column("id", U32, "the number of the row, from 0").ascending()],
    CONVERSATION,
    &[MESSAGES, TOOLS, REJECTED],
    ORIGIN,
];

const REJECTED: ColumnDeclaration =
    column("rejected", Text, "the rejected response of a preference file; no stage trains on it")
        .null("if the record has none")
        .long();

/// Where an instruction comes from.
const ORIGIN: &[ColumnDeclaration] = &[
    column("source", U32, "the file: the row of this number in the table `sources`"),
    column("line", U64, "the place in the file, from 1: the line of a text file, otherwise the number of the row")
        .ascending(),
    column("duplicates", U32, "the number of exact copies that were folded into the row"),
    column("label", Text, "the class that `generate` gave the row; only the method `oracle` reads it")
        .null("if no `generate` stage made the row"),
];

/// What a `filter` can set.
const SET: &[ColumnDeclaration] = &[
    column(
        "weight",
        F64,
        "how likely `mix` and the method `random` draw the row, in proportion to the weights of the other rows",
    )
    .only(IF_SET)
    .null("if the row has none: it counts as 1"),
    column("source_name", Text, "the name that the query of a `filter` gave as `source`; `clusters` and `mix` read it")
        .only(IF_SET)
        .null("if the row has none"),
    column("tags", Texts, "the tags that the query of a `filter` gave").only(IF_SET).null("if the row has none"),
];

const IF_SET: &str = "if a `filter` set it";

/// The table `instructions` of a stage that leaves out rows of a pool.
const KEPT: &[&[ColumnDeclaration]] = &[
    &[column("id", U32, "the number of the row among the rows that are left, from 0").ascending()],
    CONVERSATION,
    &[MESSAGES, TOOLS, REJECTED],
    ORIGIN,
    &[
        column("pool", Text, "the name of the row's pool in the `mix`").only("if the rows come from a `mix`"),
        column("pool_id", U32, "the `id` of the row in the whole pool").ascending(),
    ],
    SET,
];

/// The table `sources`.
const SOURCES: &[&[ColumnDeclaration]] = &[&[
    column("source", U32, "the number of the file, from 0"),
    column("file", Text, "the name of the file, without the folder that the pipeline names"),
    column("layout", Text, "how the file is divided into records, for example `jsonl` or `csv, gz`"),
    column("format", Text, "the format in which most records of the file were read"),
    column("formats", Text, "each format, with the number of records that were read in it"),
    column("records", U64, "the number of records: `accepted` + `rejected` + `folded` + `filtered`"),
    column("accepted", U64, "the number of records that became rows"),
    column("rejected", U64, "the number of records that are in the table `rejects`"),
    column("folded", U64, "the number of exact copies of earlier records"),
    column("filtered", U64, "the number of records that the file excludes from training"),
    column("damaged_lines", U64, "the number of lines that could not be divided into records"),
    column("damaged_bytes", U64, "the number of bytes of these lines"),
    column("fields_read", Text, "each field that was read, with the number of records that have it"),
    column("fields_unread", Text, "each field that was not read, with the number of records that have it"),
    column("filters", Text, "each reason of `filtered`, with its number of records"),
    column("notices", Text, "what was changed in accepted records, each with its number of records"),
]];

/// The table `rejects`.
const REJECTS: &[ColumnDeclaration] = &[
    column("source", U32, "the file: the row of this number in the table `sources`"),
    column("file", Text, "the name of the file"),
    column("line", U64, "the place in the file, from 1: the line of a text file, otherwise the number of the row")
        .ascending(),
    column("reason", Text, "why the record was rejected"),
    column("record", Text, "the beginning of the record, at most 300 characters"),
    column("records", U64, "the number of records of this row: above 1 where a damaged part hides several records"),
];

/// The tables `validation` and `test` of a task.
const EXAMPLES: &[&[ColumnDeclaration]] = &[
    &[column("id", U32, "the number of the example in this table, from 0")],
    CONVERSATION,
    &[
        MESSAGES.only("if an example of the task has more than a system text, a prompt and a response"),
        TOOLS.only("if an example of the task has tools"),
    ],
    &[
        column("choices", Texts, "the choices of a multiple-choice question").null("if the example has none"),
        column("answer", I32, "the number of the right choice, from 0").null("if the example has no choices"),
    ],
];

/// The table `encoding`.
const ENCODING: TableDeclaration = table(
    "encoding",
    "What the encoding as tokens cut, left out and changed: one row for each row that was cut, each row that was left \
     out, and each finding. It is empty if every row was encoded as it is.",
    &[ENCODING_COLUMNS],
);

const ENCODING_COLUMNS: &[ColumnDeclaration] = &[
    column("of", Text, "the set of the row: `instructions`, `validation` or `test`"),
    column("metric", Text, "the metric for which an evaluation encoded the example").null("in other stages"),
    column("id", U32, "the `id` of the row in its set"),
    column("file", Text, "the file of the row").null("if the row comes from no file"),
    column("line", U64, "the place in the file, from 1").null("if the row comes from no file"),
    column(
        "kind",
        Text,
        "`truncated`, `left_out`, or a finding: `refused`, `turn_dropped`, `turn_unplaced`, `turn_empty`, \
         `turn_rewritten`, `context_dropped`, `reasoning_dropped`, `reasoning_as_text`, `tools_as_text`, `calls_as_text`, `system_as_text`",
    ),
    column("turn", U32, "the turn of a finding, from 1").null("if the finding is about the whole row"),
    column("tokens", U64, "the number of tokens of the whole row").null("if the row has none"),
    column("targets", U64, "the number of its tokens that carry a loss").null("if the row has none"),
    column("tokens_cut", U64, "the number of tokens behind the cut").null("if `kind` is not `truncated`"),
    column("targets_cut", U64, "the number of targets behind the cut").null("if `kind` is not `truncated`"),
    column("max_tokens", U64, "the limit of the stage, in tokens"),
    column("reason", Text, "the cause; for a finding, also the message of the template"),
];

/// The results, for the end of a build.
const RESULTS: FileDeclaration = file(
    raisin_contract::results::RESULTS,
    "the results as JSON: `raisin build` ends with them, and the journal keeps them",
);

/// The scoring of a task.
const TASK: FileDeclaration =
    file("task.json", "how answers are scored: `scoring`, `extract` and `max_new_tokens`, as in the kind `task`");

/// The first columns of the table `steps`.
const STEP: &[ColumnDeclaration] = &[
    column("step", U32, "the number of the step, from 1"),
    column("loss", F64, "the mean loss, in nats, of the supervised tokens of the batch, before the update"),
];

/// The last columns of the table `steps`.
const STEP_COSTS: &[ColumnDeclaration] = &[
    column("learning_rate", F64, "the learning rate of the update"),
    column("tokens", U64, "the number of tokens of the batch"),
    column("supervised_tokens", U64, "the number of these tokens that carry a loss"),
    column("flops", F64, "the floating-point operations of the update, by the formula in docs/method.md, section 8"),
];

/// The columns of the table `selection` after those that say which step it was.
const SELECTED: &[ColumnDeclaration] = &[
    column("slot", U32, "the place of the candidate in its batch, from 0"),
    column("id", U32, "the selected instruction: its `id` in the pool; with the method `validation`, in `validation`"),
    column("cluster", U32, "the cluster of the candidate").null("if the method reads no clusters"),
    column("score", F64, "the number by which the method orders candidates").null("if the method has no score"),
    column("log_prob", F64, "the log-probability, in nats, of the draw").null("if the method draws without a policy"),
    column("times_selected", U32, "how often the run, or the episode, selected the instruction before this step"),
    column("label", Text, "the label of the instruction").null("if the pool has no labels"),
    column("instruction", Text, "the first 120 characters of the prompt, without line breaks"),
];

/// The configuration and the tokenizer of a model.
const MODEL_CONFIGURATION: &[FileDeclaration] = &[
    file("config.json", "the configuration of the model, as transformers writes it"),
    file("generation_config.json", "the tokens that begin, end and pad a text")
        .only("if the weights are in the folder"),
    file("tokenizer.json", "the tokenizer").only(WITH_TOKENIZER),
    file("tokenizer_config.json", "the special tokens and the chat template").only(WITH_TOKENIZER),
    file("special_tokens_map.json", "the special tokens").only(WITH_TOKENIZER),
    file("added_tokens.json", "tokens beside the vocabulary").only(WITH_TOKENIZER),
    file("chat_template.jinja", "the chat template").only(WITH_TOKENIZER),
    file("vocab.json", "the vocabulary of a BPE tokenizer").only(WITH_TOKENIZER),
    file("merges.txt", "the merges of a BPE tokenizer").only(WITH_TOKENIZER),
    file("tokenizer.model", "the tokenizer of SentencePiece").only(WITH_TOKENIZER),
];

const WITH_TOKENIZER: &str = "if the tokenizer of the source has this file";
