//! The measures of junk as functions of SQL, and the table `quality` of every pool: one row for each instruction, with
//! all measures and the reasons why it looks like junk. raisin-corpus has the measures.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::catalog::TableProvider;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions::expr_fn::{concat_ws, nullif};
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ScalarUDF, Volatility, cast, col, create_udf, lit, when};
use datafusion::prelude::SessionContext;

use super::TableFiles;
use super::dictionary::OF_QUALITY;
use super::sources::TableFile;
use raisin_base::error::Problem;
use raisin_corpus::quality;

/// The name of the table.
const VIEW: &str = "quality";
/// The table of which `quality` is a view.
const POOL: &str = "instructions";

/// A measure of one text.
#[derive(Clone, Copy)]
enum Measure {
    Text(fn(&str) -> Option<String>),
    Count(fn(&str) -> usize),
    Share(fn(&str) -> f64),
    Truth(fn(&str) -> bool),
}

const MEASURES: [(&str, Measure); 9] = [
    ("language", Measure::Text(|text| quality::language(text).map(str::to_owned))),
    ("script", Measure::Text(quality::script)),
    ("words", Measure::Count(quality::words)),
    ("repeated_lines", Measure::Share(quality::repeated_lines)),
    ("is_refusal", Measure::Truth(quality::is_refusal)),
    ("url_share", Measure::Share(quality::url_share)),
    ("code_share", Measure::Share(quality::code_share)),
    ("control_characters", Measure::Count(quality::control_characters)),
    ("is_truncated", Measure::Truth(quality::is_truncated)),
];

impl Measure {
    fn result(self) -> DataType {
        match self {
            Self::Text(_) => DataType::Utf8,
            Self::Count(_) => DataType::Int64,
            Self::Share(_) => DataType::Float64,
            Self::Truth(_) => DataType::Boolean,
        }
    }

    /// The measure of each text; null for null.
    fn of(self, texts: &StringArray) -> ArrayRef {
        match self {
            Self::Text(measure) => Arc::new(texts.iter().map(|text| text.and_then(measure)).collect::<StringArray>()),
            Self::Count(measure) => {
                Arc::new(texts.iter().map(|text| Some(measure(text?) as i64)).collect::<Int64Array>())
            }
            Self::Share(measure) => Arc::new(texts.iter().map(|text| text.map(measure)).collect::<Float64Array>()),
            Self::Truth(measure) => Arc::new(texts.iter().map(|text| text.map(measure)).collect::<BooleanArray>()),
        }
    }
}

fn function_of_text(name: &str, measure: Measure) -> ScalarUDF {
    let calculate = move |arguments: &[ArrayRef]| Ok(measure.of(arguments[0].as_string()));
    let calculate = Arc::new(make_scalar_function(calculate, vec![]));
    create_udf(name, vec![DataType::Utf8], measure.result(), Volatility::Immutable, calculate)
}

fn repeated_ngrams() -> ScalarUDF {
    let calculate = |arguments: &[ArrayRef]| {
        let (texts, lengths) = (arguments[0].as_string::<i32>(), arguments[1].as_primitive::<Int64Type>());
        let share = |(text, n): (Option<&str>, Option<i64>)| match (text, n) {
            (Some(_), Some(n)) if n < 1 => {
                let problem = Problem::usage(format!("an n-gram of {n} words is none"));
                let problem = problem.hint("repeated_ngrams(text, n) needs an n of at least 1");
                Err(DataFusionError::External(Box::new(problem)))
            }
            (Some(text), Some(n)) => Ok(Some(quality::repeated_ngrams(text, usize::try_from(n).unwrap_or(usize::MAX)))),
            _ => Ok(None),
        };
        Ok(Arc::new(texts.iter().zip(lengths).map(share).collect::<Result<Float64Array>>()?) as ArrayRef)
    };
    let calculate = Arc::new(make_scalar_function(calculate, vec![]));
    let arguments = vec![DataType::Utf8, DataType::Int64];
    create_udf("repeated_ngrams", arguments, DataType::Float64, Volatility::Immutable, calculate)
}

fn same_text() -> ScalarUDF {
    let calculate = |arguments: &[ArrayRef]| {
        let (one, other) = (arguments[0].as_string::<i32>(), arguments[1].as_string::<i32>());
        let same = |(one, other): (Option<&str>, Option<&str>)| Some(quality::same_text(one?, other?));
        Ok(Arc::new(one.iter().zip(other).map(same).collect::<BooleanArray>()) as ArrayRef)
    };
    let calculate = Arc::new(make_scalar_function(calculate, vec![]));
    create_udf("same_text", vec![DataType::Utf8; 2], DataType::Boolean, Volatility::Immutable, calculate)
}

/// Adds the functions to a session.
pub fn install(context: &SessionContext) {
    MEASURES.iter().for_each(|(name, measure)| context.register_udf(function_of_text(name, *measure)));
    context.register_udf(repeated_ngrams());
    context.register_udf(same_text());
}

/// Adds the table `quality` to the tables of a stage that has a pool. A table of this name that the stage itself wrote
/// stays.
pub fn with_view(mut files: TableFiles) -> TableFiles {
    if let Some(pool) = files.get(POOL).cloned() {
        files.entry(VIEW.to_owned()).or_insert(pool);
    }
    files
}

/// Whether the table of this name and these files is the view, and no table that a stage wrote.
pub fn is_view(name: &str, files: &[TableFile]) -> bool {
    name == VIEW && files.iter().any(|file| file.path.file_stem().is_some_and(|stem| stem == POOL))
}

/// The view over the rows of a pool. `constants` are the columns of the sweep. `None` if the table is no pool: a stage may
/// give a table the name `instructions`.
pub fn view(pool: Arc<dyn TableProvider>, constants: &[String]) -> Result<Option<ViewTable>> {
    let schema = pool.schema();
    if ["id", "prompt", "response"].iter().any(|name| schema.field_with_name(name).is_err()) {
        return Ok(None);
    }
    let of = |name: &str, text: &Expr| {
        let measure = MEASURES.iter().find(|(other, _)| *other == name).map(|(_, measure)| *measure);
        measure.map(|measure| function_of_text(name, measure).call(vec![text.clone()]).alias(name))
    };
    let (prompt, response) = (col("prompt"), col("response"));
    let whole = concat_ws(lit("\n"), vec![prompt.clone(), response.clone()]);
    // A swept parameter can have the name of a measure.
    let constant = |name: &String| {
        let is_taken = OF_QUALITY.iter().any(|(other, _)| other == name);
        Expr::from(column(name)).alias(if is_taken { format!("swept_{name}") } else { name.clone() })
    };
    let mut measured: Vec<Expr> = constants.iter().map(constant).collect();
    measured.push(col("id"));
    measured.extend(["language", "script"].iter().filter_map(|name| of(name, &whole)));
    measured.extend(["words", "repeated_lines"].iter().filter_map(|name| of(name, &response)));
    measured.push(repeated_ngrams().call(vec![response.clone(), lit(5_i64)]).alias("repeated_ngrams"));
    measured.extend(["is_refusal", "url_share", "code_share"].iter().filter_map(|name| of(name, &response)));
    measured.extend(of("control_characters", &whole));
    measured.extend(of("is_truncated", &response));
    measured.push(same_text().call(vec![prompt, response]).alias("answer_is_prompt"));
    let plan = LogicalPlanBuilder::scan(POOL, provider_as_source(pool), None)?.project(measured)?;
    let mut all: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::from).collect();
    all.push(reasons()?.alias("junk"));
    Ok(Some(ViewTable::new(plan.project(all)?.build()?, None)))
}

/// A name as a column, also with upper-case letters.
fn column(name: &str) -> datafusion::common::Column {
    datafusion::common::Column::new_unqualified(name)
}

/// Why a row looks like junk, as a list with commas; null if it does not. docs/sql.md has these limits.
fn reasons() -> Result<Expr> {
    let reasons = [
        (col("words").eq(lit(0_i64)), "no words"),
        (col("is_refusal"), "refusal"),
        (col("repeated_lines").gt(lit(0.3)), "repeated lines"),
        (col("repeated_ngrams").gt(lit(0.3)), "repeated n-grams"),
        (col("url_share").gt(lit(0.5)), "links"),
        (col("control_characters").gt(lit(0_i64)), "control characters"),
        (col("is_truncated"), "truncated"),
        (col("answer_is_prompt"), "answer is prompt"),
    ];
    let text = |(condition, reason)| when(condition, lit(reason)).otherwise(cast(lit_null(), DataType::Utf8));
    let all = reasons.into_iter().map(text).collect::<Result<Vec<Expr>>>()?;
    Ok(nullif(concat_ws(lit(", "), all), lit("")))
}

fn lit_null() -> Expr {
    lit(datafusion::common::ScalarValue::Null)
}
