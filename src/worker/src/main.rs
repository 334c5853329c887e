//! `raisin-worker`: runs the stages of the tensor kinds. `raisin build` starts it. With `--inspect`, it prints a report
//! on the devices of the machine, which `raisin doctor` shows. `raisin init` asks it about a model.

mod clusters;
mod encoding;
mod evaluate;
mod features;
mod finetune;
#[cfg(test)]
mod fixture;
mod influence;
mod learning;
mod look;
mod model;
mod passes;
mod pretrain;
mod selecting;
mod selector;
mod tables;
mod vectors;

use std::io::Write as _;
use std::process::ExitCode;

use raisin_base::allocator::keep_freed_memory;
use raisin_base::error::{Result, anyhow, print_panics_without_backtrace};
use raisin_contract::serve::{run_executable, run_one_of};
use raisin_contract::{Assignment, DeviceKind, KindRunner, threads};
use raisin_lm as lm;

/// The memory that a worker may keep between stages, in bytes.
const MOST_KEPT: u64 = 1_000_000_000;
/// The same limit after a stage on a GPU: a CUDA context takes host memory as long as the worker lives.
const MOST_KEPT_WITH_CUDA: u64 = 4_000_000_000;

fn main() -> ExitCode {
    print_panics_without_backtrace();
    keep_freed_memory();
    let runners = runners();
    run_executable(
        |assignment| run_stage(&runners, assignment),
        |device| match device {
            DeviceKind::Cpu => MOST_KEPT,
            DeviceKind::Cuda => MOST_KEPT_WITH_CUDA,
        },
        |arguments| {
            if let [command, path] = arguments
                && command == "look"
            {
                let findings = look::look(std::path::Path::new(path))?;
                return Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&findings)?)?);
            }
            if arguments != ["--inspect"] {
                return Err(anyhow!(
                    "usage: raisin-worker run-stages, which `raisin build` starts, or raisin-worker --inspect"
                ));
            }
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&lm::inspect()?)?)?;
            Ok(())
        },
    )
}

fn runners() -> Vec<KindRunner> {
    vec![
        KindRunner::of::<raisin_kinds::model::ModelKind>(model::run),
        KindRunner::of::<raisin_kinds::pretrain::PretrainKind>(pretrain::run),
        KindRunner::of::<raisin_kinds::features::FeaturesKind>(features::run),
        KindRunner::of::<raisin_kinds::influence::InfluenceKind>(influence::run),
        KindRunner::of::<raisin_kinds::clusters::ClustersKind>(clusters::run),
        KindRunner::of::<raisin_kinds::selector::SelectorKind>(selector::run),
        KindRunner::of::<raisin_kinds::finetune::FinetuneKind>(finetune::run),
        KindRunner::of::<raisin_kinds::evaluate::EvaluateKind>(evaluate::run),
    ]
}

/// Runs a stage on a thread pool of its own.
fn run_stage(runners: &[KindRunner], assignment: Assignment) -> Result<()> {
    let threads = i32::try_from(assignment.threads.max(1))?;
    threads::pool(assignment.threads)?.install(|| {
        // OpenMP keeps this number for each thread, therefore the thread that runs the stage sets it.
        tch::set_num_threads(threads);
        if assignment.environment.device == DeviceKind::Cuda {
            // The device is chosen before the first tensor, also for a stage that keeps its tensors on the CPU.
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
