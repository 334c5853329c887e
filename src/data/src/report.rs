//! Runs a stage of kind `report`: writes one HTML page about other stages, and the comparison of methods as a table.
//! The crate raisin-report reads, computes and draws.

use raisin_base::error::{Context as _, Result};
use raisin_contract::Context;
use raisin_kinds::report::Parameters;
use raisin_report::comparison::{baseline_label, compare, comparison_table, results_file};
use raisin_report::gather::ReportData;
use raisin_report::page::{PageHeading, page};
use raisin_report::results::no_baseline;
use raisin_table::WriteTable as _;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut sources = Vec::new();
    for place in 0..parameters.of.len() {
        sources.extend_from_slice(context.gathered(&format!("/of/{place}"))?);
    }
    let gathered = ReportData::read(&sources)?;
    let labels = gathered.labels();
    if baseline_label(&labels, &parameters.baseline).is_none() && gathered.evaluations.len() > 1 {
        context.note(format!("{}, so nothing is compared with it", no_baseline(&labels, &parameters.baseline)));
    }
    let rows = compare(&gathered, &parameters.baseline);
    context.write_table("comparison", &comparison_table(&rows)?)?;
    results_file(&rows, &parameters.baseline).write(context)?;
    let heading = PageHeading { title: parameters.title.as_deref(), setup: parameters.setup.as_ref() };
    let html = page(heading, &gathered, &rows, &parameters.baseline);
    std::fs::write(context.out().join("report.html"), html).context("cannot write report.html")
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
