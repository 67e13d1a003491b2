//! `s3://BUCKET/PREFIX?region=REGION`. Main type: [`S3Url`].

use std::fmt;
use std::str::FromStr;

use olbake_engine::store::object::ObjectKey;

/// Where objects are on S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Url {
    /// The bucket.
    pub bucket: String,
    /// What every name starts with; ends with `/` unless it is empty.
    pub prefix: String,
    /// The bucket's region, where it is not that of the environment.
    pub region: Option<String>,
}

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: write `s3://BUCKET/PREFIX`, with `?region=REGION` where the bucket is in another region")]
pub struct BadS3Url(String);

impl FromStr for S3Url {
    type Err = BadS3Url;

    fn from_str(text: &str) -> Result<Self, BadS3Url> {
        let rest =
            text.strip_prefix("s3://").ok_or_else(|| BadS3Url("it does not start with `s3://`".into()))?;
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let region = query.map(region).transpose()?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(allowed) {
            return Err(BadS3Url(format!("`{bucket}` is no bucket's name")));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() && prefix.parse::<ObjectKey>().is_err() {
            return Err(BadS3Url(format!("`{prefix}` is no prefix")));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: bucket.to_owned(), prefix, region })
    }
}

fn region(query: &str) -> Result<String, BadS3Url> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match query.strip_prefix("region=") {
        Some(region) if !region.is_empty() && region.chars().all(allowed) => Ok(region.to_owned()),
        _ => Err(BadS3Url(format!("`?{query}` is not known"))),
    }
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, prefix, region: _ } = self;
        write!(f, "s3://{bucket}/{prefix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_prefixes_and_regions_are_told_apart() {
        let url: S3Url = "s3://images/team/a/?region=eu-west-1".parse().unwrap();
        assert_eq!(url.to_string(), "s3://images/team/a/");
        assert_eq!((url.bucket.as_str(), url.region.as_deref()), ("images", Some("eu-west-1")));
        assert_eq!("s3://images".parse::<S3Url>().unwrap().to_string(), "s3://images/");
        for bad in ["s3:/x", "s3://", "s3://UP", "s3://images/a//b", "s3://images/../b", "s3://images?x=1"] {
            assert!(bad.parse::<S3Url>().is_err(), "{bad}");
        }
    }
}
