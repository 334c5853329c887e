//! Problems on their way from a scheduler or an executor to the client. Ballista passes errors on as text, some of it
//! in the form of `Debug`. A problem travels as digits between two marks, which no such form changes.

use ballista_core::error::BallistaError;
use datafusion::error::DataFusionError;

use raisin_base::error::{Blame, Problem};
use raisin_query::elsewhere::{arrow_is_of_the_query, as_problem};

const BEGIN: &str = "raisin-problem<";
const END: char = '>';

/// The error with its problem as digits; an error that is no problem of the query or of its files stays, because
/// ballista decides by its type whether a task is tried again.
pub fn marked(error: DataFusionError) -> DataFusionError {
    match problem_of(&error) {
        Some(problem) => DataFusionError::Execution(text_of(&problem)),
        None => error,
    }
}

fn problem_of(error: &DataFusionError) -> Option<Problem> {
    if let Some(path) = missing_file(error) {
        let problem = Problem::new(format!("an executor of the cluster does not see the file {path}"));
        return Some(
            problem.hint("all machines of a cluster must see the cache and the files of a query at the same path"),
        );
    }
    if let DataFusionError::ResourcesExhausted(_) = error.find_root() {
        let problem = Problem::new("a part of the query needs more than the memory of an executor for one part");
        return Some(problem.hint("start the executors with more --memory, or with fewer --cores, which share it"));
    }
    // Between two steps of a query, ballista puts an error of DataFusion into one of its own, and that into one again.
    if let DataFusionError::External(inner) = error.find_root()
        && let Some(inner) = inner.downcast_ref::<BallistaError>()
    {
        return match inner {
            BallistaError::DataFusionError(inner) => problem_of(inner),
            BallistaError::ArrowError(inner) if arrow_is_of_the_query(inner) => {
                Some(Problem::usage(format!("Arrow error: {inner}")))
            }
            _ => None,
        };
    }
    as_problem(error).downcast::<Problem>().ok()
}

/// The path of the file that is not there, if this is the cause of the error. The reader of Parquet passes the error of the
/// object store on as text.
fn missing_file(error: &DataFusionError) -> Option<String> {
    let text = error.to_string();
    let path = text.split_once("Object at location ")?.1.split_once(" not found")?.0;
    Some(format!("/{}", path.trim_start_matches('/')))
}

fn text_of(problem: &Problem) -> String {
    let is_usage = problem.blame == Blame::Usage;
    let parts = serde_json::json!([is_usage, problem.message, problem.hint]).to_string();
    let digits: String = parts.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{BEGIN}{digits}{END}")
}

/// The problem in a text that ballista passed on.
pub fn told(text: &str) -> Option<Problem> {
    let digits = text.split_once(BEGIN)?.1.split_once(END)?.0;
    let byte = |place: usize| u8::from_str_radix(digits.get(place..place + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    let (is_usage, message, hint): (bool, String, Option<String>) = serde_json::from_slice(&bytes).ok()?;
    let problem = if is_usage { Problem::usage(message) } else { Problem::new(message) };
    Some(match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_arrives_whole_through_texts_of_other_errors() {
        let sent = Problem::usage("`a + \"b\"` does not fit\n64 bits: ä").hint("use a wider type");
        let error = marked(DataFusionError::External(Box::new(sent.clone())));
        assert_eq!(told(&format!("Job 7 failed: {:?}", format!("{error:?}"))), Some(sent));
        assert_eq!(told("Job 7 failed: no memory"), None);
        assert_eq!(told("raisin-problem<5b7>"), None);
    }

    #[test]
    fn a_problem_between_two_steps_is_found() {
        let sent = Problem::usage("`a + b` does not fit 64 bits");
        let inner = BallistaError::DataFusionError(Box::new(DataFusionError::External(Box::new(sent.clone()))));
        let shared = DataFusionError::Shared(std::sync::Arc::new(inner.into_datafusion()));
        assert_eq!(told(&marked(shared).to_string()), Some(sent));
        let arrow = datafusion::arrow::error::ArrowError::DivideByZero;
        let told = told(&marked(BallistaError::ArrowError(Box::new(arrow)).into_datafusion()).to_string());
        assert_eq!(told, Some(Problem::usage("Arrow error: Divide by zero error")));
    }

    #[test]
    fn an_error_of_the_machine_keeps_its_type() {
        let error = marked(DataFusionError::IoError(std::io::Error::other("no space")));
        assert!(matches!(error, DataFusionError::IoError(_)), "{error:?}");
    }
}
