use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::security::{CallerLimits, Role, date};

fn read(text: &str) -> Result<Credentials, CredentialsError> {
    Credentials::parse(text.as_bytes(), Path::new("creds.toml"), CallerLimits::default(), None)
}

fn token(name: &str, secret: &str, more: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", Fingerprint::of(secret.as_bytes()))
}

#[track_caller]
fn check_refused(text: &str, says: &[&str]) {
    let error = read(text).expect_err("refused").to_string();
    for part in ["creds.toml"].iter().chain(says) {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

const INFER: &str = "roles = [\"infer\"]";

fn year(year: u16) -> SystemTime {
    date::moment(&format!("{year}-01-01").parse().expect("a date")).expect("a moment")
}

#[test]
fn a_token_is_known_by_its_hash() {
    let text =
        token("a", "secret-a", INFER) + &token("b", "secret-b", "roles = [\"train\", \"admin\"]\nmodels = [\"m-\"]");
    let known = read(&text).expect("valid");
    let (caller, roles) = known.by_token(b"secret-b", year(2026)).expect("known");
    assert_eq!(caller.name(), "b");
    assert!(roles.has(Role::Train) && roles.has(Role::Admin) && !roles.has(Role::Infer));
    assert!(caller.may_use("m-1") && !caller.may_use("m") && !caller.may_use("other"));
    for wrong in ["", "secret", "secret-c", "SECRET-A", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        assert_eq!(known.by_token(wrong.as_bytes(), year(2026)).expect_err("unknown"), Refusal::Unknown);
    }
    assert_eq!(Credentials::default().by_token(b"", year(2026)).expect_err("unknown"), Refusal::Unknown);
}

#[test]
fn expired_tokens_are_unknown() {
    let known = read(&token("a", "s", &format!("{INFER}\nexpires = 2027-01-01"))).expect("valid");
    known.by_token(b"s", year(2027) - Duration::from_secs(1)).expect("in force");
    assert_eq!(known.by_token(b"s", year(2027)).expect_err("over"), Refusal::Unknown);
}

#[test]
fn a_certificate_matches_by_name_or_fingerprint() {
    let presented = |name: &str, ends| Presented {
        fingerprint: Fingerprint::of(name.as_bytes()),
        dns: vec![format!("{name}.example")],
        common_name: Some(name.to_owned()),
        ends,
        chain: Vec::new(),
    };
    let text = format!(
        "[[certificate]]\nname = \"d\"\ndns = \"One.Example\"\n{INFER}\n[[certificate]]\nname = \"c\"\ncommon_name = \"two\"\n{INFER}\n\
         [[certificate]]\nname = \"f\"\nsha256 = \"{}\"\n{INFER}\nexpires = 2027-01-01",
        Fingerprint::of(b"three")
    );
    let known = read(&text).expect("valid");
    let whose =
        |name: &str, now| known.by_certificate(&presented(name, year(2040)), now).map(|(c, _)| c.name().to_owned());
    assert_eq!(whose("one", year(2026)).as_deref(), Ok("d"));
    assert_eq!(whose("two", year(2026)).as_deref(), Ok("c"));
    assert_eq!(whose("three", year(2026)).as_deref(), Ok("f"));
    assert_eq!(whose("three", year(2028)), Err(Refusal::Unknown), "the entry has expired");
    assert_eq!(whose("four", year(2026)), Err(Refusal::Unknown));
    let old = presented("one", year(2025));
    assert_eq!(known.by_certificate(&old, year(2026)).expect_err("the certificate itself is over"), Refusal::Unknown);
}

#[test]
fn calls_in_progress_still_count_after_a_reload() {
    let text = token("a", "s", &format!("{INFER}\nrequests_max = 1"));
    let before = read(&text).expect("valid");
    let _held = before.by_token(b"s", year(2026)).expect("known").0.begin(0).expect("room");
    let after = Credentials::parse(text.as_bytes(), Path::new("f"), CallerLimits::default(), Some(&before));
    let after = after.expect("valid");
    after.by_token(b"s", year(2026)).expect("known").0.begin(0).expect_err("one is under way");
}

#[test]
fn entry_limits_override_general_limits() {
    let limits = CallerLimits { requests_max: 1, rows_max: 7, ..Default::default() };
    let text = token("a", "s", &format!("{INFER}\nrequests_max = 0\nbytes_max = 9"));
    let read = Credentials::parse(text.as_bytes(), Path::new("f"), limits, None).expect("valid");
    let (caller, _) = read.by_token(b"s", year(2026)).expect("known");
    assert!(caller.begin(0).expect("no limit").is_none());
    caller.hold(8, 1).expect_err("rows");
    caller.hold(1, 10).expect_err("bytes");
}

#[test]
fn errors_name_the_entry_and_the_problem() {
    let hash = Fingerprint::of(b"s").to_string();
    check_refused("= 1", &["line 1", "not TOML"]);
    check_refused("x = 1", &["\"x\"", "token, certificate"]);
    check_refused("token = 1", &["token is a value of type integer", "[[token]]"]);
    check_refused("[[token]]\nroles=[]", &["[[token]] 1", "name is missing"]);
    check_refused(&format!("[[token]]\nname = \"a b\"\nsha256 = \"{hash}\"\n{INFER}"), &["\"a b\"", "1 to 63"]);
    check_refused(&format!("[[token]]\nname = \"a\"\n{INFER}"), &["[[token]] 1 (a)", "sha256 is missing", "64"]);
    check_refused(&token("a", "s", ""), &["roles is missing", "infer"]);
    check_refused(&token("a", "s", "roles = []"), &["roles is empty"]);
    check_refused(&token("a", "s", "roles = [\"root\"]"), &["\"root\""]);
    check_refused(&token("a", "s", &format!("{INFER}\nmodels = [\"\"]")), &["models", "none of them empty"]);
    check_refused(&token("a", "s", &format!("{INFER}\nmodels = [\"Big\"]")), &["models", "\"Big\""]);
    check_refused(&token("a", "s", &format!("{INFER}\nexpires = \"2027-01-01\"")), &["expires", "without quotes"]);
    check_refused(&token("a", "s", &format!("{INFER}\nexpires = 12:00:00")), &["expires is 12:00:00"]);
    check_refused(&token("a", "s", &format!("{INFER}\nrows_max = -1")), &["rows_max is -1"]);
    check_refused(&token("a", "s", &format!("{INFER}\nrole = 1")), &["\"role\"", "unknown"]);
    check_refused(&(token("a", "s", INFER) + &token("a", "t", INFER)), &["[[token]] 2", "that of [[token]] 1 (a)"]);
    check_refused(&(token("a", "s", INFER) + &token("b", "s", INFER)), &["(b)", "that of another entry"]);
    check_refused(&format!("[[certificate]]\nname = \"c\"\n{INFER}"), &["set 0 times", "exactly one"]);
    check_refused(&format!("[[certificate]]\nname = \"c\"\ndns = \"d\"\ncommon_name = \"e\"\n{INFER}"), &["2 times"]);
    check_refused(&format!("[[certificate]]\nname = \"c\"\ndns = \"\"\n{INFER}"), &["empty"]);
    let many: String = (0..=ENTRIES_MAX).map(|i| token(&format!("t{i}"), &format!("s{i}"), INFER)).collect();
    check_refused(&many, &["at most 1000"]);
}

#[test]
fn errors_never_repeat_a_pasted_token() {
    for text in [
        "[[token]]\nname = \"a\"\nsha256 = \"hh_my-very-secret\"\nroles = [\"infer\"]",
        "[[token]]\nname = \"a\"\nsha256 = hh_my-very-secret",
        "hh_my-very-secret",
    ] {
        let error = read(text).expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("my-very-secret"), "{error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&text);
        let _ = Credentials::parse(&bytes, Path::new("f"), CallerLimits::default(), None);
    }

    #[test]
    fn incomplete_entries_are_rejected_with_the_file_name(
        key in "name|sha256|roles|models|expires|rows_max|dns|[a-z]{1,8}",
        value in "[0-9]{1,20}|-[0-9]{1,3}|\"[ -!#-\\[\\]-~]{0,70}\"|\\[\\]|\\[1\\]|\\[\"a\"\\]|true|1\\.5|[0-9]{4}-01-01",
    ) {
        let text = format!("[[token]]\n{key} = {value}\n");
        let error = read(&text).expect_err("no entry of one key is whole");
        prop_assert!(error.to_string().contains("creds.toml"));
    }

    #[test]
    fn every_token_finds_its_own_entry(count in 1_usize..40, asked in 0_usize..60) {
        let text: String = (0..count).map(|i| token(&format!("t{i}"), &format!("s{i}"), INFER)).collect();
        let known = read(&text).expect("valid");
        let found = known.by_token(format!("s{asked}").as_bytes(), year(2026)).map(|(caller, _)| caller.name().to_owned());
        prop_assert_eq!(found.ok(), (asked < count).then(|| format!("t{asked}")));
    }

    #[test]
    fn fingerprints_are_read_as_they_are_written(bytes in any::<[u8; 32]>()) {
        let fingerprint = Fingerprint(bytes);
        let text = fingerprint.to_string();
        prop_assert_eq!(Fingerprint::parse(&text), Some(fingerprint));
        let pairs: Vec<&str> = (0..32).map(|i| &text[2 * i..2 * i + 2]).collect();
        prop_assert_eq!(Fingerprint::parse(&pairs.join(":").to_uppercase()), Some(fingerprint));
        prop_assert_eq!(Fingerprint::parse(&text[1..]), None);
    }
}
