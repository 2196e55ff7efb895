//! Connection settings of client commands, from flags and variables.

use std::path::PathBuf;

use super::ADDRESS_DEFAULT;
use crate::client::{ClientSettings, Token};

/// Flags of every client command, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ClientArgs {
    /// Server to connect to; HOST:PORT means http://HOST:PORT, or https://HOST:PORT with --ca or --client-certificate
    /// [default: http://127.0.0.1:50051, variable: HALFHITCH_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// File with the bearer token to send; the variable HALFHITCH_TOKEN may hold the token itself [variable:
    /// HALFHITCH_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub(crate) token_file: Option<PathBuf>,
    /// Send the token to another machine over an unencrypted connection
    #[arg(long, global = true, help_heading = "Credentials")]
    pub(crate) insecure_token: bool,
    /// Certificate authority of the server, in PEM, or the server's own certificate; without it, the authorities of the
    /// system are trusted [variable: HALFHITCH_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate to present, in PEM [variable: HALFHITCH_CLIENT_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub(crate) client_certificate: Option<PathBuf>,
    /// Private key of the client certificate, in PEM [variable: HALFHITCH_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Credentials")]
    pub(crate) client_key: Option<PathBuf>,
}

impl ClientSettings {
    /// Reads flags, and variables where a flag is missing.
    pub(crate) fn load(args: ClientArgs) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |flag: Option<PathBuf>, name: &str| flag.or_else(|| variable(name).map(PathBuf::from));
        let default = || format!("http://{ADDRESS_DEFAULT}");
        let token_flag = args.token_file.is_some();
        Self {
            url: args.server.or_else(|| variable("HALFHITCH_SERVER")).unwrap_or_else(default),
            // A `--token-file` flag wins over the variable.
            token: variable("HALFHITCH_TOKEN").filter(|_| !token_flag).map(|token| Token::new(&token)),
            token_file: path(args.token_file, "HALFHITCH_TOKEN_FILE"),
            insecure_token: args.insecure_token,
            ca: path(args.ca, "HALFHITCH_CA"),
            certificate: path(args.client_certificate, "HALFHITCH_CLIENT_CERTIFICATE"),
            key: path(args.client_key, "HALFHITCH_CLIENT_KEY"),
        }
    }
}
