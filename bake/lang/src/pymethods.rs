//! The methods of Python's text, lists and dictionaries that templates written for Jinja use most.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Calls a method that minijinja itself does not have.
pub(crate) fn call(
    _: &mut State<'_, '_>,
    this: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match this.kind() {
        ValueKind::String => on_text(this.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => on_map(this, method, args),
        _ => Err(unknown(method)),
    }
}

fn unknown(method: &str) -> Error {
    Error::new(ErrorKind::UnknownMethod, format!("there is no method `{method}`"))
}

fn text_argument<'a>(args: &'a [Value], index: usize, method: &str) -> Result<Option<&'a str>, Error> {
    match args.get(index) {
        None => Ok(None),
        Some(value) => value
            .as_str()
            .map(Some)
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("`{method}` takes text"))),
    }
}

fn on_text(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let first = text_argument(args, 0, method)?;
    let cut = |trim: fn(&str) -> &str, by: fn(&str, &[char]) -> String| match first {
        None => trim(text).to_owned(),
        Some(characters) => by(text, &characters.chars().collect::<Vec<_>>()),
    };
    Ok(match (method, first) {
        ("upper", None) => Value::from(text.to_uppercase()),
        ("lower", None) => Value::from(text.to_lowercase()),
        ("strip", _) => Value::from(cut(str::trim, |text, set| text.trim_matches(set).to_owned())),
        ("lstrip", _) => {
            Value::from(cut(str::trim_start, |text, set| text.trim_start_matches(set).to_owned()))
        }
        ("rstrip", _) => Value::from(cut(str::trim_end, |text, set| text.trim_end_matches(set).to_owned())),
        ("startswith", Some(prefix)) => Value::from(text.starts_with(prefix)),
        ("endswith", Some(suffix)) => Value::from(text.ends_with(suffix)),
        ("split", None) => text.split_whitespace().map(Value::from).collect(),
        ("split", Some(separator)) if !separator.is_empty() => {
            text.split(separator).map(Value::from).collect()
        }
        ("splitlines", None) => text.lines().map(Value::from).collect(),
        ("replace", Some(from)) => {
            let to = text_argument(args, 1, method)?.unwrap_or_default();
            Value::from(text.replace(from, to))
        }
        ("join", _) if args.len() == 1 => {
            let parts: Vec<String> = args[0].try_iter()?.map(|part| part.to_string()).collect();
            Value::from(parts.join(text))
        }
        _ => return Err(unknown(method)),
    })
}

fn on_map(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let entries = || -> Result<Vec<(Value, Value)>, Error> {
        map.try_iter()?.map(|key| Ok((key.clone(), map.get_item(&key)?))).collect()
    };
    Ok(match (method, args) {
        ("items", []) => entries()?.into_iter().map(|(key, value)| Value::from(vec![key, value])).collect(),
        ("keys", []) => entries()?.into_iter().map(|(key, _)| key).collect(),
        ("values", []) => entries()?.into_iter().map(|(_, value)| value).collect(),
        ("get", [key, rest @ ..]) => {
            let found = map.get_item(key).ok().filter(|value| !value.is_undefined());
            found.or_else(|| rest.first().cloned()).unwrap_or(Value::from(()))
        }
        _ => return Err(unknown(method)),
    })
}
