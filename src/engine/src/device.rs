//! Finds the devices that tensor stages can use on this machine, without loading libtorch. resources.rs divides the
//! devices among stages.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::libtorch::find_libtorch;
use raisin_base::error::{Problem, Result};
use raisin_contract::{DType, DeviceKind};

/// The device that the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA if there is a GPU and a libtorch that can use it, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
    /// One GPU of several.
    CudaAt(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = || text.strip_prefix("cuda:")?.parse().ok().map(Self::CudaAt);
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => number().ok_or_else(|| "a device is auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

/// The form that a user writes and [`FromStr`] reads.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda => f.write_str("cuda"),
            Self::CudaAt(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl DeviceChoice {
    /// Replaces `auto` by the device kind that `auto` means on this machine.
    #[must_use]
    pub fn settled(self, kind: DeviceKind) -> Self {
        match (self, kind) {
            (Self::Auto, DeviceKind::Cpu) => Self::Cpu,
            (Self::Auto, DeviceKind::Cuda) => Self::Cuda,
            (chosen, _) => chosen,
        }
    }
}

/// The devices for tensor stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    pub kind: DeviceKind,
    pub count: usize,
    /// The number of the first device.
    pub first: usize,
}

impl Devices {
    /// # Errors
    /// The user asked for CUDA, but CUDA is not available.
    pub fn choose(choice: DeviceChoice) -> Result<Self> {
        let cpu = Self { kind: DeviceKind::Cpu, count: 1, first: 0 };
        match choice {
            DeviceChoice::Cpu => Ok(cpu),
            DeviceChoice::Auto => Ok(detect().unwrap_or(cpu)),
            DeviceChoice::Cuda => cuda(),
            DeviceChoice::CudaAt(index) => {
                let all = cuda()?;
                if index >= all.count {
                    return Err(Problem::usage(format!("there is no device cuda:{index}"))
                        .hint(format!("there are {}, counted from cuda:0", all.count))
                        .into());
                }
                Ok(Self { count: 1, first: index, ..all })
            }
        }
    }

    /// The device number for a slot of the scheduler.
    pub fn index(self, slot: usize) -> usize {
        self.first + slot % self.count.max(1)
    }
}

/// The dtype if the pipeline sets none: bf16 for matrix products if the hardware supports bf16.
pub fn default_dtype(device: DeviceKind) -> DType {
    match device {
        DeviceKind::Cpu => DType::F32,
        DeviceKind::Cuda => DType::Bf16,
    }
}

fn cuda() -> Result<Devices> {
    detect().ok_or_else(|| {
        let lacking = if gpus() == 0 { "there is no /dev/nvidia0" } else { "there is no libtorch_cuda.so" };
        Problem::usage(format!("no CUDA device can be used: {lacking}"))
            .hint("`raisin doctor --install-libtorch cuda` installs the CUDA libraries; `--device cpu` needs no CUDA")
            .into()
    })
}

/// The GPUs, if libtorch can use them.
fn detect() -> Option<Devices> {
    let count = gpus();
    // A faulty LIBTORCH is reported when a tensor stage needs libtorch.
    let has_cuda = || find_libtorch().ok()?.found.map(|libtorch| libtorch.folder.join("libtorch_cuda.so").exists());
    let usable = count > 0 && has_cuda() == Some(true);
    usable.then_some(Devices { kind: DeviceKind::Cuda, count, first: 0 })
}

#[expect(clippy::maybe_infinite_iter, reason = "it ends at the first number that /dev lacks")]
fn gpus() -> usize {
    (0..).take_while(|index| Path::new(&format!("/dev/nvidia{index}")).exists()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_the_devices_that_were_asked_for() {
        let four = Devices { kind: DeviceKind::Cuda, count: 4, first: 0 };
        assert_eq!([0, 3, 5].map(|slot| four.index(slot)), [0, 3, 1]);
        let third = Devices { count: 1, first: 2, ..four };
        assert_eq!([0, 1].map(|slot| third.index(slot)), [2, 2]);
        assert_eq!("cuda:12".parse(), Ok(DeviceChoice::CudaAt(12)));
        assert!("cuda:".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn a_choice_is_read_as_it_is_written_and_auto_is_settled() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda, DeviceChoice::CudaAt(1)] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!(DeviceChoice::CudaAt(1).settled(DeviceKind::Cuda), DeviceChoice::CudaAt(1));
        assert_eq!(DeviceChoice::Auto.settled(DeviceKind::Cuda), DeviceChoice::Cuda);
        assert_eq!(DeviceChoice::Auto.settled(DeviceKind::Cpu), DeviceChoice::Cpu);
    }
}
