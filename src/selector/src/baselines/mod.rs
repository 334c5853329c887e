//! The published methods that RAISE is compared with: a score in one file, and the queue that serves by it.
//!
//! A new baseline is a function from the pool to a sequence of entries.

use super::chooser::{Chooser, Inputs};
use raisin_base::error::{Problem, Result};
use raisin_settings::Method;

mod queue;
mod rds;
mod score;
mod uniform;

/// The chooser of a baseline method.
pub fn chooser(method: Method, inputs: &Inputs) -> Result<Box<dyn Chooser>> {
    let queue = match method {
        Method::Raise => {
            return Err(Problem::new("method `raise` needs the policy of a selector stage")
                .hint("name it: select = { method = \"raise\", policy = \"selector\" }")
                .into());
        }
        Method::Random | Method::Full | Method::Validation => uniform::everything(method, inputs)?,
        Method::Oracle => uniform::relevant(inputs)?,
        Method::Perplexity => score::perplexity(inputs)?,
        Method::Length => score::length(inputs)?,
        Method::Ifd => score::ifd(inputs)?,
        Method::Scores => score::external(inputs)?,
        Method::Sspl => score::sspl(inputs)?,
        Method::Rds => rds::round_robin(inputs)?,
    };
    Ok(Box::new(queue))
}

#[cfg(test)]
mod tests;
