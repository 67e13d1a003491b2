//! The little languages inside arguments: accounts, names of units, times of systemd, ACLs, capabilities, package
//! sources. Each function says whether a text is one of them, by the rules of whoever reads it on the machine, which
//! would find out only there.

use olbake_core::settings::{did_you_mean, nearest};

/// What is wrong with a text, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

type Outcome = Result<(), Fault>;

fn fault(message: impl Into<String>) -> Fault {
    Fault { message: message.into(), help: None }
}

/// A user or group that may be there already: a number, or a name as `useradd` of Debian takes it with `--badname`, for
/// there is `Debian-exim`.
pub(crate) fn account(text: &str) -> Outcome {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The last number stands for "no change" in chown(2).
        let fine = text.parse::<u32>().is_ok_and(|number| number != u32::MAX);
        return if fine { Ok(()) } else { Err(fault(format!("`{text}` is no number of an account"))) };
    }
    let name = text.strip_suffix('$').unwrap_or(text);
    let fine = name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if fine {
        return Ok(());
    }
    let help = text.split_once(':').map(|(owner, group)| {
        format!("the group is an argument of its own: `owner = \"{owner}\", group = \"{group}\"`")
    });
    Err(Fault { message: format!("`{text}` is not a name of an account"), help })
}

const SUFFIXES: [&str; 11] = [
    "service",
    "socket",
    "timer",
    "path",
    "target",
    "mount",
    "automount",
    "swap",
    "slice",
    "scope",
    "device",
];

/// The full name of a unit (systemd.unit(5)); without a suffix it is a service.
pub(crate) fn unit(text: &str) -> Result<String, Fault> {
    let suffixed = text.rsplit_once('.').filter(|(_, suffix)| SUFFIXES.contains(suffix));
    let (prefix, suffix) = suffixed.unwrap_or((text, "service"));
    let name = format!("{prefix}.{suffix}");
    let fine = !prefix.is_empty()
        && !prefix.starts_with('@')
        && name.len() < 256
        && prefix.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
    if !fine {
        let help =
            text.contains('/').then(|| "`systemd-escape --path` gives the name of a path's unit".to_owned());
        return Err(Fault { message: format!("`{text}` is not a name of a unit"), help });
    }
    let last = prefix.rsplit_once('.').filter(|_| suffixed.is_none()).map(|(_, last)| last);
    match last.and_then(|last| nearest(last, SUFFIXES)) {
        Some(meant) => Err(Fault {
            message: format!("`{text}` ends in no type of unit"),
            help: Some(format!("did you mean `.{meant}`? Else write `{name}`")),
        }),
        None => Ok(name),
    }
}

/// A length of time as systemd reads it (systemd.time(7)): `1h 30min`, `90`, `infinity`.
pub(crate) fn time_span(text: &str) -> Outcome {
    const UNITS: &str = "usec us µs μs msec ms seconds second sec s minutes minute min m hours hour hr h days day d \
                         weeks week w months month M years year y";
    let wrong = || Fault {
        message: format!("`{text}` is not a length of time"),
        help: Some("write `30s`, `5min`, `1h 30min`, `1d`: see systemd.time(7)".to_owned()),
    };
    let mut rest = text.trim();
    if rest == "infinity" {
        return Ok(());
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let known = unit.is_empty() || UNITS.split(' ').any(|known| known == unit);
        if number.parse::<f64>().is_err() || number.ends_with('.') || !known {
            return Err(wrong());
        }
        rest = after.trim_start();
    }
    Ok(())
}

/// A calendar event of systemd (systemd.time(7)): `daily`, `Mon..Fri *-*-* 04:00`, `Sun 02:30 Europe/Berlin`.
pub(crate) fn calendar(text: &str) -> Outcome {
    const NAMED: [&str; 12] = [
        "minutely",
        "hourly",
        "daily",
        "monthly",
        "weekly",
        "yearly",
        "annually",
        "quarterly",
        "biannually",
        "bi-annually",
        "semiannually",
        "semi-annually",
    ];
    let wrong = |what: String| {
        Fault {
        message: format!("`{text}` is not a calendar event: {what}"),
        help: Some(
            "write `daily`, `Mon..Fri 04:00`, `*-*-01 02:30:00`: `systemd-analyze calendar` tells when it elapses"
                .to_owned(),
        ),
    }
    };
    let mut words: Vec<&str> = text.split_whitespace().collect();
    if words.last().is_some_and(|word| is_zone(word)) && words.len() > 1 {
        words.pop();
    }
    match words.as_slice() {
        [] => return Err(wrong("it is empty".to_owned())),
        [name] if NAMED.contains(&name.to_lowercase().as_str()) => return Ok(()),
        [time] if time.strip_prefix('@').is_some_and(|second| second.parse::<u64>().is_ok()) => return Ok(()),
        [name] if name.chars().all(char::is_alphabetic) && weekdays(name).is_none() => {
            let mut problem = wrong("there is no such name".to_owned());
            problem.help =
                nearest(name, NAMED).map(|name| format!("did you mean `{name}`?")).or(problem.help);
            return Err(problem);
        }
        _ => {}
    }
    let mut rest = words.as_slice();
    if let [first, after @ ..] = rest
        && first.starts_with(|c: char| c.is_alphabetic())
    {
        weekdays(first).ok_or_else(|| wrong(format!("`{first}` names no days of the week")))?;
        rest = after;
    }
    if let [first, after @ ..] = rest
        && !first.contains(':')
    {
        date(first).ok_or_else(|| wrong(format!("`{first}` is no date")))?;
        rest = after;
    }
    if let [first, after @ ..] = rest {
        time(first).ok_or_else(|| wrong(format!("`{first}` is no time")))?;
        rest = after;
    }
    match rest {
        [] => Ok(()),
        [more, ..] => Err(wrong(format!("`{more}` is too much"))),
    }
}

/// Whether a word names a time zone: `UTC` or `Area/City`.
fn is_zone(word: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+-".contains(c))
    };
    word.eq_ignore_ascii_case("UTC") || (word.contains('/') && word.split('/').all(part))
}

fn weekdays(text: &str) -> Option<()> {
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let day = |name: &str| {
        let name = name.to_lowercase();
        DAYS.iter().position(|day| *day == name || day[..3] == name)
    };
    for range in text.strip_suffix(',').unwrap_or(text).split(',') {
        let ends = range.split_once("..").or_else(|| range.split_once('-'));
        match ends {
            Some((first, last)) => (day(first)? <= day(last)?).then_some(())?,
            None => day(range).map(|_| ())?,
        }
    }
    Some(())
}

fn date(text: &str) -> Option<()> {
    let (before, day) = text.rsplit_once(['-', '~'])?;
    let (year, month) = before.split_once('-').unwrap_or(("*", before));
    part(year, 0, 2199, false)?;
    part(month, 1, 12, false)?;
    part(day, 1, 31, false)
}

fn time(text: &str) -> Option<()> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() {
        return None;
    }
    part(hour, 0, 23, false)?;
    part(minute, 0, 59, false)?;
    part(second, 0, 59, true)
}

/// A part of a date or time: `*`, numbers, ranges and repetitions with commas between.
fn part(text: &str, least: u32, most: u32, fractions: bool) -> Option<()> {
    let number = |text: &str| -> Option<f64> {
        let digits = text.chars().all(|c| c.is_ascii_digit() || (fractions && c == '.'));
        let number: f64 =
            text.parse().ok().filter(|_| digits && !text.starts_with('.') && !text.ends_with('.'))?;
        Some(number)
    };
    let within = |value: f64| value >= f64::from(least) && value < f64::from(most) + 1.0;
    for element in text.split(',') {
        let (range, every) = match element.split_once('/') {
            Some((range, every)) => (range, Some(every)),
            None => (element, None),
        };
        if every.is_some_and(|every| number(every).is_none_or(|every| every <= 0.0)) {
            return None;
        }
        match range.split_once("..") {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                (within(first) && within(last) && first <= last).then_some(())?;
            }
            None if range == "*" => {}
            None => within(number(range)?).then_some(())?,
        }
    }
    Some(())
}

/// Entries of an access control list, as `setfacl -m` takes them (setfacl(1)): `u:daemon:rx`, `d:g:staff:rwx`.
pub(crate) fn acl(text: &str) -> Outcome {
    for entry in text.split(',') {
        acl_entry(entry.trim()).ok_or_else(|| Fault {
            message: format!("`{entry}` is not an entry of an access control list"),
            help: Some(
                "write `u:USER:rwx`, `g:GROUP:rx`, `m::rx` or `o::r`, with `d:` before it for a default"
                    .to_owned(),
            ),
        })?;
    }
    Ok(())
}

fn acl_entry(entry: &str) -> Option<()> {
    let mut parts: Vec<&str> = entry.split(':').map(str::trim).collect();
    if parts.len() > 1 && matches!(parts[0], "d" | "default") {
        parts.remove(0);
    }
    let named = |name: &str| (name.is_empty() || account(name).is_ok()).then_some(());
    match parts.as_slice() {
        ["u" | "user" | "g" | "group", name, permissions] => named(name).and(permitted(permissions)),
        ["m" | "mask" | "o" | "other", "", permissions] | ["m" | "mask" | "o" | "other", permissions] => {
            permitted(permissions)
        }
        [name, permissions] if !matches!(*name, "u" | "user" | "g" | "group") && !name.is_empty() => {
            named(name).and(permitted(permissions))
        }
        _ => None,
    }
}

/// Permissions of an entry: letters, or one octal digit.
fn permitted(text: &str) -> Option<()> {
    let letters = !text.is_empty() && text.chars().all(|c| "rwxX-".contains(c)) && text.len() <= 4;
    let digit = text.len() == 1 && text.chars().all(|c| ('0'..='7').contains(&c));
    (letters || digit).then_some(())
}

/// The capabilities of Linux, linux/capability.h.
const CAPABILITIES: [&str; 41] = [
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];

/// Capabilities as `setcap` takes them (cap_from_text(3)): `cap_net_bind_service=ep`, clauses with blanks between.
pub(crate) fn capabilities(text: &str) -> Outcome {
    let wrong = || Fault {
        message: format!("`{text}` is no text of capabilities"),
        help: Some(
            "write names, then `=`, `+` or `-` and some of `e`, `i` and `p`: `cap_net_bind_service=ep`"
                .to_owned(),
        ),
    };
    let mut clauses = text.split_whitespace().peekable();
    clauses.peek().ok_or_else(wrong)?;
    for clause in clauses {
        let start = clause.find(['=', '+', '-']).ok_or_else(wrong)?;
        let (names, actions) = clause.split_at(start);
        if names.is_empty() && !actions.starts_with('=') {
            return Err(wrong());
        }
        for name in names.split(',').filter(|_| !names.is_empty()) {
            let lower = name.to_lowercase();
            if lower != "all" && !CAPABILITIES.contains(&lower.as_str()) {
                let help = did_you_mean(&lower, CAPABILITIES);
                return Err(Fault { message: format!("there is no capability `{name}`"), help });
            }
        }
        if !actions.chars().all(|c| "=+-eip".contains(c)) || actions.ends_with(['+', '-']) {
            return Err(wrong());
        }
    }
    Ok(())
}

/// A suite of a package source (sources.list(5)): `bookworm-updates`, `stable/updates`, or a path that ends in `/`.
pub(crate) fn suite(text: &str) -> Outcome {
    let fine = !text.is_empty()
        && text.len() <= 255
        && !text.starts_with(['-', '+', '~'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/+~$()".contains(c));
    if fine { Ok(()) } else { Err(fault(format!("`{text}` is not a suite such as `bookworm`"))) }
}

/// A component or architecture of a package source.
pub(crate) fn word(text: &str) -> Outcome {
    let fine = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/+".contains(c));
    if fine { Ok(()) } else { Err(fault(format!("`{text}` is not a word such as `main`"))) }
}

/// The address of a package source: a scheme, then anything without blanks.
pub(crate) fn source(text: &str) -> Outcome {
    let scheme = text.split_once(':').map(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && !rest.is_empty()
    });
    if scheme == Some(true) && !text.contains(char::is_whitespace) {
        return Ok(());
    }
    Err(fault(format!("`{text}` is not an address such as `https://deb.debian.org/debian`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(is: fn(&str) -> Outcome, fine: &[&str], wrong: &[&str]) {
        for text in fine {
            assert_eq!(is(text), Ok(()), "{text:?}");
        }
        for text in wrong {
            assert!(is(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn accounts() {
        check(
            account,
            &["root", "www-data", "Debian-exim", "_apt", "a.b", "0", "1000", "host$"],
            &["", "a b", "-a", "root:root", "4294967295", "99999999999", &"a".repeat(33), "ä", "a/b"],
        );
    }

    #[test]
    fn units() {
        let name = |text: &str| unit(text).ok();
        assert_eq!(name("a").as_deref(), Some("a.service"));
        assert_eq!(name("a@b.timer").as_deref(), Some("a@b.timer"));
        assert_eq!(name("org.freedesktop.login1").as_deref(), Some("org.freedesktop.login1.service"));
        assert_eq!(name("srv-my\\x2ddata.mount").as_deref(), Some("srv-my\\x2ddata.mount"));
        for wrong in ["", ".service", "@a.service", "a b", "/srv", "a.servce", "a.timers", &"a".repeat(250)] {
            assert!(unit(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Each of these was shown to `systemd-analyze calendar` and `systemd-analyze timespan` of systemd 252.
    #[test]
    fn times() {
        check(
            calendar,
            &[
                "daily",
                "Daily",
                "weekly",
                "minutely",
                "quarterly",
                "semiannually",
                "Mon",
                "Mon..Fri",
                "Mon,Wed..Fri 4:00",
                "Monday 12:30",
                "*-*-* 04:00",
                "*-*-01 02:30:00",
                "2026-01-01",
                "01-01",
                "*-02~03",
                "*:0/15",
                "*:*:0/30",
                "Sat,Sun 10:00 UTC",
                "Mon *-*-* 02:30 Europe/Berlin",
                "00:00:00.5",
                "*-*-1..7 18:00",
                "daily UTC",
                "*-1,4,7,10-1 00:00:00",
                "8..18/2:00",
                "@1700000000",
                "Sun 2026-*-1 1:2:3",
                "hourly Europe/Berlin",
                "mon..fri,sun 12:00 utc",
                "Mon-Fri",
                "Mon, 4:00",
            ],
            &[
                "",
                "dayly",
                "every day",
                "Mon..Funday",
                "Fri..Mon",
                "Mon,,Tue",
                "25:00",
                "12:60",
                "12:00:61",
                "13-32",
                "*-13-01",
                "*-*-32",
                "4",
                "Mon Tue",
                "04:00 *-*-*",
                "*-*-* 4",
                "12:00 Nowhere",
                "1:2:3:4",
                "*/0:00",
                "* * * * *",
                "0 4 * * *",
                "18..8:00",
                "daily daily",
            ],
        );
        check(
            time_span,
            &["5min", "1h 30min", "1h30m", "90", "1.5h", "infinity", "2 days", "1M", "10 s", "500ms", ".5h"],
            &["", "five", "5 minuts", "-5s", "5:00", "s", "1h x", "1.", "1ns", "infinity 1s"],
        );
    }

    #[test]
    fn permissions() {
        check(
            acl,
            &[
                "u:daemon:rx",
                "user::rwx",
                "d:g:staff:rwX",
                "default:group:1000:7",
                "m::rx",
                "o:r",
                "daemon:r-x",
                "u:a:r,g:b:w",
            ],
            &[
                "",
                "u:daemon",
                "daemon",
                "u:a b:r",
                "x:daemon:rx",
                "u:daemon:rz",
                "u:daemon:8",
                "u:daemon:",
                "u::rwx:x",
            ],
        );
        check(
            capabilities,
            &[
                "cap_net_bind_service=ep",
                "cap_net_bind_service,cap_net_raw+eip",
                "CAP_CHOWN=p cap_kill+ep",
                "=ep",
                "all=",
                "cap_chown=+ep",
                "cap_chown=e-p+i",
            ],
            &[
                "",
                "cap_net_bind_service",
                "cap_net_bind=ep",
                "cap_chown=x",
                "+ep",
                "cap_chown+",
                "cap_chown, cap_kill=ep",
            ],
        );
        assert_eq!(
            capabilities("cap_net_bind_servce=ep").unwrap_err().help.as_deref(),
            Some("did you mean `cap_net_bind_service`?")
        );
    }

    #[test]
    fn package_sources() {
        check(
            suite,
            &["bookworm", "bookworm-updates", "stable/updates", "./", "/", "$(ARCH)/"],
            &["", "book worm", "-x", "a,b"],
        );
        check(
            word,
            &["main", "non-free-firmware", "amd64", "updates/main"],
            &["", "main contrib", "-x", "a,b"],
        );
        check(
            source,
            &["https://deb.debian.org/debian", "file:/srv/mirror", "mirror+https://a/b"],
            &["", "deb.debian.org/debian", "https://a b", "https:", "1ttp://a"],
        );
    }
}
