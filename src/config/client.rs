//! What client commands know of the server, from flags and variables.

use std::fmt;
use std::path::PathBuf;

use super::ADDRESS_DEFAULT;

/// Flags of every client command, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClientArgs {
    /// Where the server is; HOST:PORT is http://HOST:PORT, or https://HOST:PORT with --ca or --client-certificate [default:
    /// http://127.0.0.1:50051, variable: HALFHITCH_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// A file with the token that this client shows; the variable HALFHITCH_TOKEN may hold the token itself [variable:
    /// HALFHITCH_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub token_file: Option<PathBuf>,
    /// Send the token to another machine although nothing is encrypted
    #[arg(long, global = true, help_heading = "Credentials")]
    pub insecure_token: bool,
    /// The authority, in PEM, that the server's certificate is from, or that very certificate; without it, the authorities of the
    /// system [variable: HALFHITCH_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub ca: Option<PathBuf>,
    /// The certificate that this client shows, in PEM [variable: HALFHITCH_CLIENT_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub client_certificate: Option<PathBuf>,
    /// The private key of that certificate, in PEM [variable: HALFHITCH_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub client_key: Option<PathBuf>,
}

/// A token, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Without the line's end that a file may have.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// To be sent, and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Where the server is, and how this client shows who it is. Files are not read yet.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// Of the server.
    pub url: String,
    /// The token itself.
    pub token: Option<Token>,
    /// The file that holds it.
    pub token_file: Option<PathBuf>,
    /// Whether it may go unencrypted to another machine.
    pub insecure_token: bool,
    /// Authority of the server's certificate.
    pub ca: Option<PathBuf>,
    /// This client's certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl ClientSettings {
    /// Flags, and variables where there is no flag.
    pub fn load(args: ClientArgs) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |flag: Option<PathBuf>, name: &str| flag.or_else(|| variable(name).map(PathBuf::from));
        let default = || format!("http://{ADDRESS_DEFAULT}");
        let token_flag = args.token_file.is_some();
        Self {
            url: args.server.or_else(|| variable("HALFHITCH_SERVER")).unwrap_or_else(default),
            // A flag is stronger than a variable.
            token: variable("HALFHITCH_TOKEN").filter(|_| !token_flag).map(|token| Token::new(&token)),
            token_file: path(args.token_file, "HALFHITCH_TOKEN_FILE"),
            insecure_token: args.insecure_token,
            ca: path(args.ca, "HALFHITCH_CA"),
            certificate: path(args.client_certificate, "HALFHITCH_CLIENT_CERTIFICATE"),
            key: path(args.client_key, "HALFHITCH_CLIENT_KEY"),
        }
    }

    /// A server on this machine that asks for nothing.
    pub fn plain(url: String) -> Self {
        Self { url, ..Self::default() }
    }
}
