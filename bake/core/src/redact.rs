//! Takes secret values out of text. Main type: [`Redactor`].
//!
//! A value is recognised as it is, in base64 at every alignment and in both alphabets, in hexadecimal digits,
//! URL-encoded, and escaped for JSON and for a shell. Of a value of several lines each longer line is recognised
//! too, because output travels line by line.

use std::borrow::Cow;

/// Stands in for a secret.
pub const MASK: &str = "***";
/// Shorter texts would mask ordinary words.
const SHORTEST: usize = 4;
/// Fewer characters of base64 or digits occur anywhere; so short a value is found in its other forms.
const SHORTEST_ENCODED: usize = 8;

/// How a value is written somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// What to call it: `plain`, `base64`, …
    pub name: &'static str,
    /// The text.
    pub text: String,
}

/// Takes a set of values out of text.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that no form hides a longer one.
    texts: Vec<String>,
}

/// Says how many texts it knows, and none of them.
impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("texts", &self.texts.len()).finish()
    }
}

impl Redactor {
    /// A redactor for some values.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for value in values {
            texts.extend(forms(value).into_iter().map(|form| form.text));
            if value.contains('\n') {
                let lines = value.lines().map(str::trim).filter(|line| line.len() >= 2 * SHORTEST);
                texts.extend(lines.map(str::to_owned));
            }
        }
        texts.retain(|text| text.len() >= SHORTEST);
        texts.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        texts.dedup();
        Self { texts }
    }

    /// The text with a mask for each value in it.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut masked = Cow::Borrowed(text);
        for secret in &self.texts {
            if masked.contains(secret.as_str()) {
                masked = Cow::Owned(masked.replace(secret.as_str(), MASK));
            }
        }
        masked
    }

    /// Whether there is nothing to take out.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

/// The texts that a value may appear as. Base64 is without the characters that depend on what stands around the
/// value.
pub fn forms(value: &str) -> Vec<Form> {
    let mut found: Vec<Form> = Vec::new();
    let mut add = |name: &'static str, text: String| {
        if !text.is_empty() && found.iter().all(|form| form.text != text) {
            found.push(Form { name, text });
        }
    };
    add("plain", value.to_owned());
    for alignment in 0..3 {
        let standard = base64_core(value.as_bytes(), alignment);
        if standard.len() >= SHORTEST_ENCODED {
            add("base64", standard.replace('+', "-").replace('/', "_"));
            add("base64", standard);
        }
    }
    let hexadecimal: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    if hexadecimal.len() >= SHORTEST_ENCODED {
        add("hexadecimal", hexadecimal.to_ascii_uppercase());
        add("hexadecimal", hexadecimal);
    }
    let url = url_encoded(value);
    add("URL-encoded", url.replace("%20", "+"));
    add("URL-encoded", lower_escapes(&url));
    add("URL-encoded", url);
    let json = serde_json::Value::String(value.to_owned()).to_string();
    add("JSON-escaped", json[1..json.len() - 1].to_owned());
    add("shell-escaped", value.replace('\'', "'\\''"));
    add("shell-escaped", with_backslashes(value));
    found
}

/// The base64 of a value that starts `alignment` bytes into a group of three, without the characters that
/// neighbouring bytes take part in.
fn base64_core(value: &[u8], alignment: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = vec![0; alignment];
    bytes.extend_from_slice(value);
    let first = (alignment * 8).div_ceil(6);
    let last = bytes.len() * 8 / 6;
    let sextet = |character: usize| {
        let bit = character * 6;
        let pair = u16::from_be_bytes([bytes[bit / 8], bytes.get(bit / 8 + 1).copied().unwrap_or(0)]);
        usize::from((pair >> (10 - bit % 8)) & 63)
    };
    (first..last).map(|character| char::from(ALPHABET[sextet(character)])).collect()
}

fn url_encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// `%2F` as `%2f`: both are written.
fn lower_escapes(text: &str) -> String {
    let mut left = 0;
    let lower = |c: char| {
        left = if c == '%' { 3 } else { left };
        let escaped = left > 0;
        left = if escaped { left - 1 } else { 0 };
        if escaped { c.to_ascii_lowercase() } else { c }
    };
    text.chars().map(lower).collect()
}

/// As `printf %q` writes it.
fn with_backslashes(value: &str) -> String {
    let mut text = String::new();
    for character in value.chars() {
        if !character.is_alphanumeric() && !"-_./:=@%+,".contains(character) {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_found_at_every_alignment() {
        // From RFC 4648: foobar is Zm9vYmFy. xfoobar is eGZvb2Jhcg==, xyfoobar is eHlmb29iYXI=.
        assert_eq!(base64_core(b"foobar", 0), "Zm9vYmFy");
        assert!("eGZvb2Jhcg==".contains(&base64_core(b"foobar", 1)));
        assert!("eHlmb29iYXI=".contains(&base64_core(b"foobar", 2)));
    }

    #[test]
    fn every_form_is_masked() {
        let redactor = Redactor::new(["p\"a'ss /w&rd"]);
        for text in [
            "p\"a'ss /w&rd",
            "p\\\"a'ss /w&rd",
            "p%22a%27ss%20%2Fw%26rd",
            "p%22a%27ss%20%2fw%26rd",
            "p%22a%27ss+%2Fw%26rd",
            "cCJhJ3NzIC93JnJk",
            "702261277373202f77267264",
            "p\"a'\\''ss /w&rd",
            "p\\\"a\\'ss\\ /w\\&rd",
        ] {
            assert_eq!(redactor.mask(&format!("x {text} y")), "x *** y", "{text}");
        }
        assert_eq!(redactor.mask("nothing here"), "nothing here");
    }

    #[test]
    fn lines_of_a_long_value_are_masked() {
        let redactor = Redactor::new(["-----BEGIN X-----\nabcdefghijkl\nshort\n"]);
        assert_eq!(redactor.mask("got abcdefghijkl, short"), "got ***, short");
    }

    #[test]
    fn the_longer_of_two_values_is_masked_whole() {
        let redactor = Redactor::new(["hunter", "hunter22"]);
        assert_eq!(redactor.mask("hunter22 hunter"), "*** ***");
    }

    #[test]
    fn short_values_and_debug_give_nothing_away() {
        assert!(Redactor::new(["abc", ""]).is_empty());
        assert!(!format!("{:?}", Redactor::new(["hunter22"])).contains("hunter"));
    }
}
