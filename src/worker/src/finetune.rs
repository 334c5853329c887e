//! Runs a stage of kind `finetune`: trains the target model on the batches that a selection method chooses. RAISE and all
//! baselines run through the loop below with the same budget. The crate raisin-selector chooses.

use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_kinds::finetune::Parameters;

mod gradients;
mod run;
#[cfg(test)]
mod tests;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut run = run::Finetuning::start(parameters, context)?;
    while run.advance()? {}
    run.finish()
}
