//! The baselines, with which RAISE is compared (docs/method.md, section 6). Each baseline is a function that computes a
//! sequence of candidates from the pool; a [`Queue`](queue::Queue) serves this sequence.

use super::chooser::{Chooser, ChooserInputs};
use raisin_base::error::{Problem, Result};
use raisin_settings::SelectionMethod;

mod queue;
mod rds;
mod score;
mod uniform;

/// The chooser of a baseline. The chooser of a trained policy is [`super::Raise`].
pub fn chooser(method: SelectionMethod, inputs: &ChooserInputs) -> Result<Box<dyn Chooser>> {
    let queue = match method {
        SelectionMethod::Raise => {
            return Err(Problem::new("method `raise` needs the policy of a selector stage")
                .hint("name the stage: select = { method = \"raise\", policy = \"selector\" }")
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
