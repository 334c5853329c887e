//! The language model: configuration, forward pass, reading and writing of weights, LoRA, generation. This crate does
//! not use pipelines, the store or Parquet.
//!
//! | file | concern |
//! |---|---|
//! | `config`, `rope` | the shape of a model, as in config.json, and the frequencies of its rotary position embedding |
//! | `weights`, `gguf`, `gguf_blocks` | the tensors of a checkpoint, by name |
//! | `tokenizer_from_gguf` | makes a tokenizer folder from the vocabulary of a GGUF file |
//! | `batch`, `layout`, `attention`, `layer`, `model` | the forward pass over packed sequences |
//! | `loss` | log-probabilities of the supervised tokens, without all logits in memory |
//! | `prepare`, `lora` | the trained parameters, and the flat buffer that holds them |
//! | `gradient`, `joined`, `group` | gradients, and passes with few kernel launches for a GPU |
//! | `recompute` | gradients by activation checkpointing |
//! | `generate` | greedy decoding with a key-value cache |
//! | `artifact`, `export`, `folder_files` | model folders: which forms there are, how a folder is written, which files raisin cannot read |
//! | `peft` | the adapter_config.json of PEFT: which projections have an adapter, with which rank and scale |
//! | `device`, `inspect` | the device of the tensors, the report on the machine |
//! | `proxy` | cached hidden states of a frozen prefix |
//! | `out_of_memory` | smaller batches if a device is out of memory |
//! | `unbound` | operations of libtorch that tch does not bind |

mod artifact;
mod attention;
mod batch;
mod config;
mod device;
mod export;
mod folder_files;
mod generate;
pub mod gguf;
mod gguf_blocks;
mod gradient;
mod group;
mod inspect;
mod joined;
mod layer;
mod layout;
mod lora;
mod loss;
mod model;
pub mod out_of_memory;
mod peft;
mod prepare;
pub mod proxy;
mod recompute;
mod rope;
mod tokenizer_from_gguf;
mod unbound;
pub mod weights;

pub use batch::Batch;
pub use config::{Architecture, ModelConfig};
pub use device::{device, device_memory_in_use};
pub use folder_files::{copy_configs, copy_tokenizer, require_tokenizer};
pub use gradient::Gradient;
pub use inspect::inspect;
pub use joined::Joined;
pub use layout::longest_first;
pub use lora::{Adaptation, AdapterConfig, Trainable};
pub use loss::Loss;
pub use model::Model;
pub use raisin_settings::TARGETS;
pub use rope::RopeScaling;
pub use tokenizer_from_gguf::write_tokenizer;
pub use unbound::{AdamWStep, fused_adamw};
