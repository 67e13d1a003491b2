//! The forms of the text types: each function returns the canonical value, or what was expected.

use core::net::IpAddr;

use crate::secret::{MARKER_END, MARKER_START};
use crate::stack::value::{REFERENCE_END, REFERENCE_START};

/// What was expected instead.
pub(super) type Expected = &'static str;

/// Text without the characters that stand for secrets and outputs.
pub(super) fn plain(text: &str) -> Result<(), Expected> {
    if text.contains([MARKER_START, MARKER_END, REFERENCE_START, REFERENCE_END]) {
        return Err("text without the private-use characters U+E000 to U+E003");
    }
    Ok(())
}

/// An absolute path.
pub(super) fn path(text: &str) -> Result<(), Expected> {
    let fine = text.starts_with('/')
        && !text.contains(['\0', '\n'])
        && text.split('/').all(|part| part != ".." && part != ".");
    if fine { Ok(()) } else { Err("an absolute path without `.` and `..`") }
}

/// An absolute URL.
pub(super) fn url(text: &str) -> Result<(), Expected> {
    let fine = text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && !rest.is_empty()
            && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    });
    if fine { Ok(()) } else { Err("a URL with its scheme, such as `https://example.org/x`") }
}

/// A host name: labels of letters, digits and hyphens. A leading `*.` is allowed: certificates and sites have it.
pub(super) fn hostname(text: &str) -> Result<(), Expected> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let fine = !name.is_empty() && name.len() <= 253 && name.split('.').all(label);
    if fine { Ok(()) } else { Err("a host name, such as `www.example.org`") }
}

/// An IP address.
pub(super) fn ip(text: &str) -> Result<(), Expected> {
    text.parse::<IpAddr>().map(|_| ()).map_err(|_| "an IPv4 or IPv6 address")
}

/// A network.
pub(super) fn cidr(text: &str) -> Result<(), Expected> {
    let fine = text.split_once('/').is_some_and(|(address, length)| {
        let bits = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|length| length <= bits)
    });
    if fine { Ok(()) } else { Err("a network such as `10.0.0.0/8`") }
}

/// A version.
pub(super) fn version(text: &str) -> Result<(), Expected> {
    let fine = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:_".contains(c))
        && text.contains(|c: char| c.is_ascii_digit());
    if fine { Ok(()) } else { Err("a version, such as `2.6.2-5`") }
}

/// Permission bits.
pub(super) fn mode(text: &str) -> Result<u32, Expected> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && !digits.is_empty())
        .ok_or("permission bits in octal, such as `0o644`")
}

/// What was most likely meant by bits that were written as a decimal number: `0o644` by 644, which is `0o1204`. Bits
/// make sense where the owner may read, a group may do no more than the owner, and everybody no more than the group.
pub fn decimal_mode(bits: u32) -> Option<u32> {
    let sensible = |bits: u32| {
        let [owner, group, others] = [bits >> 6 & 7, bits >> 3 & 7, bits & 7];
        owner & 4 != 0 && owner & group == group && group & others == others
    };
    let meant = mode(&bits.to_string()).ok()?;
    (bits > 7 && sensible(meant) && !sensible(bits)).then_some(meant)
}

/// How permission bits are to be written.
pub fn octal_help(bits: u32) -> String {
    format!("permission bits are octal: write `\"0{bits:o}\"` or `0o{bits:o}`")
}

/// A length of time, in milliseconds.
pub(crate) fn duration(text: &str) -> Result<u64, Expected> {
    const EXPECTED: Expected = "a length of time, such as `90s` or `1h30m`";
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(EXPECTED);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| EXPECTED)?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let factor = match &rest[..letters] {
            "ms" => 1,
            "s" | "sec" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(EXPECTED),
        };
        total = number.checked_mul(factor).and_then(|part| total.checked_add(part)).ok_or(EXPECTED)?;
        rest = rest[letters..].trim_start();
    }
    Ok(total)
}

/// The canonical text of a length of time.
pub(super) fn duration_text(milliseconds: u64) -> String {
    if milliseconds.is_multiple_of(1000) {
        format!("{}s", milliseconds / 1000)
    } else {
        format!("{milliseconds}ms")
    }
}

/// A number of bytes.
pub(super) fn bytes(text: &str) -> Result<u64, Expected> {
    const EXPECTED: Expected = "a number of bytes, such as `512MiB` or `4GiB`";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| EXPECTED)?;
    let factor: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(factor).ok_or(EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_and_sizes_add_up() {
        assert_eq!(duration("1h30m").map(duration_text).as_deref(), Ok("5400s"));
        assert_eq!(duration("1500ms").map(duration_text).as_deref(), Ok("1500ms"));
        assert!(duration("90").is_err());
        assert!(duration("").is_err());
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("10 MB"), Ok(10_000_000));
        assert!(bytes("4 GiBs").is_err());
        assert!(bytes("99999999999TiB").is_err());
    }

    #[test]
    fn names_addresses_and_networks() {
        assert!(hostname("a.example.org").is_ok() && hostname("*.example.org").is_ok());
        for bad in ["", "-a", "a..b", "a b", "a_b", &"a".repeat(64)] {
            assert!(hostname(bad).is_err(), "{bad:?}");
        }
        assert!(cidr("10.0.0.0/8").is_ok() && cidr("::/0").is_ok());
        assert!(cidr("10.0.0.0/33").is_err() && cidr("10.0.0.0").is_err());
        assert!(path("/var/lib").is_ok() && path("/a/../b").is_err() && path("a").is_err());
        assert_eq!(mode("0o640"), Ok(0o640));
        assert_eq!(mode("0640"), Ok(0o640));
        assert!(mode("99").is_err() && mode("17777").is_err() && mode("0o").is_err());
    }

    #[test]
    fn modes_that_were_written_in_decimal_are_told() {
        for written in [644, 755, 600, 640, 700, 750, 440, 1777, 2755] {
            let meant = u32::from_str_radix(&written.to_string(), 8).ok();
            assert_eq!(decimal_mode(written), meant, "{written}");
        }
        for octal in [
            0, 0o7, 0o444, 0o600, 0o640, 0o644, 0o664, 0o700, 0o701, 0o705, 0o711, 0o755, 0o1777, 0o2775,
            0o4755,
        ] {
            assert_eq!(decimal_mode(octal), None, "{octal:o}");
        }
    }
}
