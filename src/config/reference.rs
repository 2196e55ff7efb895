//! The page `docs/settings.md`, made from the [table](super::table).

use std::fmt::Write as _;
use std::path::Path;

use super::setting::{Kind, Setting};
use super::table::GROUPS;
use super::values::Values;

const HEAD: &str = "# Settings

<!-- A test makes this page from src/config/table.rs: UPDATE=1 cargo test --lib settings_page -->

All settings of `halfhitch serve`. A setting has one name, in three forms:

| source | form | wins over |
|---|---|---|
| flag | `--batch-rows-max 64` | variable, file, default |
| variable | `HALFHITCH_BATCH_ROWS_MAX=64` | file, default |
| TOML file that `--config` or `HALFHITCH_CONFIG` names | `batch_rows_max = 64` | default |

Sizes are whole numbers of bytes, optionally with the unit KiB, MiB or GiB. A list is a string with commas; the file
also accepts an array of strings. A wrong value or an unknown key stops the startup. The message names the setting, its
source, its value and what is expected.

`halfhitch serve --print-config` prints the settings in force and the source of each, as a TOML file that `--config` can
read.
";

/// The text of the page.
fn page() -> String {
    let defaults = Values::default();
    let mut page = HEAD.to_owned();
    for group in GROUPS {
        let _ = write!(page, "\n## {}\n\n", group.title);
        if group.reloads {
            page += "These settings can change while the server runs: edit the file, or send SIGHUP.\n\n";
        }
        page += "| setting | default | allowed | what it does |\n|---|---|---|---|\n";
        for setting in group.settings {
            let (default, allowed) = (default(setting, &defaults), allowed(setting));
            let _ = writeln!(page, "| `{}` | {default} | {allowed} | {} |", setting.name, setting.help);
        }
    }
    page
}

fn default(setting: &Setting, defaults: &Values) -> String {
    let shown = setting.default_shown(defaults);
    match setting.default_is() {
        Some(text) => text.to_owned(),
        None if shown.is_empty() => "none".to_owned(),
        None => format!("`{shown}`"),
    }
}

fn allowed(setting: &Setting) -> String {
    match (&setting.kind, setting.range()) {
        (Kind::Text { expected, .. }, _) => (*expected).to_owned(),
        (_, range) => range.expect("numbers have a range"),
    }
}

/// With the variable `UPDATE`, this test writes the page.
#[test]
fn the_settings_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page()).expect("the page is written");
    }
    let written = std::fs::read_to_string(&path).expect("the page exists");
    assert!(written == page(), "docs/settings.md is out of date: run UPDATE=1 cargo test --lib settings_page");
}
