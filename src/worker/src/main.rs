//! `raisin-worker`: runs the stages of tensors that a build asks for on standard input; with `--inspect`, tells what the
//! machine offers.

mod clusters;
mod evaluate;
mod features;
mod finetune;
#[cfg(test)]
mod fixture;
mod learning;
mod model;
mod pretrain;
mod selecting;
mod selector;
mod tables;

use std::process::ExitCode;

use raisin_base::error::{Result, anyhow, print_panics_without_backtrace};
use raisin_contract::serve::{report_failure, run_one_of, serve};
use raisin_contract::{Assignment, DeviceKind, KindRunner, threads};
use raisin_lm as lm;

/// What a worker may hold between stages, in bytes.
const MOST_KEPT: u64 = 1_000_000_000;
/// With a CUDA context, which takes memory of the host for as long as the worker lives.
const MOST_KEPT_WITH_CUDA: u64 = 4_000_000_000;

fn main() -> ExitCode {
    print_panics_without_backtrace();
    lm::keep_freed_memory();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn runners() -> Vec<KindRunner> {
    vec![
        KindRunner::of::<raisin_kinds::model::ModelKind>(model::run),
        KindRunner::of::<raisin_kinds::pretrain::PretrainKind>(pretrain::run),
        KindRunner::of::<raisin_kinds::features::FeaturesKind>(features::run),
        KindRunner::of::<raisin_kinds::clusters::ClustersKind>(clusters::run),
        KindRunner::of::<raisin_kinds::selector::SelectorKind>(selector::run),
        KindRunner::of::<raisin_kinds::finetune::FinetuneKind>(finetune::run),
        KindRunner::of::<raisin_kinds::evaluate::EvaluateKind>(evaluate::run),
    ]
}

fn run() -> Result<()> {
    let runners = runners();
    match std::env::args().nth(1).as_deref() {
        Some("run-stages") => serve(
            |assignment| make(&runners, assignment),
            |device| match device {
                DeviceKind::Cpu => MOST_KEPT,
                DeviceKind::Cuda => MOST_KEPT_WITH_CUDA,
            },
        ),
        Some("--inspect") => {
            println!("{}", serde_json::to_string(&lm::inspect()?)?);
            Ok(())
        }
        _ => Err(anyhow!("usage: raisin-worker run-stages, which `raisin build` starts, or raisin-worker --inspect")),
    }
}

fn make(runners: &[KindRunner], assignment: Assignment) -> Result<()> {
    let threads = i32::try_from(assignment.threads.max(1))?;
    threads::pool(assignment.threads)?.install(|| {
        // On the thread that the stage runs on: OpenMP keeps the number for each thread.
        tch::set_num_threads(threads);
        if assignment.environment.device == DeviceKind::Cuda {
            // Before the first tensor, also where this stage is one that keeps its tensors on the CPU.
            lm::device(Some(assignment.environment.device_index))?;
        }
        run_one_of(runners, assignment)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_kind_of_this_executable_has_its_run() {
        let kinds: Vec<&str> = super::runners().iter().map(|runner| runner.kind).collect();
        assert_eq!(kinds, raisin_kinds::kinds_of(raisin_contract::Process::Tensor));
    }
}
