//! Settings of startup, shutdown, version policy and retention.

use std::time::Duration;

use super::ConfigError;
use super::layers::Layers;
use crate::model::ModelReference;
use crate::server::ServerConfig;
use crate::service::UpkeepConfig;
use crate::store::{Retention, VersionPolicies};

/// Flags of startup, shutdown, version policy and retention, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LifecycleArgs {
    /// Models to load before the server is ready, and to keep up to date: NAME, NAME@VERSION or NAME@ALIAS, separated
    /// by commas [default: none]
    #[arg(long, value_name = "MODELS")]
    pub warm_models: Option<String>,
    /// Versions to serve: all, latest:COUNT or pinned:VERSION+VERSION; NAME= in front sets it for one model, and commas
    /// separate several, for example latest:3,digits=pinned:1+4. The target of an alias is always served [default: all]
    #[arg(long, value_name = "POLICIES")]
    pub version_policy: Option<String>,
    /// Number of newest versions of each model to keep; versions that have an alias, are pinned, or were used within
    /// --retention-days are kept as well; 0 keeps all [default: 0]
    #[arg(long, value_name = "COUNT")]
    pub retention_versions: Option<String>,
    /// Keep a version that was used or published within this many days, 0 to 36500 [default: 30]
    #[arg(long, value_name = "DAYS")]
    pub retention_days: Option<String>,
    /// After SIGTERM, keep serving this long while not ready, so that load balancers notice; part of the shutdown
    /// grace, 0 to 86400 [default: 3]
    #[arg(long, value_name = "SECONDS")]
    pub drain_seconds: Option<String>,
    /// Time from SIGTERM until every accepted request must be finished, 0 to 86400 [default: 25]
    #[arg(long, value_name = "SECONDS")]
    pub shutdown_grace_seconds: Option<String>,
}

/// Settings that can change while the server runs.
pub(super) const RELOADED: [&str; 4] = ["warm_models", "version_policy", "retention_versions", "retention_days"];

/// Upper bound of `retention_days`: a century.
const DAYS_MAX: u64 = 36_500;

impl Layers<'_> {
    pub(super) fn upkeep(&mut self, args: &LifecycleArgs) -> Result<UpkeepConfig, ConfigError> {
        let warm_models = self.take(
            "warm_models",
            args.warm_models.as_ref(),
            "",
            "models as NAME, NAME@VERSION or NAME@ALIAS, with commas between them",
            |text| {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(|part| part.parse::<ModelReference>().ok()).collect::<Option<Vec<_>>>()
            },
        )?;
        let policies = self.take(
            "version_policy",
            args.version_policy.as_ref(),
            "all",
            "all, latest:COUNT or pinned:VERSION+VERSION, each with NAME= in front or once without, and commas between them",
            |text| text.parse::<VersionPolicies>().ok(),
        )?;
        let newest = self.count("retention_versions", args.retention_versions.as_ref(), 0, 0, 1_000_000)?;
        let days = self.count("retention_days", args.retention_days.as_ref(), 30, 0, DAYS_MAX)?;
        let retention =
            (newest > 0).then(|| Retention { newest: newest as usize, unused_max: Duration::from_hours(24 * days) });
        Ok(UpkeepConfig { warm_models, policies, retention })
    }

    /// The drain time and the shutdown grace.
    pub(super) fn stopping(
        &mut self,
        args: &LifecycleArgs,
        defaults: &ServerConfig,
    ) -> Result<(Duration, Duration), ConfigError> {
        let day = 0.0..=86_400.0;
        let drain = self.decimal_seconds("drain_seconds", args.drain_seconds.as_ref(), defaults.drain, day)?;
        let grace = Duration::from_secs(self.count(
            "shutdown_grace_seconds",
            args.shutdown_grace_seconds.as_ref(),
            defaults.shutdown_grace.as_secs(),
            0,
            86_400,
        )?);
        Ok((drain, grace))
    }
}
