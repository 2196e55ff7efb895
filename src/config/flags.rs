//! The flags of `halfhitch serve` that set a setting, made from the [table](super::table).

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::table::{GROUPS, settings};
use super::values::Values;

/// The settings that flags set, as written. A setting is checked when all sources are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingFlags(pub(super) BTreeMap<&'static str, String>);

impl Args for SettingFlags {
    fn augment_args(mut command: Command) -> Command {
        let defaults = Values::default();
        for group in GROUPS {
            command = command.args(group.settings.iter().map(|setting| {
                Arg::new(setting.name)
                    .long(setting.flag())
                    .value_name(setting.unit)
                    .help(setting.flag_help(&defaults))
                    .help_heading(group.title)
            }));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let written = |name| Some((name, matches.get_one::<String>(name)?.clone()));
        self.0.extend(settings().filter_map(|setting| written(setting.name)));
        Ok(())
    }
}
