//! Points in time and lapses of it, in milliseconds, as arguments: the machine has no clock.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since whatever the driver counts from, the Unix epoch for one.
///
/// It must go on counting across restarts of the driver, as it is kept in the journalled state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

/// A lapse of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The lapse so many times over.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

impl Time {
    /// How long ago `earlier` was; nothing when it is yet to come.
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Millis> for Time {
    type Output = Self;

    fn add(self, lapse: Millis) -> Self {
        Self(self.0.saturating_add(lapse.0))
    }
}

impl Add for Millis {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Time {
    type Output = Millis;

    fn sub(self, earlier: Self) -> Millis {
        self.since(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Millis(self.0), f)
    }
}

/// `1.5s`, `2m03s`, `1h00m`: for people and snapshots.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(millis) = *self;
        let (seconds, rest) = (millis / 1000, millis % 1000);
        match seconds {
            0..60 if rest == 0 => write!(f, "{seconds}s"),
            0..60 => write!(f, "{seconds}.{}s", rest / 100),
            60..3600 => write!(f, "{}m{:02}s", seconds / 60, seconds % 60),
            _ => write!(f, "{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lapses_read_as_people_write_them() {
        let text = |millis| Millis(millis).to_string();
        assert_eq!([text(0), text(1500), text(123_000), text(3_660_000)], ["0s", "1.5s", "2m03s", "1h01m"]);
    }

    #[test]
    fn time_does_not_run_backwards() {
        assert_eq!(Time(5) - Time(9), Millis::ZERO);
        assert_eq!(Time(u64::MAX) + Millis(1), Time(u64::MAX));
    }
}
