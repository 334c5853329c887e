//! The headings of tables on the page, with the meanings of their columns: those that `describe` shows, from the
//! declarations of the kinds (src/kinds/src/outputs).

use super::markup::escape;

/// The heading of a column of numbers, or of texts. `columns` are the columns of the declared table from which its cells
/// come; their meanings appear when the pointer rests on the heading.
pub struct TableHeadings {
    pub kind: &'static str,
    pub table: &'static str,
}

impl TableHeadings {
    /// `<th>` with `text`, which is HTML already. Without columns, or with columns that nobody declared, no meaning appears.
    pub fn cell(&self, text: &str, is_number: bool, columns: &[&str]) -> String {
        let class = if is_number { " class=\"n\"" } else { "" };
        let meanings: Vec<String> = columns
            .iter()
            .filter_map(|column| {
                let meaning = raisin_kinds::meaning(self.kind, self.table, column)?;
                Some(format!("{column}: {meaning}"))
            })
            .collect();
        let title =
            if meanings.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&meanings.join(". "))) };
        format!("<th{class}{title}>{text}</th>")
    }
}

/// The table `comparison`, which the report itself writes.
pub const COMPARISON: TableHeadings = TableHeadings { kind: "report", table: "comparison" };
/// What a fine-tune or a selector selected.
pub const SELECTION: TableHeadings = TableHeadings { kind: "finetune", table: "selection" };
/// What a selector learned about the columns of its state.
pub const COLUMN_EFFECTS: TableHeadings = TableHeadings { kind: "selector", table: "column_effects" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_tells_what_describe_tells() {
        let heading = COMPARISON.cell("95 % over seeds", true, &["ci_low", "ci_high"]);
        assert_eq!(
            heading,
            "<th class=\"n\" title=\"ci_low: the lower end of the 95 % interval of `mean` over seeds. Null with fewer than two \
             seeds. ci_high: the upper end of this interval. Null with fewer than two seeds\">95 % over seeds</th>"
        );
        assert_eq!(COMPARISON.cell("x", false, &[]), "<th>x</th>");
    }

    #[test]
    fn every_column_that_a_heading_names_is_declared() {
        let named: [(TableHeadings, &[&str]); 4] = [
            (
                COMPARISON,
                &["method", "mean", "ci_low", "ci_high", "n_seeds", "difference", "difference_low", "difference_high"],
            ),
            (COMPARISON, &["items_low", "items_high", "paired_items", "steps", "phi", "total_phi", "tokens", "flops"]),
            (SELECTION, &["score", "cluster", "label", "instruction"]),
            (COLUMN_EFFECTS, &["column", "at_start", "at_start_deviation", "in_middle", "at_end"]),
        ];
        for (table, columns) in named {
            for column in columns {
                assert!(table.cell("x", false, &[column]).contains("title"), "{}.{column}", table.table);
            }
        }
    }
}
