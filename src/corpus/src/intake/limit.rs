//! The largest number of records that may be rejected.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Intake, Reject, counted, grouped};
use raisin_base::error::{Problem, Result};

/// The share of records that may be rejected.
#[derive(Clone, Copy, Debug)]
pub struct RejectLimit {
    /// If absent, 1 of 100 records may be rejected. In small files, up to 3 records may be rejected, but not more than
    /// half of all.
    pub share: Option<f64>,
}

const SHARE: f64 = 0.01;
const FEW: u64 = 3;
/// The number of reasons that the error names.
const REASONS: usize = 3;
/// What a user can do about records that fit no format.
pub(super) const FORMATS: &str = "name the fields with `fields`, for example fields = { prompt = \"question\", response = \"answer\" \
                       }, or the `format`: alpaca, qa, messages, sharegpt or parquet";

impl RejectLimit {
    fn allows(self, records: u64) -> u64 {
        // The small number makes 0.29 × 100 at least 29.
        let part = |share: f64| (share * records as f64 + 1e-9).floor() as u64;
        match self.share {
            Some(share) => part(share),
            None => part(SHARE).max(FEW.min(records / 2)),
        }
    }
}

/// The smallest share of whole percents that allows this number.
fn enough(rejected: u64, records: u64) -> f64 {
    (rejected as f64 / records as f64 * 100.0).ceil() / 100.0
}

impl Intake {
    /// Refuses the files if too many of their records are rejected, or if none is accepted. `stage`: the name of the
    /// stage that has the setting `max_rejected`.
    ///
    /// # Errors
    /// See above. The message has the most frequent reasons, because no table of rejects is written.
    pub fn check(&self, limit: RejectLimit, stage: &str) -> Result<()> {
        let (records, rejected) = (self.total(|it| it.records), self.total(|it| it.rejected));
        let files = match self.sources.as_slice() {
            [source] => source.file.clone(),
            sources => counted(sources.len() as u64, "file"),
        };
        if records == 0 {
            let verb = if self.sources.len() == 1 { "has" } else { "have" };
            return Err(Problem::new(format!("{files} {verb} no records")).into());
        }
        if self.total(|it| it.accepted) == 0 {
            let all = counted(records, "record");
            if rejected == 0 {
                let problem = Problem::new(format!("no record of {files} is left: the file excludes all {all}"));
                return Err(problem.hint("a record is excluded by `label = false` or by `weight = 0`").into());
            }
            let message = format!("none of {all} of {files} can be taken{}", self.reasons());
            return Err(Problem::new(message).hint(self.formats).into());
        }
        // The rejected records of a file without its end are too few by an unknown number.
        let cut = self.sources.iter().find_map(|source| Some((source, source.lost_rest.as_ref()?)));
        if let (Some((source, reason)), None) = (cut, limit.share) {
            let enough = enough(rejected, records);
            let hint = format!(
                "copy the file again, or accept the loss of unknown size: max_rejected = {enough} in stage `{stage}`"
            );
            return Err(Problem::new(format!("{}: {reason}", source.file)).hint(hint).into());
        }
        let allowed = limit.allows(records);
        if rejected <= allowed {
            return Ok(());
        }
        let may = match limit.share {
            Some(share) => format!("max_rejected = {share} allows {}", grouped(allowed)),
            None => format!("{} may be", grouped(allowed)),
        };
        let verb = if rejected == 1 { "is" } else { "are" };
        let message = format!(
            "{} of {} of {files} {verb} rejected, and {may}{}",
            grouped(rejected),
            counted(records, "record"),
            self.reasons()
        );
        let enough = enough(rejected, records);
        let hint = format!(
            "repair the records, or accept the loss: max_rejected = {enough} in stage `{stage}`; then `{stage}.rejects` \
             lists them all"
        );
        Err(Problem::new(message).hint(hint).into())
    }

    /// The most frequent reasons, each on a line with a place. Reasons that differ only in numbers count as one.
    fn reasons(&self) -> String {
        let mut kinds: BTreeMap<String, (u64, usize, &Reject)> = BTreeMap::new();
        for (place, reject) in self.rejects.iter().enumerate() {
            let kind = reject.reason.replace(|character: char| character.is_ascii_digit(), "");
            kinds.entry(kind).or_insert((0, place, reject)).0 += reject.records;
        }
        let mut kinds: Vec<(u64, usize, &Reject)> = kinds.into_values().collect();
        kinds.sort_by_key(|(count, place, _)| (std::cmp::Reverse(*count), *place));
        let mut text = String::new();
        for (count, _, first) in kinds.iter().take(REASONS) {
            let _ = write!(
                text,
                "\n  {}: {} ({}, line {})",
                counted(*count, "record"),
                first.reason,
                first.file,
                first.line
            );
        }
        if let Some(more) = kinds.get(REASONS..).filter(|more| !more.is_empty()) {
            let records = more.iter().map(|(count, ..)| count).sum();
            let _ =
                write!(text, "\n  {} for {}", counted(records, "record"), counted(more.len() as u64, "other reason"));
        }
        text
    }
}
