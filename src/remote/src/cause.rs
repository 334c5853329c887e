//! What an error of the object store means for a build, and its text for a person.

use std::error::Error as StdError;

use object_store::Error;

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The object does not exist.
    Absent,
    /// The credentials do not allow the request.
    Denied,
    /// The store cannot be used at all: no connection, no bucket, no credentials.
    Unusable,
    /// This request failed, also when it was repeated. Another request may succeed.
    Failed,
}

/// The longest text of a server that is shown.
const LONGEST: usize = 300;

pub fn meaning(error: &Error) -> Meaning {
    match error {
        Error::NotFound { .. } if names_missing_bucket(error) => Meaning::Unusable,
        Error::NotFound { .. } => Meaning::Absent,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Meaning::Denied,
        _ if is_connection(error) || is_about_credentials(error) => Meaning::Unusable,
        _ => Meaning::Failed,
    }
}

/// The names that the stores give to a bucket that does not exist. An absent object has the same status.
fn names_missing_bucket(error: &Error) -> bool {
    let text = chain(error);
    ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"].iter().any(|name| text.contains(name))
}

fn is_about_credentials(error: &Error) -> bool {
    let text = chain(error);
    ["169.254.169.254", "metadata.google.internal", "169.254.170.2"].iter().any(|host| text.contains(host))
}

fn is_connection(error: &Error) -> bool {
    use object_store::client::{HttpError, HttpErrorKind};
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(http) = current.downcast_ref::<HttpError>() {
            return http.kind() == HttpErrorKind::Connect;
        }
        source = current.source();
    }
    false
}

/// The texts of an error and of its causes.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(current) = source {
        let more = current.to_string();
        if !text.contains(&more) {
            text += ": ";
            text += &more;
        }
        source = current.source();
    }
    text
}

/// The text of the first cause. The errors around it repeat the address and the settings of object_store.
fn innermost(error: &Error) -> String {
    let mut current: &dyn StdError = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

/// One line for a person. The answers of servers are XML or JSON: the code and the message stand in it.
pub fn in_words(error: &Error) -> String {
    let text = chain(error);
    let known = match meaning(error) {
        Meaning::Denied => Some("access is denied"),
        Meaning::Unusable if names_missing_bucket(error) => Some("the bucket does not exist"),
        Meaning::Unusable if is_about_credentials(error) => {
            Some("there are no credentials in the environment, and this machine has none of its own")
        }
        Meaning::Unusable => Some("there is no connection"),
        _ => None,
    };
    let detail = said_by_server(&text).unwrap_or_else(|| {
        let line = innermost(error).split_whitespace().collect::<Vec<_>>().join(" ");
        let cut = line.floor_char_boundary(LONGEST);
        if cut < line.len() { format!("{}...", &line[..cut]) } else { line }
    });
    match known {
        Some(known) => format!("{known} ({detail})"),
        None => detail,
    }
}

/// `Code: Message` of an answer in XML.
fn said_by_server(text: &str) -> Option<String> {
    let inside = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        let (value, _) = rest.split_once(&format!("</{tag}>"))?;
        Some(value.trim().to_owned())
    };
    let code = inside("Code")?;
    Some(
        inside("Message")
            .filter(|message| !message.is_empty())
            .map_or(code.clone(), |message| format!("{code}: {message}")),
    )
}

/// What a person can do.
pub fn hint(error: &Error) -> Option<&'static str> {
    match meaning(error) {
        Meaning::Denied => Some(
            "check the credentials and their rights: reading needs s3:GetObject and s3:ListBucket or their \
             counterparts, writing also s3:PutObject; `raisin remote check` tries each right",
        ),
        Meaning::Unusable if is_about_credentials(error) => Some(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or the AZURE_STORAGE_ \
             variables (docs/remote.md)",
        ),
        Meaning::Unusable => Some("`raisin remote check` tries the connection; `--no-remote` builds without it"),
        Meaning::Absent | Meaning::Failed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found(text: &str) -> Error {
        Error::NotFound { path: "v1/action/x.json".into(), source: text.to_owned().into() }
    }

    #[test]
    fn a_missing_bucket_is_no_missing_object() {
        assert_eq!(meaning(&not_found("404")), Meaning::Absent);
        let bucket = not_found("<Error><Code>NoSuchBucket</Code><Message>The bucket is not there</Message></Error>");
        assert_eq!(meaning(&bucket), Meaning::Unusable);
        assert_eq!(in_words(&bucket), "the bucket does not exist (NoSuchBucket: The bucket is not there)");
    }

    #[test]
    fn credentials_of_a_virtual_machine_that_is_none_are_missing_credentials() {
        let source = "Error performing PUT http://169.254.169.254/latest/api/token in 3s: HTTP error".to_owned().into();
        let error = Error::Generic { store: "S3", source };
        assert_eq!(meaning(&error), Meaning::Unusable);
        assert!(in_words(&error).starts_with("there are no credentials"));
        let long = Error::Generic { store: "S3", source: "é".repeat(1000).into() };
        assert!(in_words(&long).len() < 2 * LONGEST && meaning(&long) == Meaning::Failed);
    }
}
