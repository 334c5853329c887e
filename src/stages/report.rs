//! `report`: one HTML page over the tables of other stages, and the comparison of methods as a table. Leaves reading,
//! computing and drawing to the report room.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Kind, Needs, ParameterProblem, Process};
use crate::error::{Context as _, Result};
use crate::report::comparison::{baseline_label, compare, comparison_table};
use crate::report::gather::Gathered;
use crate::report::page::page;

pub struct Report;

/// Parameters of a `report` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stages to report, in any order: selectors, fine-tunes, evaluations; a `clusters` stage gives the clusters of
    /// what methods without features selected. The page sees every variant of them.
    pub of: Vec<String>,
    /// The page's heading.
    #[serde(default = "default_title")]
    pub title: String,
    /// The method that the others are compared with.
    #[serde(default = "default_baseline")]
    pub baseline: String,
}

fn default_title() -> String {
    "Instruction selection".to_owned()
}

fn default_baseline() -> String {
    "random".to_owned()
}

impl Kind for Report {
    const NAME: &'static str = "report";
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "Compares methods over seeds, with plots of learning and selection, on one HTML page.";
    const PROCESS: Process = Process::Light;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        for (place, stage) in parameters.of.iter().enumerate() {
            needs.any_stage(format!("/of/{place}"), stage);
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if parameters.of.is_empty() {
            let problem = ParameterProblem::new("/of", "a report needs at least one stage to tell of");
            return Err(problem.hint("such as of = [\"selector\", \"tuned\", \"scores\"]"));
        }
        Ok(())
    }

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
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
}
