//! The queries that answer `summarize` and `show columns`.

use datafusion::arrow::datatypes::{DataType, Schema};

use super::script::words;
use super::special::{literal, quoted};

/// What `summarize` names, as a query.
pub fn as_query(of: &str) -> String {
    let first = words(of).first().map(|word| word.to_lowercase()).unwrap_or_default();
    if ["select", "with", "values", "from", "("].contains(&first.as_str()) {
        of.to_owned()
    } else {
        format!("select * from {of}")
    }
}

/// One row for each column: its name, its type, whether it can be null, and its meaning.
pub fn columns(schema: &Schema, meaning: impl Fn(&str) -> Option<String>) -> String {
    let rows: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let nullable = if field.is_nullable() { "YES" } else { "NO" };
            let meaning = meaning(field.name()).map_or_else(|| "null".to_owned(), |text| literal(&text));
            let data_type = literal(&type_name(field.data_type()));
            format!("({}, {data_type}, '{nullable}', {meaning})", literal(field.name()))
        })
        .collect();
    if rows.is_empty() {
        return "select '' as column_name, '' as data_type, '' as is_nullable, '' as meaning where false".to_owned();
    }
    format!("select * from (values {}) t(column_name, data_type, is_nullable, meaning)", rows.join(", "))
}

/// A type in few words.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => format!("{}[]", type_name(item.data_type())),
        DataType::FixedSizeList(item, length) => format!("{}[{length}]", type_name(item.data_type())),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8.to_string(),
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary.to_string(),
        other => other.to_string(),
    }
}

/// One row of statistics for each column, as DuckDB has it. The number of distinct values is exact, and so are the
/// quartiles.
pub fn of(query: &str, schema: &Schema) -> String {
    let rows: Vec<String> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(place, field)| {
            let name = quoted(field.name());
            let number = |call: &str| {
                if field.data_type().is_numeric() {
                    format!("cast({call} as double)")
                } else {
                    "cast(null as double)".to_owned()
                }
            };
            let quartile = |part: f64| number(&format!("percentile_cont({part}) within group (order by {name})"));
            let is_ordered = !field.data_type().is_nested() && !field.data_type().is_null();
            // Bytes, such as a digest, are no text.
            let has_text = is_ordered && !field.data_type().is_binary();
            let text = |call: String| {
                if has_text { format!("cast({call} as varchar)") } else { "cast(null as varchar)".to_owned() }
            };
            let distinct =
                if is_ordered { format!("count(distinct {name})") } else { "cast(null as bigint)".to_owned() };
            format!(
                "select {place} as place, {} as column_name, {} as column_type, {} as min, {} as max, {distinct} as \
                 distinct_values, {} as avg, {} as std, {} as q25, {} as q50, {} as q75, count(*) as count, \
                 case when count(*) > 0 then round(100.0 * (count(*) - count({name})) / count(*), 2) end as \
                 null_percentage from ({query})",
                literal(field.name()),
                literal(&type_name(field.data_type())),
                text(format!("min({name})")),
                text(format!("max({name})")),
                number(&format!("avg({name})")),
                number(&format!("stddev({name})")),
                quartile(0.25),
                quartile(0.5),
                quartile(0.75),
            )
        })
        .collect();
    format!("select * exclude (place) from ({}) order by place", rows.join(" union all "))
}
