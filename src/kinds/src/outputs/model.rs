//! What an artifact of kind `model` holds.

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, file};

const PREFIX: &str = "with `source.prefix`";

pub const TABLES: &[TableDeclaration] = &[super::ENCODING.only(PREFIX)];

pub const FILES: &[&[FileDeclaration]] = &[
    &[file("model.safetensors", "the weights, of the type `dtype`").only("without `source.prefix`")],
    super::MODEL_CONFIGURATION,
    &[
        file("proxy.json", "`train_layers`, `prefix_layers`, `max_tokens` and `on_overlong`").only(PREFIX),
        file(
            "states.safetensors",
            "the hidden states of each row of the pool and each validation example, and with `source.test` of each test \
             example",
        )
        .only(PREFIX),
        file("summary.json", "the tokens and floating-point operations of the pass over the prefix").only(PREFIX),
        file("references.json", "the digest of the artifact with the weights: `{\"base\": ...}`").only(PREFIX),
    ],
];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "A GGUF file, a Hugging Face folder, and an adapter on its base",
        text: include_str!("../../examples/model-files.toml"),
    },
    ExamplePipeline { title: "Fresh weights", text: include_str!("../../examples/model-init.toml") },
    ExamplePipeline { title: "A proxy with a frozen prefix", text: include_str!("../../examples/model-prefix.toml") },
];
