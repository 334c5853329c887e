//! The baselines, with which RAISE is compared (docs/method.md, section 6). Most baselines are a function that computes a
//! sequence of candidates from the pool; a [`Queue`](queue::Queue) serves this sequence. A [`Bandit`](bandit::Bandit)
//! learns from the losses of the steps, and [`Greats`](greats::Greats) reads gradients.

use super::chooser::{Chooser, ChooserInputs};
use raisin_base::error::{Problem, Result};
use raisin_settings::SelectionMethod;

mod bandit;
mod greats;
mod queue;
mod rds;
mod score;
mod uniform;

pub use rds::CosineTargets;

/// The chooser of a baseline. The chooser of a trained policy is [`super::Raise`].
///
/// # Errors
/// A column that the method needs is missing, too few candidates have a score, or `top` does not belong to the method.
pub fn chooser(method: SelectionMethod, inputs: &ChooserInputs) -> Result<Box<dyn Chooser>> {
    if inputs.top.is_some() && !method.has_score_order() {
        return Err(Problem::new(format!(
            "method `{}` has no order by score, of which `top` could be taken",
            method.name()
        ))
        .hint("remove `top` from `select`")
        .into());
    }
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
        SelectionMethod::Scores | SelectionMethod::Column | SelectionMethod::WarmLoss | SelectionMethod::Less => {
            score::given(method, inputs)?
        }
        SelectionMethod::Bandit => return Ok(Box::new(bandit::bandit(inputs)?)),
        SelectionMethod::Greats => return Ok(Box::new(greats::greats(inputs)?)),
        SelectionMethod::Sspl => score::sspl(inputs)?,
        SelectionMethod::Rds => rds::round_robin(inputs)?,
    };
    Ok(Box::new(queue))
}

#[cfg(test)]
mod tests;
