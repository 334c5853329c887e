//! Shows the long table `metrics` (metric, value) wide: one row for each evaluation, and one column for each metric.
//!
//! The files are long, so that their schema does not depend on the metrics of an evaluation. But a typical query is
//! `select method, avg(acc), count(*) from scores.metrics group by method`, in which a row is one evaluation. Over long
//! rows this query would need a CASE for each metric, and count(*) would count metrics. Therefore SQL shows `metrics`
//! wide. The table `metrics_long` shows the rows of the files.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;

use super::files::{constant, constant_types};
use super::sources::TableFile;
use raisin_base::error::Result;
use raisin_table::{batch, column};

/// The table that is shown wide.
pub const WIDE: &str = "metrics";
/// The name of the table that shows the rows of `metrics` as they are in the files.
pub const LONG: &str = "metrics_long";

/// The long rows of one file as wide rows: one for each split, in the order of their first appearance. `None` if the
/// table is not long. `n` is the smallest number of examples of a metric; if the metrics have different numbers, each
/// metric also has a column `<metric>_n`.
fn widen(rows: &RecordBatch) -> Result<Option<RecordBatch>> {
    let (Ok(metrics), Ok(values)) = (column::<StringArray>(rows, "metric"), column::<Float64Array>(rows, "value"))
    else {
        return Ok(None);
    };
    let splits = column::<StringArray>(rows, "split").ok();
    let counts = column::<UInt32Array>(rows, "n").ok();
    let errors = column::<Float64Array>(rows, "standard_error").ok();
    let mut order: Vec<Option<&str>> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let split = splits.and_then(|splits| splits.is_valid(row).then(|| splits.value(row)));
        let place = order.iter().position(|known| *known == split).unwrap_or_else(|| {
            order.push(split);
            order.len() - 1
        });
        if !names.contains(&metrics.value(row)) {
            names.push(metrics.value(row));
        }
        cells.insert((place, metrics.value(row)), row);
    }
    let of_split = |place: usize| cells.range((place, "")..(place + 1, "")).map(|(_, row)| *row);
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("split".to_owned(), Arc::new(order.iter().copied().collect::<StringArray>()))];
    if let Some(counts) = counts {
        let n = (0..order.len()).map(|place| of_split(place).map(|row| counts.value(row)).min());
        columns.push(("n".to_owned(), Arc::new(n.collect::<UInt32Array>())));
    }
    // An example can be left out of one metric and counted in another.
    let agree = |counts: &UInt32Array| {
        (0..order.len()).all(|place| {
            let mut counts = of_split(place).map(|row| counts.value(row));
            counts.next().is_none_or(|first| counts.all(|count| count == first))
        })
    };
    let each = counts.filter(|counts| !agree(counts));
    let pick = |from: &Float64Array, name: &str| -> ArrayRef {
        let value = |place| cells.get(&(place, name)).and_then(|row| from.is_valid(*row).then(|| from.value(*row)));
        Arc::new((0..order.len()).map(value).collect::<Float64Array>())
    };
    for name in &names {
        columns.push(((*name).to_owned(), pick(values, name)));
        if let Some(errors) = errors {
            columns.push((format!("{name}_standard_error"), pick(errors, name)));
        }
        if let Some(counts) = each {
            let count = |place| cells.get(&(place, *name)).map(|row| counts.value(*row));
            columns.push((format!("{name}_n"), Arc::new((0..order.len()).map(count).collect::<UInt32Array>())));
        }
    }
    Ok(Some(batch_of(&columns)?))
}

fn batch_of(columns: &[(String, ArrayRef)]) -> Result<RecordBatch> {
    batch(columns.iter().map(|(name, array)| (name.as_str(), array.clone())).collect())
}

/// Joins batches with different columns by column name.
fn stack(batches: &[RecordBatch]) -> Result<RecordBatch> {
    let mut fields: Vec<Field> = Vec::new();
    for field in batches.iter().flat_map(|batch| batch.schema_ref().fields().iter()) {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) if known.data_type() == &DataType::Null => *known = field.as_ref().clone(),
            Some(_) => {}
            None => fields.push(field.as_ref().clone()),
        }
    }
    let schema = Arc::new(Schema::new(fields.into_iter().map(|field| field.with_nullable(true)).collect::<Vec<_>>()));
    let aligned = batches.iter().map(|batch| {
        let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
            Some(array) if array.data_type() == field.data_type() => array.clone(),
            _ => new_null_array(field.data_type(), batch.num_rows()),
        });
        Ok(RecordBatch::try_new(schema.clone(), columns.collect())?)
    });
    let aligned = aligned.collect::<Result<Vec<_>>>()?;
    Ok(concat_batches(&schema, &aligned)?)
}

/// The wide table of evaluations; `None` if the files do not have long rows.
pub fn wide_table(files: &[TableFile]) -> Result<Option<MemTable>> {
    let constants = constant_types(files);
    let mut parts = Vec::new();
    for file in files {
        let Some(wide) = widen(&raisin_table::read(&file.path)?)? else { return Ok(None) };
        let names = wide.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let mut columns: Vec<(String, ArrayRef)> = names.into_iter().zip(wide.columns().iter().cloned()).collect();
        for (name, data_type) in &constants {
            let mut column = name.clone();
            while columns.iter().any(|(known, _)| *known == column) {
                column.push('_');
            }
            columns.push((column, constant(file, name, data_type)?.to_array_of_size(wide.num_rows())?));
        }
        parts.push(batch_of(&columns)?);
    }
    let rows = stack(&parts)?;
    Ok(Some(MemTable::try_new(rows.schema(), vec![vec![rows]])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_becomes_a_column_and_a_split_a_row() -> Result<()> {
        let long = batch(vec![
            ("split", Arc::new(StringArray::from(vec!["test", "test", "validation"])) as ArrayRef),
            ("metric", Arc::new(StringArray::from(vec!["loss", "acc", "loss"]))),
            ("value", Arc::new(Float64Array::from(vec![1.5, 0.25, 1.75]))),
            ("n", Arc::new(UInt32Array::from(vec![8, 8, 4]))),
        ])?;
        let wide = widen(&long)?.expect("long rows");
        assert_eq!(wide.num_rows(), 2);
        let names: Vec<_> = wide.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["split", "n", "loss", "acc"]);
        assert_eq!(column::<Float64Array>(&wide, "acc")?.iter().collect::<Vec<_>>(), [Some(0.25), None]);
        assert_eq!(column::<UInt32Array>(&wide, "n")?.values(), &[8, 4]);
        assert!(widen(&wide)?.is_none(), "a wide table stays as it is");
        Ok(())
    }

    #[test]
    fn metrics_of_different_numbers_of_examples_show_their_numbers() -> Result<()> {
        let long = batch(vec![
            ("metric", Arc::new(StringArray::from(vec!["loss", "acc"])) as ArrayRef),
            ("value", Arc::new(Float64Array::from(vec![1.5, 0.25]))),
            ("n", Arc::new(UInt32Array::from(vec![7, 8]))),
        ])?;
        let wide = widen(&long)?.expect("long rows");
        let counts = |name: &str| column::<UInt32Array>(&wide, name).map(|counts| counts.values().to_vec());
        assert_eq!((counts("n")?, counts("loss_n")?, counts("acc_n")?), (vec![7], vec![7], vec![8]));
        Ok(())
    }
}
