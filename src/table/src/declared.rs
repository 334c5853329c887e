//! Holds a table to its declaration: the names of the columns, their types, and where a value may be null.

use arrow_array::{Array as _, RecordBatch};
use arrow_schema::DataType;

use raisin_base::error::{Result, bail, ensure};
use raisin_contract::outputs::{ColumnType, TableDeclaration};

/// Checks that the rows have the declared columns, and no others.
///
/// # Errors
/// The table differs from its declaration. This is an error of the kind, not of its user.
pub fn check(table: &TableDeclaration, rows: &RecordBatch) -> Result<()> {
    let name = table.name;
    for (field, values) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let Some(column) = table.columns().find(|column| column.name == field.name()) else {
            ensure!(table.further.is_some(), "the table `{name}` does not declare its column `{}`{SEE}", field.name());
            continue;
        };
        let (column, declared) = (column.name, column);
        if !is_of(declared.column_type, field.data_type()) {
            let (declared, has) = (declared.column_type.name(), field.data_type());
            bail!("the column `{column}` of the table `{name}` is declared as {declared}, and has the type {has}{SEE}");
        }
        let nulls = values.null_count();
        ensure!(
            nulls == 0 || declared.null.is_some(),
            "the column `{column}` of the table `{name}` is declared without nulls, and {nulls} rows are null{SEE}"
        );
    }
    for column in table.columns().filter(|column| column.when.is_none()) {
        let is_there = rows.column_by_name(column.name).is_some();
        ensure!(is_there, "the table `{name}` declares the column `{}`, which it does not have{SEE}", column.name);
    }
    Ok(())
}

const SEE: &str = ": see src/kinds/src/outputs";

fn is_of(declared: ColumnType, data_type: &DataType) -> bool {
    match (declared, data_type) {
        (ColumnType::Bool, DataType::Boolean)
        | (ColumnType::I32, DataType::Int32)
        | (ColumnType::I64, DataType::Int64)
        | (ColumnType::U32, DataType::UInt32)
        | (ColumnType::U64, DataType::UInt64)
        | (ColumnType::F32, DataType::Float32)
        | (ColumnType::F64, DataType::Float64)
        | (ColumnType::Text, DataType::Utf8) => true,
        (ColumnType::Texts, DataType::List(item)) => *item.data_type() == DataType::Utf8,
        (ColumnType::Vector, DataType::FixedSizeList(item, _)) => *item.data_type() == DataType::Float32,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int32Array, StringArray, UInt32Array};
    use raisin_contract::outputs::{column, table};

    use super::*;
    use crate::batch;

    const ROWS: TableDeclaration = table(
        "rows",
        "A row.",
        &[
            &[column("id", ColumnType::U32, "the row"), column("text", ColumnType::Text, "a text").null("sometimes")],
            &[column("more", ColumnType::Vector, "numbers").only("with `more`")],
        ],
    );

    fn said(table: &TableDeclaration, columns: Vec<(&str, ArrayRef)>) -> Result<String> {
        Ok(check(table, &batch(columns)?).err().map(|error| error.to_string()).unwrap_or_default())
    }

    #[test]
    fn a_table_that_differs_from_its_declaration_is_refused() -> Result<()> {
        let id = || ("id", Arc::new(UInt32Array::from(vec![0, 1])) as ArrayRef);
        let text = || ("text", Arc::new(StringArray::from(vec![Some("a"), None])) as ArrayRef);
        assert_eq!(said(&ROWS, vec![id(), text()])?, "");
        assert_eq!(
            said(&ROWS, vec![text()])?,
            "the table `rows` declares the column `id`, which it does not have: see src/kinds/src/outputs"
        );
        let other = ("other", text().1);
        let said_of_other = said(&ROWS, vec![id(), text(), other.clone()])?;
        assert!(said_of_other.starts_with("the table `rows` does not declare its column `other`"), "{said_of_other}");
        assert_eq!(said(&ROWS.further("Others."), vec![id(), text(), other])?, "");
        let signed = ("id", Arc::new(Int32Array::from(vec![0, 1])) as ArrayRef);
        let said_of_type = said(&ROWS, vec![signed, text()])?;
        assert!(said_of_type.contains("`id` of the table `rows` is declared as u32, and has the type Int32"));
        let null = ("id", Arc::new(UInt32Array::from(vec![None, Some(1)])) as ArrayRef);
        let said_of_null = said(&ROWS, vec![null, text()])?;
        assert!(said_of_null.contains("`id` of the table `rows` is declared without nulls, and 1 rows are null"));
        Ok(())
    }
}
