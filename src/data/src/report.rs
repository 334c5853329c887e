//! `report`: one HTML page over the tables of other stages, and the comparison of methods as a table. Leaves reading,
//! computing and drawing to the report room.

use raisin_base::error::{Context as _, Result};
use raisin_contract::Context;
use raisin_kinds::report::Parameters;
use raisin_report::comparison::{baseline_label, compare, comparison_table};
use raisin_report::gather::Gathered;
use raisin_report::page::page;
use raisin_table::WriteTable as _;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut sources = Vec::new();
    for place in 0..parameters.of.len() {
        sources.extend_from_slice(context.gathered(&format!("/of/{place}"))?);
    }
    let gathered = Gathered::read(&sources)?;
    let labels = gathered.labels();
    if baseline_label(&labels, &parameters.baseline).is_none() && gathered.scorings.len() > 1 {
        context.note(format!("nothing is called `{}`, so nothing is compared with it", parameters.baseline));
    }
    let rows = compare(&gathered, &parameters.baseline);
    context.write_table("comparison", &comparison_table(&rows, &parameters.baseline)?)?;
    let html = page(&parameters.title, &gathered, &parameters.baseline);
    std::fs::write(context.out().join("report.html"), html).context("cannot write report.html")
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
