//! Where the server is, and the credentials of this client.

use std::fmt;
use std::path::PathBuf;

/// A bearer token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token without surrounding white space, such as the line end of a file.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The secret text, only for sending it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Where the server is, and the credentials of this client. Files are named here, not read yet.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// Address of the server.
    pub url: String,
    /// The token, if a variable holds it.
    pub token: Option<Token>,
    /// The file that holds the token.
    pub token_file: Option<PathBuf>,
    /// Whether the token may go unencrypted to another machine.
    pub insecure_token: bool,
    /// Authority of the server's certificate, or that certificate.
    pub ca: Option<PathBuf>,
    /// The client certificate.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl ClientSettings {
    /// Settings for a server without TLS and credentials.
    pub fn plain(url: String) -> Self {
        Self { url, ..Self::default() }
    }
}
