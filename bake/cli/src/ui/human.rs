//! Sizes, durations, ages, times and values as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use olbake_core::secret::{Piece, pieces};
use olbake_core::time::Timestamp;
use serde_json::Value;

/// Bytes, in powers of 1024.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration in seconds.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 0.0995 {
        return format!("{:.0} ms", seconds.max(0.0) * 1000.0);
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "durations of commands")]
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// How long ago something was.
pub(crate) fn age(then: SystemTime, now: SystemTime) -> String {
    let passed = now.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    let (count, unit) = match passed {
        0..60 => return "just now".to_owned(),
        60..3600 => (passed / 60, "minute"),
        3600..86_400 => (passed / 3600, "hour"),
        _ => (passed / 86_400, "day"),
    };
    format!("{} ago", plural(usize::try_from(count).unwrap_or(usize::MAX), unit))
}

/// `1 check`, `2 checks`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A time to the second; what lies before 1970 is 1970.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from_seconds(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

/// A time as RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    timestamp(time).to_string()
}

/// A time from RFC 3339 in UTC, as [`rfc3339`] writes it.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    text.parse().ok().map(|time: Timestamp| UNIX_EPOCH + Duration::from_secs(time.seconds()))
}

/// A value on one line: JSON, with the names of secrets where their markers are, digests cut, at most `most`
/// characters.
pub(crate) fn value(value: &Value, most: usize) -> String {
    let text = match value {
        Value::String(text) if text.starts_with("sha256:") && text.len() == 71 => {
            text["sha256:".len()..][..12].to_owned()
        }
        other => mask(&other.to_string()),
    };
    truncate(&super::style::clean(&text), most)
}

/// A text with `‹secret NAME›` in the place of each marker.
pub(crate) fn mask(text: &str) -> String {
    pieces(text)
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.to_owned(),
            Piece::Secret(id) => format!("‹secret {}›", id.0),
        })
        .collect()
}

/// A text cut to a width, with an ellipsis where something is missing.
pub(crate) fn truncate(text: &str, width: usize) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        cut.push(c);
    }
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |bytes, expect: &str| assert_eq!(size(bytes), expect);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1024 * 1024 - 1, "1.0 MiB");
        check(1_395_864_371, "1.3 GiB");
        check(u64::MAX, "16384.0 PiB");
    }

    #[test]
    fn durations() {
        let check = |value, expect: &str| assert_eq!(seconds(value), expect);
        check(0.0, "0 ms");
        check(0.0994, "99 ms");
        check(0.25, "0.2 s");
        check(59.96, "1 min 00 s");
        check(192.4, "3 min 12 s");
        check(3905.0, "1 h 05 min");
    }

    #[test]
    fn ages() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let check = |passed, expect: &str| assert_eq!(age(now - Duration::from_secs(passed), now), expect);
        check(59, "just now");
        check(60, "1 minute ago");
        check(7300, "2 hours ago");
        check(200_000, "2 days ago");
        assert_eq!(age(now + Duration::from_secs(5), now), "just now");
    }

    #[test]
    fn secrets_are_named_not_shown() {
        let marker = olbake_core::secret::SecretId("caddy.acme".into()).marker();
        assert_eq!(value(&Value::String(format!("a {marker}")), 80), "\"a ‹secret caddy.acme›\"");
        assert_eq!(value(&serde_json::json!(["a", 1]), 80), r#"["a",1]"#);
        assert_eq!(value(&olbake_core::Digest::of(b"").to_string().into(), 80), "e3b0c44298fc");
    }

    #[test]
    fn cut_by_columns_not_bytes() {
        assert_eq!(truncate("日本語テキスト", 7), "日本語…");
        assert_eq!(truncate("short", 5), "short");
    }
}
