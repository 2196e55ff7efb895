//! Expiry dates of credentials.

use std::time::{Duration, SystemTime};

use toml::value::{Datetime, Offset};

/// The moment of a TOML date. A date without a time means the start of the day; without an offset, the time is UTC.
/// `None` for a time without a date, and for a moment before 1970.
pub fn moment(datetime: &Datetime) -> Option<SystemTime> {
    let date = datetime.date?;
    let days = days_since_1970(date.year.into(), date.month.into(), date.day.into());
    let (hour, minute, second) = datetime
        .time
        .map_or((0, 0, 0), |time| (i64::from(time.hour), i64::from(time.minute), time.second.map_or(0, i64::from)));
    let offset_minutes = match datetime.offset {
        None | Some(Offset::Z) => 0,
        Some(Offset::Custom { minutes }) => i64::from(minutes),
    };
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Days since 1970-01-01 in the Gregorian calendar, with years from March to February in eras of 400 (Hinnant 2014).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, seconds: Option<u64>) {
        let datetime: Datetime = text.parse().expect("a date of TOML");
        let expected = seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(moment(&datetime), expected, "{text}");
    }

    /// Expected values: `date -u -d TEXT +%s`.
    #[test]
    fn dates_are_seconds_since_1970() {
        check("1970-01-01", Some(0));
        check("2000-02-29", Some(951_782_400));
        check("2000-03-01", Some(951_868_800));
        check("2027-01-01T00:00:00Z", Some(1_798_761_600));
        check("2100-03-01T12:34:56", Some(4_107_587_696));
        check("2027-01-01T02:00:00+02:00", Some(1_798_761_600));
        check("2026-12-31T16:00:00.5-08:00", Some(1_798_761_600));
    }

    #[test]
    fn times_without_a_date_or_before_1970_are_none() {
        check("12:00:00", None);
        check("1969-12-31", None);
    }
}
