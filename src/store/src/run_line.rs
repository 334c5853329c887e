//! A run as one line for people: what `raisin runs` prints and `raisin ui` shows.

use super::{Run, RunResult};
use raisin_base::number::number;
use raisin_base::shell::shell_word;
use raisin_contract::results::less_is_better;

/// The headings of [`cells`].
pub const HEADINGS: [&str; 8] =
    ["run", "when", "pipeline", "outcome", "seconds", "ran/cached/failed", "overrides", "result"];

/// The cells of a run. `outcome` is what to say of a run that has written no end.
pub fn cells(run: &Run, outcome: &str) -> [String; 8] {
    [
        short_id(&run.run).to_owned(),
        run.started.as_deref().map_or_else(|| "?".to_owned(), when),
        run.pipeline.clone().unwrap_or_else(|| "?".to_owned()),
        run.outcome.clone().unwrap_or_else(|| outcome.to_owned()),
        run.seconds.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds:.1}")),
        format!("{}/{}/{}", run.ran, run.cached, run.failed),
        overrides(run),
        Headline::of(run).map_or_else(String::new, |of| of.text()),
    ]
}

/// The best method of a run on its first headline metric. An oracle is no method: it sees the labels.
pub struct Headline {
    pub metric: String,
    pub method: String,
    pub mean: f64,
    /// The method with which the others are compared, and its mean.
    pub baseline: Option<(String, f64)>,
}

impl Headline {
    pub fn of(run: &Run) -> Option<Self> {
        let metric = &run.results.first()?.metric;
        let rows = || run.results.iter().filter(|row| row.metric == *metric);
        let less = less_is_better(metric);
        let is_method = |row: &&RunResult| !row.method.starts_with("oracle");
        let best = rows().filter(is_method).min_by(|one, other| {
            let order = one.mean.total_cmp(&other.mean);
            if less { order } else { order.reverse() }
        })?;
        let baseline = rows().find(|row| row.baseline && row.method != best.method);
        Some(Self {
            metric: metric.clone(),
            method: best.method.clone(),
            mean: best.mean,
            baseline: baseline.map(|row| (row.method.clone(), row.mean)),
        })
    }

    pub fn text(&self) -> String {
        let own = format!("{} {} {}", self.metric, self.method, number(self.mean, 3));
        match &self.baseline {
            Some((name, mean)) => format!("{own} ({name} {})", number(*mean, 3)),
            None => own,
        }
    }
}

/// The digits of a run's id that tables show: the microseconds of its start, and its process. `raisin diff` takes them for
/// the id.
pub fn short_id(run: &str) -> &str {
    let place = run.find('-').map_or(0, |dash| dash.saturating_sub(6));
    run.get(place..).unwrap_or(run)
}

/// A time of the journal to the second: `2026-01-02 03:04:05Z`.
pub fn when(time: &str) -> String {
    let (date, rest) = time.split_once('T').unwrap_or((time, ""));
    let clock: String = rest.chars().take_while(|letter| letter.is_ascii_digit() || *letter == ':').collect();
    format!("{date} {clock}Z")
}

/// The flags of a run as a shell reads them.
pub fn overrides(run: &Run) -> String {
    let quoted = |flag: &String| match flag.split_once(' ') {
        Some((flag, value)) => format!("{flag} {}", shell_word(value)),
        None => flag.clone(),
    };
    run.overrides.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
