//! From what people write to a version: `web`, `web/large`, `web@1a2b3c`, `sha256:…`.

use olbake_core::settings::nearest;
use olbake_core::{Digest, ImageRef};

use super::records::{Records, digest_in};
use super::version::Version;
use super::{RegistryError, Result};
use crate::store::object::ObjectKey;

/// The fewest digits of a digest that are taken for its start.
const FEWEST_DIGITS: usize = 4;

/// What a text asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Newest(ImageRef),
    Start { image: Option<ImageRef>, digits: String },
}

fn parse(text: &str) -> Option<Wanted> {
    let (image, digest) = match text.split_once('@') {
        Some((image, digest)) => (Some(image.parse().ok()?), digest),
        None if text.starts_with("sha256:") => (None, text),
        None => return text.parse().ok().map(Wanted::Newest),
    };
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest).to_ascii_lowercase();
    let plausible =
        (FEWEST_DIGITS..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plausible.then_some(Wanted::Start { image, digits })
}

impl Records {
    /// The version that a text means: `web` and `web/large` their newest; `web@DIGEST` and `sha256:DIGEST` that one,
    /// where a digest may be shortened to what is unique, at least four digits.
    pub fn resolve(&self, text: &str) -> Result<Version> {
        match parse(text).ok_or_else(|| RegistryError::BadReference { text: text.to_owned() })? {
            Wanted::Newest(image) => match self.head(&image)? {
                Some(version) => Ok(version),
                None => Err(self.unknown_image(&image)?),
            },
            Wanted::Start { image, digits } => self.by_start(text, image.as_ref(), &digits),
        }
    }

    fn by_start(&self, text: &str, image: Option<&ImageRef>, digits: &str) -> Result<Version> {
        let keys = self.version_keys(image.map(|image| &image.image))?;
        if let (Some(image), true) = (image, keys.is_empty()) {
            return Err(self.unknown_image(image)?);
        }
        let below = image.and_then(|image| Some(format!("/{}/{}/", image.image, image.variant.as_ref()?)));
        let found: Vec<&ObjectKey> = keys
            .iter()
            .filter(|key| key.file_name().starts_with(digits))
            .filter(|key| below.as_ref().is_none_or(|below| key.as_str().contains(below)))
            .collect();
        let unknown = || RegistryError::UnknownVersion { reference: text.to_owned() };
        match found.as_slice() {
            [] => Err(unknown()),
            [one] => self.read_version(one)?.ok_or_else(unknown),
            several => Err(RegistryError::Ambiguous {
                reference: text.to_owned(),
                candidates: several.iter().filter_map(|key| as_written(key)).collect(),
            }),
        }
    }

    fn unknown_image(&self, image: &ImageRef) -> Result<RegistryError> {
        let known: Vec<String> = self.images()?.iter().map(ToString::to_string).collect();
        let name = image.to_string();
        let suggestion = nearest(&name, known.iter().map(String::as_str)).map(str::to_owned);
        Ok(RegistryError::UnknownImage { name, suggestion })
    }
}

/// A version's key as a reference: `web/large@1a2b3c4d5e6f`.
fn as_written(key: &ObjectKey) -> Option<String> {
    let digest: Digest = digest_in(key)?;
    let (image, variant) = key.as_str().strip_prefix("v1/versions/")?.split_once('/')?;
    let variant = variant.split('/').next().filter(|variant| *variant != "-");
    Some(match variant {
        Some(variant) => format!("{image}/{variant}@{}", digest.short()),
        None => format!("{image}@{}", digest.short()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_parsed() {
        let web = || "web".parse::<ImageRef>().unwrap();
        assert_eq!(parse("web"), Some(Wanted::Newest(web())));
        assert_eq!(parse("web/large"), Some(Wanted::Newest("web/large".parse().unwrap())));
        let start = |image, digits: &str| Some(Wanted::Start { image, digits: digits.into() });
        assert_eq!(parse("web@1A2b"), start(Some(web()), "1a2b"));
        assert_eq!(parse("web@sha256:1a2b"), start(Some(web()), "1a2b"));
        assert_eq!(parse("sha256:1a2b"), start(None, "1a2b"));
        for bad in ["", "web@", "web@12", "web@xyz1", "@1a2b", "sha256:", "Web", "web@1a2b@3c4d", "a/b/c"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
