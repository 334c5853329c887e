//! The files of the quickstart, which the executable carries.

use std::path::PathBuf;

/// The pipeline in the repository names the model from the root of the repository.
const IN_THE_REPOSITORY: &str = "pipelines/quickstart-base";
const FOLDER: &str = "quickstart-base";

macro_rules! file_of_base {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../../pipelines/quickstart-base/", $name)).as_slice())
    };
}

const BASE: [(&str, &[u8]); 6] = [
    file_of_base!("config.json"),
    file_of_base!("generation_config.json"),
    file_of_base!("model.safetensors"),
    file_of_base!("special_tokens_map.json"),
    file_of_base!("tokenizer.json"),
    file_of_base!("tokenizer_config.json"),
];

/// The pipeline and its model, with paths relative to the folder of the quickstart.
pub fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let pipeline = include_str!("../../../../pipelines/quickstart.toml");
    let pipeline = pipeline
        .replace("# pipelines/quickstart-base.toml makes this model", "# a byte-level Llama of 0.4M parameters")
        .replace(IN_THE_REPOSITORY, FOLDER);
    let mut files = vec![(PathBuf::from("quickstart.toml"), pipeline.into_bytes())];
    files.extend(BASE.map(|(name, content)| (PathBuf::from(FOLDER).join(name), content.to_vec())));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipeline_names_only_what_is_written_beside_it() {
        let files = files();
        let text = String::from_utf8(files[0].1.clone()).unwrap();
        assert!(!text.contains("pipelines/"), "{text}");
        assert!(text.contains("huggingface = \"quickstart-base\""), "{text}");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/quickstart-base");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), BASE.len());
        raisin_pipeline::load_text("quickstart.toml", &text, raisin_kinds::KINDS).unwrap();
    }
}
