//! Rows as Markdown and as HTML. Both are written batch by batch, in full.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;

use super::cells::columns;
use crate::summary::type_name;
use raisin_base::error::Result;

/// A format that is written batch by batch.
pub trait Markup {
    fn begin(&self, schema: &Schema, to: &mut dyn Write) -> Result<()>;
    fn rows(&self, rows: &RecordBatch, to: &mut dyn Write) -> Result<()>;
    fn end(&self, to: &mut dyn Write) -> Result<()>;
}

/// A table of Markdown as GitHub reads it.
pub struct Markdown;

/// A pipe would end the cell, and a tag would be HTML.
fn markdown(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

impl Markup for Markdown {
    fn begin(&self, schema: &Schema, to: &mut dyn Write) -> Result<()> {
        let fields = schema.fields();
        let names: Vec<String> = fields.iter().map(|field| markdown(field.name())).collect();
        let rules: Vec<&str> =
            fields.iter().map(|field| if field.data_type().is_numeric() { "---:" } else { "---" }).collect();
        Ok(writeln!(to, "| {} |\n| {} |", names.join(" | "), rules.join(" | "))?)
    }

    fn rows(&self, rows: &RecordBatch, to: &mut dyn Write) -> Result<()> {
        let columns = columns(rows, "")?;
        for row in 0..rows.num_rows() {
            let cells: Vec<String> = columns.iter().map(|column| markdown(&column.cells[row])).collect();
            writeln!(to, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }

    fn end(&self, _to: &mut dyn Write) -> Result<()> {
        Ok(())
    }
}

/// A page with one table.
pub struct Html;

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>raisin sql</title>\n\
    <style>\n:root { color-scheme: light dark; font: 14px system-ui, sans-serif }\n\
    table { border-collapse: collapse }\nth, td { padding: 2px 8px; text-align: left; border-bottom: 1px solid #8884 }\n\
    .number { text-align: right; font-variant-numeric: tabular-nums }\n</style>\n<table>\n";

/// A table for a page. The heading of a column tells its type and what `meaning` says of it.
pub fn fragment(rows: &RecordBatch, meaning: impl Fn(&str) -> Option<String>) -> Result<String> {
    let mut bytes = b"<table><thead><tr>".to_vec();
    for field in rows.schema().fields() {
        let class = if field.data_type().is_numeric() { " class=\"number\"" } else { "" };
        let type_name = type_name(field.data_type());
        let about =
            meaning(field.name()).map_or_else(|| type_name.clone(), |meaning| format!("{type_name}: {meaning}"));
        write!(bytes, "<th{class} title=\"{}\">{}</th>", html(&about).replace('"', "&quot;"), html(field.name()))?;
    }
    bytes.extend_from_slice(b"</tr></thead>\n<tbody>\n");
    Html.rows(rows, &mut bytes)?;
    bytes.extend_from_slice(b"</tbody></table>\n");
    Ok(String::from_utf8(bytes)?)
}

impl Markup for Html {
    fn begin(&self, schema: &Schema, to: &mut dyn Write) -> Result<()> {
        write!(to, "{HEAD}<thead>\n<tr>")?;
        for field in schema.fields() {
            let class = if field.data_type().is_numeric() { " class=\"number\"" } else { "" };
            write!(to, "<th{class}>{}</th>", html(field.name()))?;
        }
        Ok(writeln!(to, "</tr>\n</thead>\n<tbody>")?)
    }

    fn rows(&self, rows: &RecordBatch, to: &mut dyn Write) -> Result<()> {
        let columns = columns(rows, "")?;
        for row in 0..rows.num_rows() {
            write!(to, "<tr>")?;
            for column in &columns {
                let class = if column.is_right { " class=\"number\"" } else { "" };
                write!(to, "<td{class}>{}</td>", html(&column.cells[row]))?;
            }
            writeln!(to, "</tr>")?;
        }
        Ok(())
    }

    fn end(&self, to: &mut dyn Write) -> Result<()> {
        Ok(write!(to, "</tbody>\n</table>\n</html>\n")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{ArrayRef, Float64Array, StringArray};
    use std::sync::Arc;

    fn written(markup: &dyn Markup) -> String {
        let rows = raisin_table::batch(vec![
            ("a|b", Arc::new(StringArray::from(vec![Some("x | <b>y</b> & \\"), None])) as ArrayRef),
            ("n", Arc::new(Float64Array::from(vec![0.5, 2.0]))),
        ])
        .expect("columns of one length");
        let mut bytes = Vec::new();
        markup.begin(&rows.schema(), &mut bytes).expect("begun");
        markup.rows(&rows, &mut bytes).expect("written");
        markup.end(&mut bytes).expect("ended");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn the_text_of_a_cell_stays_in_its_cell() {
        insta::assert_snapshot!(written(&Markdown), @r"
        | a\|b | n |
        | --- | ---: |
        | x \| &lt;b>y&lt;/b> & \\ | 0.5 |
        |  | 2 |
        ");
        let page = written(&Html);
        insta::assert_snapshot!(page.split_once("<thead>").map_or("", |(_, table)| table), @r#"

        <tr><th>a|b</th><th class="number">n</th></tr>
        </thead>
        <tbody>
        <tr><td>x | &lt;b&gt;y&lt;/b&gt; &amp; \</td><td class="number">0.5</td></tr>
        <tr><td></td><td class="number">2</td></tr>
        </tbody>
        </table>
        </html>
        "#);
    }
}
