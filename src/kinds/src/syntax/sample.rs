//! TABLESAMPLE: which rows of a table a query takes by chance.

use sqlparser::ast::{
    Expr, TableSample, TableSampleKind, TableSampleMethod, TableSampleQuantity, TableSampleSeed, TableSampleUnit, Value,
};

use super::ignored::Clause;

/// The seed of a sample without REPEATABLE.
pub const DEFAULT_SEED: u64 = 0;

/// A sample of the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub size: SampleSize,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SampleSize {
    /// This number of rows.
    Rows(u64),
    /// Each row with this probability.
    OfRows(f64),
    /// Each block of consecutive rows with this probability.
    OfBlocks(f64),
}

const FORMS: Option<&str> = Some(
    "write `tablesample bernoulli (10)`, `tablesample system (10)`, `tablesample (10 percent)` or `tablesample (500 rows)`",
);

/// # Errors
/// The clause has a form that raisin does not know.
pub fn sample_of(kind: &TableSampleKind) -> Result<Sample, Clause> {
    let (TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) = kind;
    let TableSample { modifier: _, name, quantity, seed, bucket, offset } = sample.as_ref();
    if bucket.is_some() || offset.is_some() {
        return Err(("BUCKET or OFFSET in a sample", FORMS));
    }
    let Some(TableSampleQuantity { parenthesized: _, value, unit }) = quantity else {
        return Err(("a sample without a size", FORMS));
    };
    let number = number(value).ok_or(("a sample whose size is no number", FORMS))?;
    let share = || {
        let percent: f64 = number.parse().map_err(|_| ("a sample whose size is no number", FORMS))?;
        if (0.0..=100.0).contains(&percent) {
            Ok(percent / 100.0)
        } else {
            Err(("a sample of more than 100 percent", FORMS))
        }
    };
    let size = match (name, unit) {
        (None, Some(TableSampleUnit::Rows)) => {
            SampleSize::Rows(number.parse().map_err(|_| ("a sample whose number of rows is no whole number", FORMS))?)
        }
        (None, Some(TableSampleUnit::Percent))
        | (Some(TableSampleMethod::Bernoulli), None | Some(TableSampleUnit::Percent)) => SampleSize::OfRows(share()?),
        (Some(TableSampleMethod::System), None | Some(TableSampleUnit::Percent)) => SampleSize::OfBlocks(share()?),
        (None, None) => return Err(("a sample without PERCENT or ROWS", FORMS)),
        (Some(TableSampleMethod::Bernoulli | TableSampleMethod::System), Some(TableSampleUnit::Rows)) => {
            return Err(("BERNOULLI or SYSTEM with a number of rows", Some("write `tablesample (500 rows)`")));
        }
        (Some(TableSampleMethod::Row | TableSampleMethod::Block), _) => {
            return Err(("ROW or BLOCK in a sample", FORMS));
        }
    };
    let seed = match seed {
        None => DEFAULT_SEED,
        Some(TableSampleSeed { modifier: _, value }) => match &value.value {
            Value::Number(text, _) => text.parse().ok(),
            _ => None,
        }
        .ok_or(("a seed that is no whole number", Some("write `repeatable (7)`")))?,
    };
    Ok(Sample { size, seed })
}

fn number(value: &Expr) -> Option<&str> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sqlparser::ast::{Statement, TableFactor};
    use sqlparser::parser::Parser;

    use super::*;
    use crate::syntax::DIALECT;

    fn sample(clause: &str) -> Result<Sample, Clause> {
        let statements = Parser::parse_sql(&DIALECT, &format!("select * from t tablesample {clause}")).expect(clause);
        let Statement::Query(query) = &statements[0] else { panic!("{clause}") };
        let select = query.body.as_select().expect(clause);
        let TableFactor::Table { sample: Some(kind), .. } = &select.from[0].relation else { panic!("{clause}") };
        sample_of(kind)
    }

    #[test]
    fn a_sample_has_a_size_and_a_seed() {
        for (clause, size, seed) in [
            ("bernoulli (10)", SampleSize::OfRows(0.1), 0),
            ("bernoulli (2.5 percent) repeatable (7)", SampleSize::OfRows(0.025), 7),
            ("(50 percent)", SampleSize::OfRows(0.5), 0),
            ("system (1) repeatable (3)", SampleSize::OfBlocks(0.01), 3),
            ("(500 rows)", SampleSize::Rows(500), 0),
            ("500 rows", SampleSize::Rows(500), 0),
        ] {
            assert_eq!(sample(clause), Ok(Sample { size, seed }), "{clause}");
        }
    }

    #[test]
    fn other_forms_of_a_sample_are_refused() {
        for (clause, said) in [
            ("(10)", "without PERCENT or ROWS"),
            ("bernoulli (10 rows)", "BERNOULLI or SYSTEM with a number of rows"),
            ("bernoulli (110)", "more than 100 percent"),
            ("(1.5 rows)", "no whole number"),
            ("bernoulli (1 + 1)", "no number"),
            ("row (10)", "ROW or BLOCK"),
            ("(bucket 1 out of 4)", "BUCKET"),
            ("(10 percent) repeatable (1.5)", "a seed that is no whole number"),
        ] {
            let (clause_said, hint) = sample(clause).expect_err(clause);
            assert!(clause_said.contains(said) && hint.is_some(), "{clause}: {clause_said}");
        }
    }
}
