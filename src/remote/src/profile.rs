//! The credentials and the region of a profile in ~/.aws, which object_store does not read itself. Only keys that stand
//! in the files are read: for a single sign-on or an assumed role, `aws configure export-credentials` gives variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::if_there;

/// The variables by which object_store finds credentials itself. If one is set, no profile is read.
const OWN: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

const KEYS: [(&str, AmazonS3ConfigKey); 3] = [
    ("aws_access_key_id", AmazonS3ConfigKey::AccessKeyId),
    ("aws_secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
    ("aws_session_token", AmazonS3ConfigKey::Token),
];

/// Adds what the environment does not say: the credentials and the region of the profile that `AWS_PROFILE` names, or
/// of the profile `default`.
///
/// # Errors
/// A file cannot be read, or `AWS_PROFILE` names a profile without keys.
pub fn with_profile(mut builder: AmazonS3Builder, bucket: &str) -> Result<AmazonS3Builder> {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let named = given("AWS_PROFILE");
    let profile = named.clone().unwrap_or_else(|| "default".to_owned());
    let home = given("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |variable: &str, name: &str| given(variable).map_or_else(|| home.join(".aws").join(name), PathBuf::from);
    let read = |path: PathBuf| -> Result<String> {
        let text = if_there(std::fs::read_to_string(&path)).with_context(|| format!("cannot read {}", path.display()));
        Ok(text?.unwrap_or_default())
    };
    let config = read(file("AWS_CONFIG_FILE", "config"))?;
    let heading = if profile == "default" { profile.clone() } else { format!("profile {profile}") };
    let config = section(&config, &heading);
    if given("AWS_REGION").is_none()
        && given("AWS_DEFAULT_REGION").is_none()
        && let Some(region) = config.get("region")
    {
        builder = builder.with_region(region);
    }
    if OWN.iter().any(|name| given(name).is_some()) {
        return Ok(builder);
    }
    let credentials = read(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"))?;
    let credentials = section(&credentials, &profile);
    let found = |name: &str| credentials.get(name).or(config.get(name)).cloned();
    if named.is_some() && found(KEYS[0].0).is_none() {
        let message = format!("the profile {profile} has no aws_access_key_id, which s3://{bucket} needs");
        let hint = format!(
            "for a single sign-on or a role: \
             eval \"$(aws configure export-credentials --profile {profile} --format env)\""
        );
        return Err(Problem::new(message).hint(hint).into());
    }
    for (name, key) in KEYS {
        if let Some(value) = found(name) {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder)
}

/// The keys of a section of a file in the form of ~/.aws.
fn section<'t>(text: &'t str, heading: &str) -> BTreeMap<&'t str, String> {
    let mut keys = BTreeMap::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            inside = name.split_whitespace().eq(heading.split_whitespace());
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            keys.insert(key.trim(), value.trim().to_owned());
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_its_own_keys_only() {
        let text = "[default]\nregion = eu-1\n# region = x\n\n[profile  ci]\nregion=us-2\naws_access_key_id = A=\n";
        assert_eq!(section(text, "default"), BTreeMap::from([("region", "eu-1".to_owned())]));
        let ci = section(text, "profile ci");
        assert_eq!((ci["region"].as_str(), ci["aws_access_key_id"].as_str()), ("us-2", "A="));
        assert!(section(text, "other").is_empty());
    }
}
