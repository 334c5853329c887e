//! Samples of tables (TABLESAMPLE). The planner would ignore the clause; here the table becomes a query that takes rows
//! by their numbers. The number of a row, the seed and nothing else decide, so that the same table gives the same sample.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray as _, Float64Array};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::{Volatility, create_udf};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{Ident, TableAlias, TableFactor};
use datafusion::sql::sqlparser::parser::Parser;
use raisin_base::error::Problem;
use raisin_kinds::syntax::{DIALECT, Sample, SampleSize, sample_of};

/// The function that gives a number from 0 to 1 for a seed and the number of a row.
const DRAW: &str = "sample_draw";

/// The column of the numbers of the rows.
const NUMBER: &str = "\"the number of the row\"";

/// The rows of a block.
const BLOCK: u64 = 2048;

pub fn install(context: &SessionContext) {
    let calculate = |arguments: &[ArrayRef]| {
        let (seeds, rows) = (arguments[0].as_primitive::<Int64Type>(), arguments[1].as_primitive::<Int64Type>());
        let draws = seeds.iter().zip(rows).map(|(seed, row)| Some(draw(seed? as u64, row? as u64)));
        Ok(Arc::new(draws.collect::<Float64Array>()) as ArrayRef)
    };
    let calculate = Arc::new(make_scalar_function(calculate, vec![]));
    let arguments = vec![DataType::Int64; 2];
    context.register_udf(create_udf(DRAW, arguments, DataType::Float64, Volatility::Immutable, calculate));
}

/// A number from 0 (included) to 1 (excluded): splitmix64 of the seed, and then of the row.
fn draw(seed: u64, row: u64) -> f64 {
    (mixed(mixed(seed) ^ row) >> 11) as f64 / (1_u64 << 53) as f64
}

fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Replaces a table with a sample by a query for the rows of the sample, under the name of the table.
pub fn replace_sample(factor: &mut TableFactor) -> Result<(), Problem> {
    let (sample, alias, inner) = match factor {
        TableFactor::Table { name, alias, sample, .. } => {
            let Some(kind) = sample.take() else { return Ok(()) };
            let Some(own) = name.0.last().and_then(|part| part.as_ident()).cloned() else { return Ok(()) };
            let alias = alias.take().unwrap_or_else(|| named(own));
            (kind, alias, factor.to_string())
        }
        TableFactor::Derived { alias, sample, .. } => {
            let Some(kind) = sample.take() else { return Ok(()) };
            let alias = alias.take();
            let inner = format!("{factor} AS sampled");
            (kind, alias.unwrap_or_else(|| named(Ident::new("sampled"))), inner)
        }
        _ => return Ok(()),
    };
    let Sample { size, seed } =
        sample_of(&sample).map_err(|(clause, _)| Problem::usage(format!("the query has {clause}")))?;
    // The function takes signed numbers; the bits are the same.
    let seed = seed as i64;
    let numbered = format!("(SELECT *, CAST(row_number() OVER () AS BIGINT) AS {NUMBER} FROM {inner})");
    let condition = match size {
        SampleSize::OfRows(share) => format!("{DRAW}({seed}, {NUMBER}) < {share:?}"),
        SampleSize::OfBlocks(share) => format!("{DRAW}({seed}, ({NUMBER} - 1) / {BLOCK}) < {share:?}"),
        SampleSize::Rows(count) => format!(
            "{NUMBER} IN (SELECT taken FROM (SELECT CAST(row_number() OVER () AS BIGINT) AS taken FROM {inner}) \
             ORDER BY {DRAW}({seed}, taken), taken LIMIT {count})"
        ),
    };
    let text = format!("SELECT * EXCLUDE ({NUMBER}) FROM {numbered} WHERE {condition}");
    let parsed = Parser::new(&DIALECT).try_with_sql(&text).and_then(|mut parser| parser.parse_query());
    let subquery =
        parsed.map_err(|error| Problem::usage(format!("the sample of `{inner}` cannot be taken: {error}")))?;
    *factor = TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None };
    Ok(())
}

fn named(name: Ident) -> TableAlias {
    // The name of a file is in single quotes, which an alias does not have.
    let name = if name.quote_style == Some('\'') { Ident::with_quote('"', name.value) } else { name };
    TableAlias { explicit: true, name, columns: vec![], at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_evenly_and_depend_on_seed_and_row() {
        for seed in [0, 1, 7] {
            let below = (0..100_000).filter(|row| draw(seed, *row) < 0.1).count();
            // Five standard deviations.
            assert!(below.abs_diff(10_000) < 475, "{seed}: {below}");
        }
        assert!((draw(0, 1) - draw(0, 2)).abs() > 1e-9 && (draw(0, 1) - draw(1, 1)).abs() > 1e-9);
        assert!((0..10_000).map(|row| draw(3, row)).all(|draw| (0.0..1.0).contains(&draw)));
    }
}
