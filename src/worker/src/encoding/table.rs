//! The table `encoding`.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray, UInt32Array, UInt64Array};

use super::{EncodingReport, EncodingRow};
use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_table::{self as table, WriteTable as _};

impl EncodingReport {
    /// Writes the table `encoding`. It has no rows if every row was encoded as it is.
    ///
    /// | column | content |
    /// |---|---|
    /// | `of` | `instructions`, `validation` or `test` |
    /// | `metric` | the metric for which an evaluation encoded the example; null in other stages |
    /// | `id`, `file`, `line` | the row; `file` and `line` are null if the row comes from no file |
    /// | `kind` | `truncated`, `left_out`, or the name of a finding |
    /// | `turn` | the turn of a finding, counted from 1; null if the finding is about the whole row |
    /// | `tokens`, `targets` | the numbers of the whole row; null if the row has no tokens or no targets |
    /// | `tokens_cut`, `targets_cut` | the numbers behind the cut; null if `kind` is not `truncated` |
    /// | `max_tokens` | the limit of the stage |
    /// | `reason` | the cause; for a finding, also the message of the template |
    pub fn write(&self, context: &Context) -> Result<()> {
        let texts = |of: &dyn Fn(&EncodingRow) -> Option<String>| -> ArrayRef {
            Arc::new(self.rows.iter().map(of).collect::<StringArray>())
        };
        let counts = |of: &dyn Fn(&EncodingRow) -> Option<usize>| -> ArrayRef {
            Arc::new(self.rows.iter().map(|row| of(row).map(|number| number as u64)).collect::<UInt64Array>())
        };
        let file = |row: &EncodingRow| self.files.get(row.origin.source? as usize).cloned();
        let lines = self.rows.iter().map(|row| row.origin.line).collect::<UInt64Array>();
        context.write_table(
            "encoding",
            &table::batch(vec![
                ("of", texts(&|row| Some(row.of.name().to_owned()))),
                ("metric", texts(&|row| row.metric.map(str::to_owned))),
                ("id", Arc::new(UInt32Array::from_iter_values(self.rows.iter().map(|row| row.origin.id)))),
                ("file", texts(&file)),
                ("line", Arc::new(lines)),
                ("kind", texts(&|row| Some(row.kind.to_owned()))),
                ("turn", Arc::new(self.rows.iter().map(|row| row.turn).collect::<UInt32Array>())),
                ("tokens", counts(&|row| row.tokens)),
                ("targets", counts(&|row| row.targets)),
                ("tokens_cut", counts(&|row| row.cut.map(|(tokens, _)| tokens))),
                ("targets_cut", counts(&|row| row.cut.map(|(_, targets)| targets))),
                ("max_tokens", counts(&|_| Some(self.limit.max_tokens))),
                ("reason", texts(&|row| Some(row.reason.to_string()))),
            ])?,
        )
    }
}
