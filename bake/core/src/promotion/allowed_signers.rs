//! Who may approve: the `allowed_signers` file of `ssh-keygen(1)`. Main type: [`AllowedSigners`].
//!
//! A line is `PRINCIPALS [OPTIONS] KEYTYPE BASE64 [COMMENT]`, the options `namespaces="…"`, `valid-after="…"` and
//! `valid-before="…"`. Times are read in UTC whether they end in `Z` or not: what counts must not depend on where
//! olbake runs. Certificates (`cert-authority`) are not known here and refused, as are unknown options.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::span::Span;
use crate::time::Timestamp;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedSigner {
    /// Whose key it is.
    pub principals: Vec<String>,
    /// What it may sign, as patterns; none: anything.
    pub namespaces: Option<Vec<String>>,
    /// It counts from then on.
    pub valid_after: Option<Timestamp>,
    /// It counts until then.
    pub valid_before: Option<Timestamp>,
    /// The key: `ssh-ed25519 AAAA…`.
    pub key: String,
    /// The number of the line, from 1 on.
    pub line: u32,
}

/// The signers of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSigners {
    /// In the order of the file.
    pub signers: Vec<AllowedSigner>,
}

/// Why a key's signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file has no such key.
    #[error("which is not in allowed_signers")]
    Unknown,
    /// It may sign other things only.
    #[error("which may not sign in the namespace `{0}`")]
    Namespace(String),
    /// Its time has not begun.
    #[error("which is valid only from {0} on")]
    NotYet(Timestamp),
    /// Its time is over.
    #[error("which was valid until {0}")]
    Expired(Timestamp),
}

impl AllowedSigners {
    /// Reads the text of a file; `file` is its name for diagnostics. All mistakes come together.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let (mut signers, mut problems) = (Vec::new(), Diagnostics::default());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match signer(line, number) {
                Ok(signer) => signers.push(signer),
                Err(problem) => {
                    problems.push(Diagnostic::error("allowed_signers", problem).at(span(file, number, line)));
                }
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(Self { signers }) }
    }

    /// Whose key this is, if a signature by it counts in this namespace at this time.
    pub fn principals(&self, key: &str, namespace: &str, now: Timestamp) -> Result<Vec<String>, Refusal> {
        let mut refusal = Refusal::Unknown;
        let mut principals: Vec<String> = Vec::new();
        for signer in self.signers.iter().filter(|signer| signer.key == key) {
            match signer.allows(namespace, now) {
                Ok(()) => principals.extend_from_slice(&signer.principals),
                Err(why) if refusal == Refusal::Unknown => refusal = why,
                Err(_) => {}
            }
        }
        if principals.is_empty() { Err(refusal) } else { Ok(principals) }
    }
}

impl AllowedSigner {
    fn allows(&self, namespace: &str, now: Timestamp) -> Result<(), Refusal> {
        if let Some(patterns) = &self.namespaces
            && !matches_list(patterns, namespace)
        {
            return Err(Refusal::Namespace(namespace.to_owned()));
        }
        match (self.valid_after, self.valid_before) {
            (Some(after), _) if now < after => Err(Refusal::NotYet(after)),
            (_, Some(before)) if now > before => Err(Refusal::Expired(before)),
            _ => Ok(()),
        }
    }
}

fn span(file: &str, line: u32, text: &str) -> Span {
    let end_column = u32::try_from(text.chars().count() + 1).unwrap_or(u32::MAX);
    Span { file: file.to_owned(), line, column: 1, end_line: line, end_column }
}

fn signer(line: &str, number: u32) -> Result<AllowedSigner, String> {
    let (names, rest) = word(line)?;
    let principals: Vec<String> =
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if principals.is_empty() {
        return Err("expected names, and then a key".to_owned());
    }
    let mut signer = AllowedSigner {
        principals,
        namespaces: None,
        valid_after: None,
        valid_before: None,
        key: String::new(),
        line: number,
    };
    let (first, after) = word(rest)?;
    let (kind, after) = if is_key_type(first) {
        (first, after)
    } else {
        options(&mut signer, first)?;
        word(after)?
    };
    let (key, _comment) = word(after)?;
    let plausible = !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    if !is_key_type(kind) || !plausible {
        return Err(format!("expected a key such as `ssh-ed25519 AAAA…` after the names, found `{kind}`"));
    }
    signer.key = format!("{kind} {key}");
    Ok(signer)
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start)) && !word.contains('=')
}

/// The text up to white space that is not in quotes, and what follows it.
fn word(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let end = text.find(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    });
    if quoted && end.is_none() {
        return Err("a quote is not closed".to_owned());
    }
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    let word = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap_or(word);
    Ok((word, rest.trim_start()))
}

fn options(signer: &mut AllowedSigner, text: &str) -> Result<(), String> {
    let mut rest = text;
    while !rest.is_empty() {
        let mut quoted = false;
        let end = rest.find(|c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        let (option, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.strip_prefix(',').unwrap_or(after);
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        match name.to_ascii_lowercase().as_str() {
            "namespaces" => signer.namespaces = Some(value.split(',').map(str::to_owned).collect()),
            "valid-after" => signer.valid_after = Some(time(name, value)?),
            "valid-before" => signer.valid_before = Some(time(name, value)?),
            "cert-authority" => return Err("certificates are not known here: list the keys".to_owned()),
            _ => return Err(format!("unknown option `{name}`")),
        }
    }
    Ok(())
}

/// `YYYYMMDD[HHMM[SS]][Z]`.
fn time(option: &str, text: &str) -> Result<Timestamp, String> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let part = |range| digits.get(range).map_or(Some(0), |part: &str| part.parse().ok());
    let read = || {
        let known = [8, 12, 14].contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let date = [part(0..4)?, part(4..6)?, part(6..8)?];
        if known { Timestamp::from_civil(date, [part(8..10)?, part(10..12)?, part(12..14)?]) } else { None }
    };
    read().ok_or_else(|| format!("expected `{option}=\"YYYYMMDD[HHMM[SS]]Z\"`, found `{text}`"))
}

/// Whether a list of patterns lets a text through: one matches, and none behind a `!` does.
fn matches_list(patterns: &[String], text: &str) -> bool {
    let matching = |pattern: &str| matches(pattern.as_bytes(), text.as_bytes());
    let forbidden = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(matching);
    !forbidden && patterns.iter().any(|pattern| !pattern.starts_with('!') && matching(pattern))
}

/// `*` is any text, `?` any character.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((first, others)) = pattern.split_first() else { return text.is_empty() };
    match (first, text.split_first()) {
        (b'*', Some((_, rest))) => matches(others, text) || matches(pattern, rest),
        (b'*', None) => matches(others, text),
        (b'?', Some((_, rest))) => matches(others, rest),
        (first, Some((found, rest))) => first == found && matches(others, rest),
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3Nz+/=";

    fn parse(text: &str) -> Result<AllowedSigners, String> {
        AllowedSigners::parse("allowed_signers", text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn lines_are_read_with_their_options() {
        let text = format!(
            "# who may approve\n\nann@example.com,ann {KEY} her laptop\n\
             bob namespaces=\"olbake-*,git\",valid-after=\"20260101\",valid-before=\"202612312359Z\" {KEY}\n"
        );
        let signers = parse(&text).unwrap().signers;
        assert_eq!(signers.len(), 2);
        assert_eq!((signers[0].principals.join("+"), signers[0].line), ("ann@example.com+ann".to_owned(), 3));
        assert_eq!((signers[0].key.as_str(), &signers[0].namespaces), (KEY, &None));
        assert_eq!(signers[1].namespaces, Some(vec!["olbake-*".to_owned(), "git".to_owned()]));
        assert_eq!(signers[1].valid_after.unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(signers[1].valid_before.unwrap().to_string(), "2026-12-31T23:59:00Z");
    }

    #[test]
    fn a_key_counts_in_its_namespace_and_time() {
        let text =
            format!("bob namespaces=\"olbake-*\",valid-after=\"20260101\",valid-before=\"20270101\" {KEY}");
        let check = |namespace: &str, now: &str, expect: Result<&str, &str>| {
            let found = parse(&text).unwrap().principals(KEY, namespace, now.parse().unwrap());
            let found = found.map(|names| names.join("+")).map_err(|refusal| refusal.to_string());
            assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned));
        };
        check("olbake-approval", "2026-06-01T00:00:00Z", Ok("bob"));
        check("git", "2026-06-01T00:00:00Z", Err("which may not sign in the namespace `git`"));
        let early = "which is valid only from 2026-01-01T00:00:00Z on";
        check("olbake-approval", "2025-12-31T23:59:59Z", Err(early));
        check("olbake-approval", "2027-01-01T00:00:01Z", Err("which was valid until 2027-01-01T00:00:00Z"));
        let other = parse(&text).unwrap().principals("ssh-rsa AAAA", "olbake-approval", Timestamp::default());
        assert_eq!(other.unwrap_err().to_string(), "which is not in allowed_signers");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        let text = format!(
            "ann\nann ssh-ed25519\n\nann cert-authority {KEY}\nann colour=\"red\" {KEY}\n\
             ann valid-after=\"2026\" {KEY}\nann namespaces=\"x {KEY}\nann valid-before=\"20260230\" {KEY}\n"
        );
        let expect = [
            "allowed_signers:1:1: expected a key such as `ssh-ed25519 AAAA…` after the names, found ``",
            "allowed_signers:2:1: expected a key such as `ssh-ed25519 AAAA…` after the names, found `ssh-ed25519`",
            "allowed_signers:4:1: certificates are not known here: list the keys",
            "allowed_signers:5:1: unknown option `colour`",
            "allowed_signers:6:1: expected `valid-after=\"YYYYMMDD[HHMM[SS]]Z\"`, found `2026`",
            "allowed_signers:7:1: a quote is not closed",
            "allowed_signers:8:1: expected `valid-before=\"YYYYMMDD[HHMM[SS]]Z\"`, found `20260230`",
        ];
        assert_eq!(parse(&text).unwrap_err().lines().collect::<Vec<_>>(), expect);
    }

    #[test]
    fn patterns_match_as_in_ssh() {
        let check = |patterns: &str, text: &str, expect: bool| {
            let patterns: Vec<String> = patterns.split(',').map(str::to_owned).collect();
            assert_eq!(matches_list(&patterns, text), expect, "{patterns:?} {text}");
        };
        check("olbake-approval", "olbake-approval", true);
        check("git,olbake-*", "olbake-approval", true);
        check("olbake-?pproval", "olbake-approval", true);
        check("*,!olbake-*", "olbake-approval", false);
        check("!git", "olbake-approval", false);
        check("", "olbake-approval", false);
    }
}
