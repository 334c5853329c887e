//! The address of a cluster: `df://HOST:PORT`, and how many parts a query has there.

use raisin_base::error::Problem;

/// The number of tasks into which each step of a query is divided at most, if the address has none.
const PARTITIONS: usize = 16;
const PORT: u16 = raisin_contract::cluster::PORT;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub partitions: usize,
}

impl Address {
    /// # Errors
    /// The text is no address of a cluster.
    pub fn of(text: &str) -> Result<Self, Problem> {
        let wrong = |why: &str| {
            let problem = Problem::usage(format!("`{text}` is not the address of a cluster: {why}"));
            problem.hint("write df://HOST:PORT, such as df://127.0.0.1:50050")
        };
        let Some((scheme, rest)) = text.split_once("://") else { return Err(wrong("it has no scheme")) };
        if scheme != "df" {
            return Err(wrong(&format!("the scheme is `{scheme}`")));
        }
        let (place, options) = rest.split_once('?').map_or((rest, None), |(place, options)| (place, Some(options)));
        let (host, port) = host_and_port(place.trim_end_matches('/'), PORT).map_err(|why| wrong(&why))?;
        let partitions = match options.map(|options| options.split_once('=')) {
            None => PARTITIONS,
            Some(Some(("partitions", number))) => match number.parse() {
                Ok(partitions @ 1..=10_000) => partitions,
                _ => return Err(wrong("partitions= needs a number from 1 to 10000")),
            },
            Some(_) => return Err(wrong("behind the `?` only partitions=N is known")),
        };
        Ok(Self { host, port, partitions })
    }

    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
pub fn host_and_port(text: &str, default: u16) -> Result<(String, u16), String> {
    let colon = match text.rfind(']') {
        Some(end) => text[end..].find(':').map(|place| end + place),
        None => text.rfind(':'),
    };
    let (host, port) = match colon {
        None => (text, default),
        Some(colon) => {
            let port = text[colon + 1..].parse().map_err(|_| format!("`{}` is no port", &text[colon + 1..]))?;
            (&text[..colon], port)
        }
    };
    if host.is_empty() || host.chars().any(|letter| letter.is_whitespace() || "/@#".contains(letter)) {
        return Err("it has no host".to_owned());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_a_port() {
        let address = |text: &str| Address::of(text).map_err(|problem| problem.message);
        let of = |host: &str, port, partitions| Ok(Address { host: host.to_owned(), port, partitions });
        assert_eq!(address("df://localhost:7000"), of("localhost", 7000, 16));
        assert_eq!(address("df://localhost/"), of("localhost", 50050, 16));
        assert_eq!(address("df://[::1]:7000?partitions=64"), of("[::1]", 7000, 64));
        for (wrong, why) in [
            ("http://localhost:1", "the scheme is `http`"),
            ("localhost:1", "it has no scheme"),
            ("df://:50050", "it has no host"),
            ("df://host:port", "`port` is no port"),
            ("df://host:1?tasks=4", "behind the `?` only partitions=N is known"),
            ("df://host:1?partitions=0", "partitions= needs a number from 1 to 10000"),
        ] {
            assert_eq!(address(wrong), Err(format!("`{wrong}` is not the address of a cluster: {why}")));
        }
    }
}
