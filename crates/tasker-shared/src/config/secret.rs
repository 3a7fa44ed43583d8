//! Values that must not be shown.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::PgConnectOptions;

/// A value that is neither printed nor serialized. [`Secret::expose`] is the one way to it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Takes charge of a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one who connects with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What may be shown of it. A database URL is put together anew from its harmless parts, because cutting
    /// the password out of text fails on the first odd character in it.
    pub fn redacted(&self) -> String {
        let Some(parts) = parse_database_url(&self.0) else {
            return "***".to_owned();
        };
        let database = parts.get_database().unwrap_or_default();
        let user = parts.get_username();
        match parts.get_socket() {
            Some(socket) => format!("postgres://{user}:***@/{database}?host={}", socket.display()),
            None => format!("postgres://{user}:***@{}:{}/{database}", parts.get_host(), parts.get_port()),
        }
    }
}

/// The connection options in a database URL, or `None` where it is not one.
///
/// Stricter than the driver in two ways. An `@` behind the host means that the password holds an unescaped
/// `/`, `?` or `#` and that parts of it would be taken for a port or a database. A parameter that the driver
/// does not know would be ignored, and its value logged.
pub(super) fn parse_database_url(url: &str) -> Option<PgConnectOptions> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[authority..].contains('@') {
        return None;
    }
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter(|pair| !pair.is_empty());
    if !names.map(|pair| pair.split('=').next().unwrap_or_default()).all(is_parameter) {
        return None;
    }
    PgConnectOptions::from_str(url).ok()
}

fn is_parameter(name: &str) -> bool {
    const KNOWN: &[&str] = &[
        "application_name",
        "dbname",
        "host",
        "hostaddr",
        "options",
        "password",
        "port",
        "ssl-ca",
        "ssl-cert",
        "ssl-key",
        "ssl-mode",
        "ssl-root-cert",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "statement-cache-capacity",
        "user",
    ];
    KNOWN.contains(&name) || name.starts_with("options[") || name.starts_with("options%5B")
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}
