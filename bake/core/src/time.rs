//! Times of day and lengths of time as data: nothing here asks a clock. Main type: [`Timestamp`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::duration_milliseconds;

/// A second in UTC, 1970 or later; as text RFC 3339: `2026-11-22T18:20:00Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(u64);

/// Why a text is no time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no time: write `2026-11-22T18:20:00Z`")]
pub struct ParseTimestampError(pub String);

impl Timestamp {
    /// So many seconds after 1970-01-01T00:00:00Z.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// Seconds from `then` to this time; none where `then` is later.
    pub const fn since(self, then: Self) -> u64 {
        self.0.saturating_sub(then.0)
    }

    /// So many seconds later.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The second that a day of the Gregorian calendar and a time of that day name; none where there is no such day.
    pub fn from_civil([year, month, day]: [u64; 3], [hour, minute, second]: [u64; 3]) -> Option<Self> {
        let day_exists =
            (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        // Leap seconds are written as the sixtieth.
        if !day_exists || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let days = days_of(year, month, day)?;
        (civil(days) == (year, month, day))
            .then_some(Self(days * 86_400 + hour * 3600 + minute * 60 + second))
    }
}

/// Days from 1970-01-01 on.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let from_march = (month + 9) % 12;
    let year = if month <= 2 { year - 1 } else { year };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar: years begin in March here, so
/// that the day that some years lack comes last, and every 400 years are alike.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / 86_400, self.0 % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Reads RFC 3339 in UTC; parts of a second are left out.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
            let time = time.split('.').next()?;
            Self::from_civil(numbers(date, '-')?, numbers(time, ':')?)
        };
        read().ok_or_else(|| ParseTimestampError(text.to_owned()))
    }
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let part = |part: &str| if digits(part) { part.parse().ok() } else { None };
    let parts: Vec<u64> = text.split(separator).map(part).collect::<Option<_>>()?;
    parts.try_into().ok()
}

impl TryFrom<String> for Timestamp {
    type Error = ParseTimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

/// A length of time as settings write it: `90s`, `1h30m`, `2d`. The error says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    duration_milliseconds(text).map(Duration::from_millis)
}

/// A length of time in its two largest units, rounded down: `45s`, `3h25m`, `24h`, from three days on `3d2h`.
pub fn duration_text(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    let units: &[(u64, &str)] = if seconds >= 3 * DAY {
        &[(DAY, "d"), (3600, "h")]
    } else if seconds >= 3600 {
        &[(3600, "h"), (60, "m")]
    } else {
        &[(60, "m"), (1, "s")]
    };
    let [(large, large_name), (small, small_name)] = units else { return format!("{seconds}s") };
    match (seconds / large, seconds % large / small) {
        (0, rest) => format!("{rest}{small_name}"),
        (count, 0) => format!("{count}{large_name}"),
        (count, rest) => format!("{count}{large_name}{rest}{small_name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_there_and_back() {
        let check = |seconds, expect: &str| {
            assert_eq!(Timestamp(seconds).to_string(), expect);
            assert_eq!(expect.parse(), Ok(Timestamp(seconds)));
        };
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(1_709_251_199, "2024-02-29T23:59:59Z");
        check(1_795_352_400, "2026-11-22T13:00:00Z");
        check(4_107_542_399, "2100-02-28T23:59:59Z");
        assert_eq!("2026-11-22T13:00:00.75Z".parse(), Ok(Timestamp(1_795_352_400)));
        for bad in [
            "yesterday",
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T+1:00:00Z",
            "2024-01-01T00:00:00",
            "1969-01-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_of_time_are_short() {
        for (seconds, expect) in [
            (0, "0s"),
            (45, "45s"),
            (90, "1m30s"),
            (12_345, "3h25m"),
            (86_400, "24h"),
            (259_200, "3d"),
            (270_000, "3d3h"),
        ] {
            assert_eq!(duration_text(seconds), expect);
        }
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("90").is_err());
    }
}
