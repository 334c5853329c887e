//! Which shared cache a command uses: a flag, else the environment, else `[cache]` of the pipeline.

use raisin_base::error::{Problem, Result};
use raisin_contract::remote::{RemoteMode, RemoteSettings, check_address};
use raisin_pipeline::CacheSettings;

/// The value of RAISIN_REMOTE that stands for no shared cache.
const NONE: &str = "none";

/// The shared cache, or `None` if there is none.
///
/// # Errors
/// The flag or a variable has an impossible value.
pub fn settings(flag: Option<&str>, cache: &CacheSettings) -> Result<Option<RemoteSettings>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    merge(flag, variable("RAISIN_REMOTE"), variable("RAISIN_REMOTE_MODE"), cache)
}

fn merge(
    flag: Option<&str>,
    address: Option<String>,
    mode: Option<String>,
    cache: &CacheSettings,
) -> Result<Option<RemoteSettings>> {
    let (address, from) = match (flag, address, &cache.remote) {
        (Some(flag), ..) => (flag.to_owned(), "from --remote: "),
        (None, Some(address), _) => (address, "from RAISIN_REMOTE: "),
        (None, None, Some(address)) => (address.clone(), ""),
        (None, None, None) => return Ok(None),
    };
    if address == NONE {
        return Ok(None);
    }
    check_address(&address).map_err(|mut problem| {
        problem.message = format!("{from}{}", problem.message);
        problem
    })?;
    let mode = match mode {
        Some(name) => RemoteMode::named(&name).ok_or_else(|| {
            Problem::usage(format!("RAISIN_REMOTE_MODE is `{name}`")).hint("it must be `read` or `read-write`")
        })?,
        None => cache.mode.unwrap_or_default(),
    };
    // A folder may be given relative to the directory in which raisin was started.
    let address = if address.contains("://") { address } else { std::path::absolute(&address)?.display().to_string() };
    Ok(Some(RemoteSettings { address, mode, max_upload: cache.max_upload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_comes_before_the_environment_and_the_environment_before_the_pipeline() {
        let cache = CacheSettings {
            remote: Some("s3://pipeline/p".to_owned()),
            mode: Some(RemoteMode::ReadWrite),
            max_upload: Some(5),
        };
        let address = |flag, variable: Option<&str>| {
            let settings = merge(flag, variable.map(str::to_owned), None, &cache).expect("settings");
            settings.map(|settings| settings.address)
        };
        assert_eq!(address(None, None).as_deref(), Some("s3://pipeline/p"));
        assert_eq!(address(None, Some("gs://variable")).as_deref(), Some("gs://variable"));
        assert_eq!(address(Some("az://flag"), Some("gs://variable")).as_deref(), Some("az://flag"));
        assert_eq!(address(None, Some("none")), None);
        assert!(address(Some("folder"), None).is_some_and(|folder| folder.starts_with('/')));
        let mode = |mode: Option<&str>, cache: &CacheSettings| {
            let settings = merge(Some("s3://b"), None, mode.map(str::to_owned), cache);
            settings.map(|settings| settings.map(|settings| settings.mode)).map_err(|error| error.to_string())
        };
        assert_eq!(mode(None, &cache), Ok(Some(RemoteMode::ReadWrite)));
        assert_eq!(mode(Some("read"), &cache), Ok(Some(RemoteMode::Read)));
        assert_eq!(mode(None, &CacheSettings::default()), Ok(Some(RemoteMode::Read)));
        assert_eq!(mode(Some("write"), &cache), Err("RAISIN_REMOTE_MODE is `write`".to_owned()));
        let wrong = merge(None, Some("ftp://x".to_owned()), None, &cache).expect_err("a problem").to_string();
        assert!(wrong.starts_with("from RAISIN_REMOTE: "), "{wrong}");
    }
}
