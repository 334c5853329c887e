//! The report on a machine for tensor stages, and its text for the user. raisin-worker fills the report
//! (lm/src/inspect.rs), because it has libtorch. `raisin doctor` prints the text, because it has no libtorch.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The release of libtorch for which the bindings are made.
pub const LIBTORCH: &str = "2.11.0";

/// The version of the libtorch in a folder of libraries, from the headers beside the folder. Wheels and libtorch's own
/// archives have the headers at the same place.
pub fn libtorch_version(libraries: &Path) -> Option<String> {
    let include = libraries.parent()?.join("include/torch");
    let text = ["headeronly/version.h", "version.h"]
        .iter()
        .find_map(|name| std::fs::read_to_string(include.join(name)).ok())?;
    let part = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", part("MAJOR ")?, part("MINOR ")?, part("PATCH ")?))
}

/// The report, as `raisin-worker --inspect` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// The version of the loaded libtorch. `None` if its headers are not beside the library.
    pub libtorch: Option<String>,
    /// The path from which libtorch was loaded.
    pub library: Option<String>,
    pub processor: String,
    /// The instruction sets of the processor that decide the speed of matrix products.
    pub instructions: Vec<String>,
    pub threads: usize,
    /// Speed of products of 512 x 512 matrices on all threads, in 1e9 operations per second.
    pub f32_gflops: f64,
    pub bf16_gflops: f64,
    pub cuda: Cuda,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cuda {
    /// The reason why the CUDA part of libtorch could not be loaded. `None` if it was loaded.
    pub problem: Option<String>,
    /// The names of the GPUs that the driver lists.
    pub gpus: Vec<String>,
    /// The number of GPUs that libtorch can use.
    pub usable: usize,
    /// Whether the library of the driver is installed.
    pub driver: bool,
}

impl MachineReport {
    pub fn has_bf16_instructions(&self) -> bool {
        self.instructions.iter().any(|name| name.ends_with("bf16"))
    }

    /// The contents of the report as lines of name and value.
    pub fn findings(&self) -> Vec<(&'static str, String)> {
        let version = self.libtorch.as_deref().unwrap_or("of an unknown version");
        let place = self.library.as_deref().unwrap_or("an unknown place");
        let gpus = match (self.cuda.usable, self.cuda.gpus.as_slice()) {
            (0, []) => "none".to_owned(),
            (0, gpus) => format!("{} (not usable)", gpus.join(", ")),
            (usable, []) => format!("{usable} CUDA"),
            (usable, gpus) => format!("{} ({usable} usable)", gpus.join(", ")),
        };
        let instructions = match self.instructions.as_slice() {
            [] => "no vector instructions that libtorch uses".to_owned(),
            some => some.join(" "),
        };
        vec![
            ("", format!("{version} from {place}")),
            ("processor", format!("{}: {instructions}", self.processor)),
            ("threads", self.threads.to_string()),
            ("f32", format!("{:.0} GFLOP/s on the CPU", self.f32_gflops)),
            ("bf16", format!("{:.0} GFLOP/s on the CPU", self.bf16_gflops)),
            ("gpus", gpus),
            ("dtype", format!("{} unless a pipeline sets `dtype`", if self.cuda.usable > 0 { "bf16" } else { "f32" })),
        ]
    }

    /// Advice on what is missing.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if let Some(version) = self.libtorch.as_deref().filter(|version| *version != LIBTORCH) {
            advice.push(format!(
                "libtorch is {version}, but raisin is made for {LIBTORCH}: `raisin doctor --install-libtorch` \
                 installs {LIBTORCH}"
            ));
        }
        if !self.has_bf16_instructions() {
            advice.push(format!(
                "this processor has no bf16 instructions: bf16 takes {:.1} times as long as f32 here, so leave `dtype` \
                 at f32 on the CPU",
                self.f32_gflops / self.bf16_gflops.max(1e-9)
            ));
        }
        if self.cuda.usable == 0 {
            match (&self.cuda.problem, self.cuda.driver, self.cuda.gpus.is_empty()) {
                // A machine without a GPU misses nothing.
                (_, false, true) => {}
                (_, false, false) => {
                    advice.push("there is a GPU, but libcuda.so.1 is missing: install the NVIDIA driver".to_owned());
                }
                (Some(problem), true, _) => advice.push(format!(
                    "there is an NVIDIA driver, but libtorch's CUDA libraries cannot be loaded ({problem}): \
                     `raisin doctor --install-libtorch cuda` installs them"
                )),
                (None, true, _) => advice.push(
                    "libtorch's CUDA libraries are there, but find no device: compare the driver's version with \
                     `nvidia-smi`, and CUDA_VISIBLE_DEVICES with what you want to use"
                        .to_owned(),
                ),
            }
        }
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineReport {
        MachineReport {
            libtorch: Some(LIBTORCH.to_owned()),
            library: Some("lib/libtorch_cpu.so".to_owned()),
            processor: "Some CPU".to_owned(),
            instructions: vec!["avx2".to_owned(), "avx512_bf16".to_owned()],
            threads: 2,
            f32_gflops: 90.0,
            bf16_gflops: 45.0,
            cuda: Cuda { problem: Some("no such file".to_owned()), gpus: Vec::new(), usable: 0, driver: false },
        }
    }

    #[test]
    fn a_complete_machine_needs_no_advice() {
        assert!(machine().advice().is_empty());
        let with_gpu = Cuda { problem: None, gpus: vec!["H100".to_owned()], usable: 1, driver: true };
        let machine = MachineReport { cuda: with_gpu, ..machine() };
        assert!(machine.advice().is_empty());
        assert!(machine.findings().contains(&("gpus", "H100 (1 usable)".to_owned())));
    }

    #[test]
    fn what_is_missing_comes_with_what_to_do() {
        let without = MachineReport { instructions: vec!["avx2".to_owned()], ..machine() };
        assert!(without.advice()[0].contains("bf16 takes 2.0 times as long as f32"), "{:?}", without.advice());
        let cuda = |problem: Option<&str>, driver, gpus: &[&str]| {
            let gpus = gpus.iter().map(|name| (*name).to_owned()).collect();
            MachineReport { cuda: Cuda { problem: problem.map(str::to_owned), gpus, usable: 0, driver }, ..machine() }
                .advice()
        };
        assert!(cuda(Some("x"), false, &["H100"])[0].contains("install the NVIDIA driver"));
        assert!(cuda(Some("x"), true, &["H100"])[0].contains("--install-libtorch cuda"));
        assert!(cuda(None, true, &["H100"])[0].contains("nvidia-smi"));
        let old = MachineReport { libtorch: Some("2.4.0".to_owned()), ..machine() };
        assert!(old.advice()[0].contains("libtorch is 2.4.0"));
    }
}
