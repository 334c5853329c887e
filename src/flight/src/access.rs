//! Who may ask. A client gives the token as `authorization: Bearer TOKEN`, or as the password of any user: clients with a
//! user name and a password begin with a handshake, which answers with the first form.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use raisin_base::digest::Digest;
use raisin_contract::flight::TOKEN;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Some clients leave out the `=` at the end.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Clone)]
pub struct Access {
    /// The digest of the token, so that a comparison takes the same time for every wrong one. `None`: everybody may ask.
    token: Option<Digest>,
}

impl Access {
    pub fn new(token: Option<String>) -> Self {
        Self { token: token.map(|token| Digest::of(token.as_bytes())) }
    }
}

impl Interceptor for Access {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(expected) = self.token else { return Ok(request) };
        match given(&request) {
            Some(token) if Digest::of(token.as_bytes()) == expected => Ok(request),
            Some(_) => Err(Status::unauthenticated(format!("the token is not that of the server's {TOKEN}"))),
            None => {
                let how = "give the token as `authorization: Bearer TOKEN`, or as the password of any user name";
                Err(Status::unauthenticated(format!("the server wants the token of its {TOKEN}: {how}")))
            }
        }
    }
}

/// The token of a request.
pub fn given<T>(request: &Request<T>) -> Option<String> {
    let header = request.metadata().get("authorization")?.to_str().ok()?;
    let (scheme, value) = header.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(value.trim().to_owned()),
        "basic" => {
            let pair = String::from_utf8(BASIC.decode(value.trim()).ok()?).ok()?;
            Some(pair.split_once(':')?.1.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(token: Option<&str>, header: Option<&str>) -> bool {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().expect("a header"));
        }
        Access::new(token.map(str::to_owned)).call(request).is_ok()
    }

    #[test]
    fn a_token_is_given_in_two_forms_and_a_wrong_one_in_none() {
        assert!(allowed(None, None) && allowed(None, Some("Bearer x")));
        // `me:se:cret` in base64.
        for right in ["Bearer se:cret", "bearer se:cret", "Basic bWU6c2U6Y3JldA==", "Basic bWU6c2U6Y3JldA"] {
            assert!(allowed(Some("se:cret"), Some(right)), "{right}");
        }
        for wrong in
            [None, Some("Bearer "), Some("se:cret"), Some("Bearer se:cre"), Some("Basic bWU6"), Some("Basic ?")]
        {
            assert!(!allowed(Some("se:cret"), wrong), "{wrong:?}");
        }
    }
}
