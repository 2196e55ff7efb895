//! `halfhitch token`: prints a new token and its entry for the credentials file.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::CliError;
use crate::security::{CallerLimits, Credentials};

/// Random bytes of a token: as many as its SHA-256 digest has.
const TOKEN_BYTES: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    /// Name of the caller, for logs and limits
    name: String,
    /// Roles of the caller: infer, train, admin, separated by commas
    #[arg(long, value_name = "ROLES", value_delimiter = ',', required = true)]
    roles: Vec<String>,
    /// Allow only models whose names begin with one of these prefixes, separated by commas [default: all]
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    models: Vec<String>,
    /// Day or time at which the token expires: 2027-01-31 or 2027-01-31T12:00:00Z [default: never]
    #[arg(long, value_name = "DATE")]
    expires: Option<String>,
}

pub(super) fn run(args: &TokenArgs, json: bool) -> Result<(), CliError> {
    let mut bytes = [0; TOKEN_BYTES];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| CliError::Failed("the system's random number generator failed".to_owned()))?;
    let token = format!("hh_{}", URL_SAFE_NO_PAD.encode(bytes));
    let entry = entry(args, &token)?;
    if json {
        out_line!("{}", serde_json::json!({ "token": token, "entry": entry }));
    } else {
        out_line!("{token}");
        note_line!(
            "Shown once: store the token in a file for --token-file. Entry for the server's credentials file:\n\n\
             {entry}"
        );
    }
    Ok(())
}

/// The entry of the credentials file, checked with the parser of the server.
fn entry(args: &TokenArgs, token: &str) -> Result<String, CliError> {
    let TokenArgs { name, roles, models, expires } = args;
    let list = |texts: &[String]| toml::Value::Array(texts.iter().map(|text| text.trim().into()).collect());
    let digest =
        Sha256::digest(token.as_bytes()).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let mut entry = format!(
        "[[token]]\nname = {}\nsha256 = \"{digest}\"\nroles = {}\n",
        toml::Value::from(name.as_str()),
        list(roles)
    );
    if !models.is_empty() {
        entry.push_str(&format!("models = {}\n", list(models)));
    }
    if let Some(expires) = expires {
        let moment: toml::value::Datetime = expires.parse().map_err(|_| {
            CliError::Usage(format!("--expires {expires:?}: expected a date like 2027-01-31 or 2027-01-31T12:00:00Z"))
        })?;
        entry.push_str(&format!("expires = {moment}\n"));
    }
    match Credentials::parse(entry.as_bytes(), Path::new("the entry"), CallerLimits::default(), None) {
        Ok(_) => Ok(entry),
        Err(error) => Err(CliError::Usage(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn args(roles: &[&str], expires: Option<&str>) -> TokenArgs {
        TokenArgs {
            name: "indexer \"1\"".to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            models: vec!["embed".to_owned()],
            expires: expires.map(str::to_owned),
        }
    }

    #[test]
    fn the_entry_admits_only_its_own_token() {
        let args = TokenArgs { name: "indexer".to_owned(), ..args(&["infer", "train"], Some("2999-01-31")) };
        let entry = entry(&args, "hh_abc").expect("an entry");
        let credentials =
            Credentials::parse(entry.as_bytes(), Path::new("x"), CallerLimits::default(), None).expect("credentials");
        assert!(credentials.by_token(b"hh_abc", SystemTime::now()).is_ok());
        assert!(credentials.by_token(b"hh_abd", SystemTime::now()).is_err());
    }

    #[test]
    fn invalid_roles_and_dates_are_rejected() {
        assert!(entry(&args(&["root"], None), "hh_abc").is_err());
        assert!(entry(&args(&["infer"], Some("tomorrow")), "hh_abc").is_err());
    }
}
