//! The settings that a query carries from the client to the scheduler and the executors: those that plans of ballista
//! need, and the version of raisin.
//!
//! A scheduler or an executor of another version would calculate with other functions. Therefore it refuses the query.

use std::any::Any;

use ballista_core::extension::SessionConfigExt as _;
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionConfig;

use raisin_base::error::Problem;

/// The version of raisin, which the processes of a cluster must share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What raisin adds to the settings of a session. (The macro of DataFusion would leave the prefix out of the name.)
#[derive(Clone, Debug, Default)]
pub struct RaisinSettings {
    /// The version of raisin that asks.
    pub version: String,
}

impl ExtensionOptions for RaisinSettings {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "version" => self.version = value.to_owned(),
            other => return Err(DataFusionError::Configuration(format!("there is no setting raisin.{other}"))),
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let (key, value) = (format!("{}.version", Self::PREFIX), Some(self.version.clone()));
        vec![ConfigEntry { key, value, description: "the version of raisin that asks" }]
    }
}

impl ConfigExtension for RaisinSettings {
    const PREFIX: &'static str = "raisin";
}

/// The settings of a process that serves queries, before those of a query are put over them.
pub fn of_a_server() -> SessionConfig {
    SessionConfig::new_with_ballista().with_option_extension(RaisinSettings::default())
}

/// The settings of the client.
pub fn of_a_client(settings: SessionConfig, partitions: usize, version: &str) -> SessionConfig {
    let mut settings = settings
        .upgrade_for_ballista()
        .with_option_extension(RaisinSettings { version: version.to_owned() })
        .with_target_partitions(partitions);
    // A scan is divided at the row groups of its files: a row group of a table of raisin has 122,880 rows.
    settings.options_mut().optimizer.repartition_file_min_size = SMALLEST_DIVIDED_SCAN;
    // As in one process. Ballista prefers the sort-merge join, which panics on a full join with a condition besides the
    // equal columns (DataFusion 55.2).
    settings.options_mut().optimizer.prefer_hash_join = true;
    // No table is sent whole to every task: a `full`, `left` or anti join would then give the rows without a partner once
    // for each task.
    settings.options_mut().optimizer.hash_join_single_partition_threshold = 0;
    settings.options_mut().optimizer.hash_join_single_partition_threshold_rows = 0;
    settings
}

/// The bytes of the files of a table from which on several tasks read it.
const SMALLEST_DIVIDED_SCAN: usize = 1 << 20;

/// # Errors
/// The query comes from another version of raisin, or from another program.
pub fn check_version(settings: &SessionConfig, own: &str, process: &str) -> Result<()> {
    let asking = settings.options().extensions.get::<RaisinSettings>().map_or("", |it| it.version.as_str());
    if asking == own {
        return Ok(());
    }
    let message = match asking {
        "" => format!("the {process} is one of raisin {own}, and the query does not come from raisin"),
        asking => format!("the {process} is one of raisin {own}, and the query comes from raisin {asking}"),
    };
    let problem = Problem::new(message).hint("start the scheduler and all executors with the raisin that asks");
    Err(DataFusionError::External(Box::new(problem)))
}
