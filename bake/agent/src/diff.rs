//! Differences between contents: whether there is one, and how to show it.

use std::fs::File;
use std::io::{BufReader, Read};

use olbake_core::report::Change;
use sha2::{Digest as _, Sha256};

use crate::error::{At, Result};
use crate::world::Source;

/// Larger contents are shown by digest.
const LARGEST_SHOWN: u64 = 64 * 1024;
/// Lines of one side that are shown.
const LINES_SHOWN: usize = 40;

/// Whether two contents have the same bytes.
pub(crate) fn same(a: &Source, b: &Source) -> Result<bool> {
    if *a == Source::Unknown || *b == Source::Unknown || a.size()? != b.size()? {
        return Ok(false);
    }
    same_bytes(&mut *reader(a)?, &mut *reader(b)?)
}

/// Whether a stream has the bytes of a content.
pub(crate) fn same_as_stream(content: &Source, stream: &mut dyn Read) -> Result<bool> {
    Ok(*content != Source::Unknown && same_bytes(&mut *reader(content)?, stream)?)
}

fn same_bytes(a: &mut dyn Read, b: &mut dyn Read) -> Result<bool> {
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let (n, m) = (fill(a, &mut left)?, fill(b, &mut right)?);
        if n != m || left[..n] != right[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

fn reader(source: &Source) -> Result<Box<dyn Read>> {
    Ok(match source {
        Source::File(path) => Box::new(BufReader::new(File::open(path).at("open", path)?)),
        Source::Bytes(bytes) => Box::new(std::io::Cursor::new(bytes.to_vec())),
        Source::Unknown => Box::new(std::io::empty()),
    })
}

/// Reads until the buffer is full or the stream ends.
pub(crate) fn fill(stream: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at("read", camino::Utf8Path::new("a content")),
        }
    }
    Ok(filled)
}

/// The change from one content to another. `label` names the new content where it must not be shown: it has
/// secrets in it.
pub(crate) fn change(old: Option<&Source>, new: &Source, label: Option<&str>) -> Result<Change> {
    let what = "content".to_owned();
    if let Some(label) = label {
        let from = old.map(|_| "other content, not shown because there are secrets in it".to_owned());
        return Ok(Change { what, from, to: Some(label.to_owned()) });
    }
    let old_text = old.map(shown).transpose()?.flatten();
    match (old, old_text, shown(new)?) {
        (None, _, Some(new)) => {
            Ok(Change { what, from: None, to: Some(lines('+', &new.lines().collect::<Vec<_>>())) })
        }
        (Some(_), Some(old), Some(new)) => {
            let (removed, added) = differing(&old, &new);
            Ok(Change { what, from: Some(lines('-', &removed)), to: Some(lines('+', &added)) })
        }
        (old, _, _) => Ok(Change { what, from: old.map(named).transpose()?, to: Some(named(new)?) }),
    }
}

/// The text of a content that can be shown.
fn shown(source: &Source) -> Result<Option<String>> {
    if *source == Source::Unknown || source.size()? > LARGEST_SHOWN {
        return Ok(None);
    }
    let text = String::from_utf8(source.read()?).ok();
    Ok(text.filter(|text| text.chars().all(|c| !c.is_control() || "\n\t\r".contains(c))))
}

/// A content by its digest.
pub(crate) fn named(source: &Source) -> Result<String> {
    if *source == Source::Unknown {
        return Ok("made on the machine".to_owned());
    }
    let (mut stream, mut hash, mut buffer) = (reader(source)?, Sha256::new(), vec![0; 64 * 1024]);
    let mut size = 0;
    loop {
        let count = fill(&mut stream, &mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        size += count;
    }
    let digest = olbake_core::Digest::from_bytes(hash.finalize().into());
    Ok(format!("{size} bytes, {digest}"))
}

/// The lines between the common beginning and the common end.
fn differing<'a>(old: &'a str, new: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - start;
    let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    (old[start..old.len() - end].to_vec(), new[start..new.len() - end].to_vec())
}

fn lines(sign: char, lines: &[&str]) -> String {
    let mut text: Vec<String> = lines.iter().take(LINES_SHOWN).map(|line| format!("{sign}{line}")).collect();
    if lines.len() > LINES_SHOWN {
        text.push(format!("… {} more lines", lines.len() - LINES_SHOWN));
    }
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: Option<&str>, new: &str, from: Option<&str>, to: &str) {
        let old = old.map(Source::text);
        let change = change(old.as_ref(), &Source::text(new), None).unwrap();
        assert_eq!((change.from.as_deref(), change.to.as_deref()), (from, Some(to)));
    }

    #[test]
    fn only_what_differs_is_shown() {
        check(Some("a\nb\nc\n"), "a\nB\nc\n", Some("-b"), "+B");
        check(Some("a\n"), "a\nb\n", Some(""), "+b");
        check(None, "a\nb\n", None, "+a\n+b");
        let digest = "4 bytes, sha256:1a9c9a0d9f7c9e2d";
        let change = change(None, &Source::Bytes(vec![0, 1, 2, 255].into()), None).unwrap();
        assert_eq!(change.to.unwrap().split_once(',').unwrap().0, digest.split_once(',').unwrap().0);
    }

    #[test]
    fn contents_with_secrets_are_never_shown() {
        let old = Source::text("password=old");
        let change = change(Some(&old), &Source::text("password=new"), Some("sha256:00")).unwrap();
        assert_eq!(change.to.as_deref(), Some("sha256:00"));
        assert!(!format!("{change:?}").contains("password"));
    }

    #[test]
    fn sameness_is_of_bytes() {
        assert!(same(&Source::text("abc"), &Source::text("abc")).unwrap());
        assert!(!same(&Source::text("abc"), &Source::text("abd")).unwrap());
        assert!(!same(&Source::Unknown, &Source::Unknown).unwrap());
    }
}
