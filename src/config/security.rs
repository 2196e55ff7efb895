//! The settings of TLS together.

use super::ConfigError;
use super::layers::Layers;
use super::values::{TlsValues, Values};
use crate::server::TlsConfig;

/// Combines the settings of TLS.
///
/// # Errors
/// [`ConfigError::Value`] if a file is missing that another setting needs.
pub(super) fn combine_tls(layers: &mut Layers<'_>, values: &mut Values) -> Result<(), ConfigError> {
    let alone = |setting, expected| Err(layers.refused(setting, String::new(), expected));
    let TlsValues { certificate, key, client_ca, client_crl, client_optional } = values.tls.clone();
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => TlsConfig { certificate, key, client_ca, client_crl, client_optional },
        (None, Some(_)) => return alone("tls_certificate", "a file, since tls_key is set"),
        (Some(_), None) => return alone("tls_key", "a file, since tls_certificate is set"),
        (None, None) if client_ca.is_some() => {
            return alone("tls_certificate", "a file, since tls_client_ca is set");
        }
        (None, None) => return Ok(()),
    };
    if tls.client_ca.is_none() && (tls.client_crl.is_some() || tls.client_optional) {
        return alone("tls_client_ca", "a file, since tls_client_crl or tls_client_optional is set");
    }
    values.server.security.tls = Some(tls);
    Ok(())
}
