//! One spelling that the interpreter does not let other crates offer: `map[K, V]`.
//!
//! An index with two values is reserved for the interpreter's own types, so before parsing the comma in `map[K, V]` becomes
//! a colon, which makes it a slice, and [`crate::types::TypeExpr`] takes the slice. The text keeps its length: every
//! place in it stays where it was.

/// The text with the commas of `map[…, …]` (and of `dict[…, …]` where it is no annotation) as colons.
pub(crate) fn map_types(source: &str) -> String {
    if !source.contains("map[") && !source.contains("dict[") {
        return source.to_owned();
    }
    let bytes = source.as_bytes();
    let mut text = bytes.to_vec();
    let mut brackets: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'#' => {
                at = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| at + end)
            }
            quote @ (b'"' | b'\'') => {
                at = end_of_string(bytes, at, quote, is_raw(bytes, at));
                continue;
            }
            b'[' => brackets.push(opens_map(bytes, at)),
            b'(' | b'{' => brackets.push(false),
            b']' | b')' | b'}' => {
                brackets.pop();
            }
            b',' if brackets.last() == Some(&true) => text[at] = b':',
            _ => {}
        }
        at += 1;
    }
    // Only ASCII bytes were replaced by ASCII bytes.
    String::from_utf8(text).unwrap_or_else(|_| source.to_owned())
}

/// Whether the bracket at `at` belongs to `map[` or to a `dict[` that is an argument.
fn opens_map(bytes: &[u8], at: usize) -> bool {
    let start = bytes[..at].iter().rposition(|byte| !is_word(*byte)).map_or(0, |before| before + 1);
    match &bytes[start..at] {
        b"map" => true,
        b"dict" => {
            let before = bytes[..start].iter().rfind(|byte| !byte.is_ascii_whitespace());
            matches!(before, Some(b'(' | b'=' | b'|' | b','))
        }
        _ => false,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.'
}

fn is_raw(bytes: &[u8], quote: usize) -> bool {
    quote > 0 && matches!(bytes[quote - 1], b'r' | b'R')
}

/// The place after the string that starts at `start`.
fn end_of_string(bytes: &[u8], start: usize, quote: u8, raw: bool) -> usize {
    let triple = bytes[start..].starts_with(&[quote; 3]);
    let mut at = start + if triple { 3 } else { 1 };
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if !raw => at += 1,
            b'\n' if !triple => return at,
            byte if byte == quote && !triple => return at + 1,
            byte if byte == quote && bytes[at..].starts_with(&[quote; 3]) => return at + 3,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expect: &str) {
        assert_eq!(map_types(source), expect);
    }

    #[test]
    fn only_the_comma_of_a_map_type_changes() {
        check("setting(map[str, int])", "setting(map[str: int])");
        check(
            "setting(map[str, map[str, list[int]]] | None)",
            "setting(map[str: map[str: list[int]]] | None)",
        );
        check("x = dict[str, int]", "x = dict[str: int]");
        check("def f(x: dict[str, int]): pass", "def f(x: dict[str, int]): pass");
        check("\"map[a, b]\" # map[c, d]\nmap[a, b]", "\"map[a, b]\" # map[c, d]\nmap[a: b]");
        check("'''map[a, b]\n''' + r'\\' + map[f(a, b), c]", "'''map[a, b]\n''' + r'\\' + map[f(a, b): c]");
        check("remap[a, b]", "remap[a, b]");
    }
}
