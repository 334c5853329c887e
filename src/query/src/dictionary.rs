//! The meaning of every column, for `describe`. For the tables of stages, the declarations of the kinds have the
//! meanings (src/kinds/src/outputs); this file has those of the tables that `raisin-sql` itself makes.

use datafusion::common::TableReference;
use raisin_contract::outputs::TableDeclaration;
use raisin_contract::query::{HISTORY, TOOL};
use raisin_kinds::KINDS;

use super::catalog::Catalogs;
use super::{content, pivot, quality};

/// The columns of the schema `raisin`, for all of its tables that have the column.
const OF_RAISIN: [(&str, &str); 39] = [
    ("accepted", "why a person declared the artifact to be the result of a changed stage. Null if nobody did"),
    ("action", "the action as JSON: kind, version, parameters and inputs. Its digest is the key"),
    ("artifact", "the blake3 of the artifact, in hex"),
    ("bytes", "the bytes of the artifact's files"),
    ("cached", "the number of stages whose artifact was in the cache"),
    ("commit", "the git commit of the folder in which the build ran. Null outside of git"),
    ("device", "the device of the tensor stages"),
    ("dirty", "whether the folder had changes that were not committed"),
    ("failed", "the number of stages that failed"),
    ("file", "the pipeline file"),
    ("files", "the number of files of the artifact"),
    ("finished", "the time of the end (UTC). Null if the end was not written"),
    ("flops", "floating-point operations, by the formula of docs/method.md, section 8"),
    ("key", "the action key, in hex"),
    ("kind", "the kind of the stage"),
    ("machine", "the processor, the cores and the memory of the machine"),
    ("made", "the time at which the artifact was made first (UTC)"),
    ("notes", "what the stage said, a line for each note"),
    ("outcome", "`done`, `failed` or `interrupted`. Null if the end was not written"),
    ("overrides", "the flags --set, --sweep and --only"),
    ("part", "the place of a value in the action, such as `parameters.clusters`"),
    ("path", "the folder of the artifact"),
    ("peak_bytes", "the largest memory, in bytes: of the device during the phase, or of the workers of the run"),
    ("phase", "a part of the work of a stage, such as `forward`"),
    ("pipeline", "the name of the pipeline"),
    ("ran", "the number of stages that ran"),
    ("results", "the headline metrics as JSON. Null without a report or an evaluation"),
    ("run", "the name of the run: a time and a number"),
    ("seconds", "seconds of wall time"),
    ("stage", "the name of the stage in the pipeline"),
    ("started", "the time of the start (UTC)"),
    ("supervised_tokens", "the number of tokens that carry a loss"),
    ("sweep", "the values of the sweep in this variant, as JSON"),
    ("tokens", "the number of tokens that went through the model"),
    ("value", "the value at the place `part`, as text"),
    ("variant", "the name of the variant. Empty without a sweep"),
    ("version", "the version of raisin"),
    // Of the schema `history`.
    ("method", "the method of selection: of the training, or of the model that was evaluated. Null for other stages"),
    ("parameters", "all parameters of the stage as JSON, defaults written out"),
];

/// The columns of the view `quality`.
pub const OF_QUALITY: [(&str, &str); 13] = [
    ("id", "the `id` of the instruction"),
    ("language", "the ISO 639-3 code of prompt and response together. Null without a reliable answer"),
    ("script", "the script of most letters of prompt and response. Null without letters"),
    ("words", "the number of words of the response"),
    ("repeated_lines", "the share of characters of the response in lines that occurred before, from 0 to 1"),
    ("repeated_ngrams", "the share of words of the response in 5-grams that occurred before, from 0 to 1"),
    ("is_refusal", "whether the response refuses, or speaks as a model"),
    ("url_share", "the share of characters of the response in links, from 0 to 1"),
    ("code_share", "the share of lines of the response that are code, from 0 to 1"),
    ("control_characters", "the number of control and replacement characters of prompt and response"),
    ("is_truncated", "whether the response looks cut"),
    ("answer_is_prompt", "whether the response repeats the prompt"),
    ("junk", "why the row looks like junk: reasons with commas between them. Null if it does not"),
];

/// The meaning of a column of a table; `None` if nobody declared it, as for the columns of an `sql` stage.
pub fn meaning(catalogs: &Catalogs, table: &TableReference, column: &str) -> Option<String> {
    let schema_name = table.schema()?;
    let name = table.table();
    if schema_name == TOOL {
        return text_of(&OF_RAISIN, column);
    }
    let pipeline = table.catalog().unwrap_or(&catalogs.default);
    let schema = catalogs.by_name.get(pipeline)?.schemas.get(schema_name)?;
    let of_sweep = || {
        let swept = schema.swept_columns();
        let is_swept = swept.iter().any(|swept| swept == column || format!("swept_{swept}") == column);
        let what =
            if column == "variant" { "the name of the variant" } else { "the value of the sweep in the variant" };
        is_swept.then(|| what.to_owned())
    };
    if schema.table_files().and_then(|files| files.get(name)).is_some_and(|files| quality::is_view(name, files)) {
        return text_of(&OF_QUALITY, column).or_else(of_sweep);
    }
    let stored = if name == pivot::LONG { pivot::WIDE } else { name };
    let kinds = KINDS.iter().filter(|kind| schema_name == HISTORY || schema.kinds().contains(&kind.name.to_owned()));
    let declared = kinds.flat_map(|kind| kind.outputs.tables).filter(|table| is_named(table, stored));
    let columns = declared.flat_map(TableDeclaration::columns);
    if let Some(declared) = columns.into_iter().find(|declared| declared.name == column) {
        return Some(declared.sentence());
    }
    if stored == content::POOL && column == content::DIGEST {
        return Some(content::MEANING.to_owned());
    }
    if schema_name == HISTORY {
        return text_of(&OF_RAISIN, column);
    }
    if let Some(meaning) = of_sweep() {
        return Some(meaning);
    }
    (name == pivot::WIDE).then(|| metric(column)).flatten()
}

/// A column of the wide table `metrics`.
fn metric(column: &str) -> Option<String> {
    let of = |suffix: &str| column.strip_suffix(suffix);
    Some(match (of("_standard_error"), of("_n")) {
        (Some(metric), _) => format!("the standard error of `{metric}` over the examples"),
        (_, Some(metric)) => format!("the number of examples of `{metric}`"),
        _ => format!("the metric `{column}`: see `value` of `{}`", pivot::LONG),
    })
}

fn is_named(table: &TableDeclaration, name: &str) -> bool {
    table.name == name || table.named_by.is_some()
}

fn text_of(columns: &[(&str, &str)], column: &str) -> Option<String> {
    columns.iter().find(|(name, _)| *name == column).map(|(_, text)| (*text).to_owned())
}
