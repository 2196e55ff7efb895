//! Settings of credentials, TLS and the limits of one caller.

use std::path::PathBuf;

use super::ConfigError;
use super::layers::Layers;
use crate::security::CallerLimits;
use crate::server::{SecurityConfig, TlsConfig};

/// Flags of security, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SecurityArgs {
    /// TOML file of known tokens and client certificates with their roles; `halfhitch token` prints entries for it.
    /// Without it, every caller may call everything [default: none]
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<String>,
    /// Certificate chain of the server, in PEM: its certificate and the intermediates; without it, connections are not
    /// encrypted [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: Option<String>,
    /// Private key of the server's certificate, in PEM [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Certificate authorities of client certificates, in PEM; with it, clients must present a certificate [default:
    /// none]
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// Certificate revocation lists of those authorities, in PEM [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_client_crl: Option<String>,
    /// Allow clients without a certificate: true or false [default: false]
    #[arg(long, value_name = "BOOL")]
    pub tls_client_optional: Option<String>,
    /// Maximum requests of one caller in flight; 0 means no limit. A caller is a name in the credentials, or else an
    /// address [default: 0]
    #[arg(long, value_name = "COUNT")]
    pub caller_requests_max: Option<String>,
    /// Maximum rows of one caller in flight; 0 means no limit [default: 0]
    #[arg(long, value_name = "ROWS")]
    pub caller_rows_max: Option<String>,
    /// Maximum bytes of requests of one caller in flight; 0 means no limit [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub caller_bytes_max: Option<String>,
    /// Maximum requests that one caller starts per second; 0 means no limit [default: 0]
    #[arg(long, value_name = "COUNT")]
    pub caller_requests_per_second_max: Option<String>,
}

impl Layers<'_> {
    pub(super) fn security(&mut self, args: &SecurityArgs) -> Result<SecurityConfig, ConfigError> {
        let credentials = self.file("credentials", args.credentials.as_ref())?;
        let certificate = self.file("tls_certificate", args.tls_certificate.as_ref())?;
        let key = self.file("tls_key", args.tls_key.as_ref())?;
        let client_ca = self.file("tls_client_ca", args.tls_client_ca.as_ref())?;
        let client_crl = self.file("tls_client_crl", args.tls_client_crl.as_ref())?;
        let client_optional =
            self.take("tls_client_optional", args.tls_client_optional.as_ref(), "false", "true or false", |text| {
                text.parse().ok()
            })?;
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some(TlsConfig { certificate, key, client_ca, client_crl, client_optional })
            }
            (None, Some(_)) => return Err(self.alone("tls_certificate", "a file, since tls_key is set")),
            (Some(_), None) => return Err(self.alone("tls_key", "a file, since tls_certificate is set")),
            (None, None) if client_ca.is_some() => {
                return Err(self.alone("tls_certificate", "a file, since tls_client_ca is set"));
            }
            (None, None) => None,
        };
        if let Some(TlsConfig { client_ca: None, client_crl, client_optional, .. }) = &tls
            && (client_crl.is_some() || *client_optional)
        {
            return Err(self.alone("tls_client_ca", "a file, since tls_client_crl or tls_client_optional is set"));
        }
        let most = 1 << 40;
        let caller = CallerLimits {
            requests_max: self.count("caller_requests_max", args.caller_requests_max.as_ref(), 0, 0, most)?,
            rows_max: self.count("caller_rows_max", args.caller_rows_max.as_ref(), 0, 0, most)?,
            bytes_max: self.bytes("caller_bytes_max", args.caller_bytes_max.as_ref(), 0, 0, most)?,
            requests_per_second_max: self.count(
                "caller_requests_per_second_max",
                args.caller_requests_per_second_max.as_ref(),
                0,
                0,
                1_000_000_000,
            )?,
        };
        Ok(SecurityConfig { credentials, tls, caller })
    }

    fn file(&mut self, name: &'static str, flag: Option<&String>) -> Result<Option<PathBuf>, ConfigError> {
        self.take(name, flag, "", "a file", |text| Some((!text.is_empty()).then(|| PathBuf::from(text))))
    }

    fn alone(&self, setting: &'static str, expected: &str) -> ConfigError {
        self.refused(setting, String::new(), expected)
    }
}
