//! "Did you mean": the nearest known name to a misspelt one.

/// The known name nearest to `name`, if one is near enough to be what was meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(name);
    let allowed = (folded.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The help text for an unknown name: the nearest known one, or all of them where they are few.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(candidate) = nearest(name, known.clone()) {
        return Some(format!("did you mean `{candidate}`?"));
    }
    let all: Vec<&str> = known.into_iter().take(25).collect();
    (!all.is_empty() && all.len() < 25).then(|| format!("known names: {}", all.join(", ")))
}

fn fold(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_found() {
        let known = ["version", "domains", "upstream"];
        assert_eq!(nearest("verison", known), Some("version"));
        assert_eq!(nearest("Domain", known), Some("domains"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(did_you_mean("colour", known).as_deref(), Some("known names: version, domains, upstream"));
    }
}
