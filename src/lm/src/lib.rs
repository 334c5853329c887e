//! The language model: config, forward pass, weights in and out, LoRA, generation.
//! Knows nothing of pipelines, store or Parquet.
//!
//! | file | concern |
//! |---|---|
//! | `config`, `rope` | the shape of a model, as config.json says it, and its rotation frequencies |
//! | `weights`, `gguf` | tensors of a checkpoint by name |
//! | `tokenizer_from_gguf` | a tokenizer folder out of a GGUF file's own vocabulary |
//! | `batch`, `attention`, `layer`, `model` | the forward pass over packed sequences |
//! | `loss` | log-probabilities of supervised tokens, without all logits |
//! | `prepare`, `lora` | what is trained, and the flat buffer it lives in |
//! | `gradient`, `joined`, `group` | the gradient of what is trained, and passes with few calls for a GPU |
//! | `recompute` | gradients without keeping the activations of a forward pass |
//! | `generate` | greedy continuation with a key-value cache |
//! | `artifact`, `export` | model folders: what they hold, and how they are written |
//! | `device`, `inspect` | where tensors live, and what the machine has for them |
//! | `proxy` | cached hidden states of a frozen prefix |
//! | `memory` | less at a time where memory ends |
//! | `unbound` | what libtorch has and tch does not bind |

mod allocator;
mod artifact;
mod attention;
mod batch;
mod config;
mod device;
mod export;
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
pub mod memory;
mod model;
mod prepare;
pub mod proxy;
mod recompute;
mod rope;
mod tokenizer_from_gguf;
mod unbound;
pub mod weights;

pub use allocator::keep_freed_memory;
pub use batch::Batch;
pub use config::{Architecture, Config};
pub use device::{device, device_memory_in_use};
pub use export::{TOKENIZER_FILES, copy_tokenizer};
pub use gradient::Gradient;
pub use inspect::inspect;
pub use joined::Joined;
pub use layout::longest_first;
pub use lora::{Adaptation, AdapterConfig, TARGETS, Trainable};
pub use loss::Loss;
pub use model::Model;
pub use rope::RopeScaling;
pub use tokenizer_from_gguf::write_tokenizer;
pub use unbound::{AdamWStep, fused_adamw};
