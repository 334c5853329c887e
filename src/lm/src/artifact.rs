//! Reads which form a model folder has (full weights, an adapter on a base model, a frozen-prefix proxy of a base
//! model), and where the folder of its base model is. model.rs loads the weights, export.rs writes folders.

use std::path::{Component, Path, PathBuf};

use super::config::read_json;
use raisin_base::error::{Problem, Result, anyhow, ensure};

/// The forms of a model folder.
pub(super) enum ModelFolderForm {
    Full,
    Adapter { base: PathBuf },
    Proxy { base: PathBuf },
}

impl ModelFolderForm {
    /// Reads the form from the files in the folder.
    ///
    /// # Errors
    /// The folder is no model folder, or its base model is unknown.
    pub fn of(folder: &Path) -> Result<Self> {
        Self::on(folder, None)
    }

    /// As [`Self::of`]. If `given` names the folder of the base model, nothing else does.
    pub fn on(folder: &Path, given: Option<&Path>) -> Result<Self> {
        let base = || given.map_or_else(|| base(folder), |given| Ok(given.to_owned()));
        if folder.join("adapter_config.json").is_file() {
            return Ok(Self::Adapter { base: base()? });
        }
        if folder.join("proxy.json").is_file() {
            return Ok(Self::Proxy { base: base()? });
        }
        if !folder.join("config.json").is_file() {
            return Err(Problem::new(format!("{} is not a model folder: it has no config.json", folder.display()))
                .hint("name a Hugging Face folder that contains config.json and model.safetensors")
                .into());
        }
        Ok(Self::Full)
    }
}

/// The folder of the base model: the sibling folder that references.json names. The path in adapter_config.json is not
/// followed, because the base model would then be no input of the stage.
fn base(folder: &Path) -> Result<PathBuf> {
    let references = folder.join("references.json");
    if !references.is_file() {
        return Err(Problem::new(format!("{} does not name the artifact of its base model", folder.display()))
            .hint(
                "a stage of kind `model` makes a whole model of it: `source = { huggingface = \"FOLDER\", base = \
                 \"FOLDER\" }`",
            )
            .into());
    }
    let name = read_json(&references)?["base"].as_str().map(str::to_owned);
    let name = name.ok_or_else(|| anyhow!("{} has no entry `base`", references.display()))?;
    let is_plain = matches!(Path::new(&name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    ensure!(is_plain, "{}: `{name}` is not the name of an artifact", references.display());
    // If `folder` is a symbolic link, the sibling folders are those of the link's target.
    let base = folder.canonicalize()?.with_file_name(name);
    ensure!(base.is_dir(), "{} does not exist: it is the base model of {}", base.display(), folder.display());
    Ok(base)
}
