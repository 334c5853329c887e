//! The published methods that RAISE is compared with: a score in one file, and the queue that serves by it.
//!
//! A new baseline is a function from the pool to a sequence of entries.

use super::chooser::{Chooser, ChooserInputs};
use raisin_base::error::{Problem, Result};
use raisin_settings::SelectionMethod;

mod queue;
mod rds;
mod score;
mod uniform;

/// The chooser of a baseline method.
pub fn chooser(method: SelectionMethod, inputs: &ChooserInputs) -> Result<Box<dyn Chooser>> {
    let queue = match method {
        SelectionMethod::Raise => {
            return Err(Problem::new("method `raise` needs the policy of a selector stage")
                .hint("name it: select = { method = \"raise\", policy = \"selector\" }")
                .into());
        }
        SelectionMethod::Random | SelectionMethod::Full | SelectionMethod::Validation => {
            uniform::everything(method, inputs)?
        }
        SelectionMethod::Oracle => uniform::relevant(inputs)?,
        SelectionMethod::Perplexity => score::perplexity(inputs)?,
        SelectionMethod::Length => score::length(inputs)?,
        SelectionMethod::Ifd => score::ifd(inputs)?,
        SelectionMethod::Scores => score::external(inputs)?,
        SelectionMethod::Sspl => score::sspl(inputs)?,
        SelectionMethod::Rds => rds::round_robin(inputs)?,
    };
    Ok(Box::new(queue))
}

#[cfg(test)]
mod tests;
