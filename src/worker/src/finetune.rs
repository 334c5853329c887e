//! `finetune`: trains the target on batches that a method of selection chooses, step by step. Every method, RAISE and
//! baseline alike, runs through the one loop below with the same budget. Leaves the choosing to the crate selector.

use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_kinds::finetune::Parameters;

mod run;
#[cfg(test)]
mod tests;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut run = run::Finetuning::start(parameters, context)?;
    while run.advance()? {}
    run.finish()
}
