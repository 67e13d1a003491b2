//! From what was written to a canonical value of a type, or everything that is wrong with it.

use serde_json::{Map, Value};

use super::suggest::did_you_mean;
use super::text;
use super::types::{RecordField, Type};

/// One thing that is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the value: empty at its top, else `[2]` or `.repository`.
    pub path: String,
    /// What is wrong, a lower-case fragment.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

type Outcome = Result<Value, Vec<Problem>>;

impl Type {
    /// The canonical form of a value that was written as a value.
    pub fn coerce(&self, value: &Value) -> Outcome {
        match (self, value) {
            (Self::Optional(_), Value::Null) => Ok(Value::Null),
            (Self::Optional(inner), value) => inner.coerce(value),
            (Self::Union(all), value) => self.first_that_fits(all, value, |ty| ty.coerce(value)),
            (Self::List(inner), Value::Array(items)) => elements(inner, items).map(Value::Array),
            (Self::Set(inner), Value::Array(items)) => elements(inner, items).map(sorted),
            (Self::Map(keys, values), Value::Object(entries)) => entries_of(keys, values, entries),
            (Self::Record(fields), Value::Object(entries)) => record(fields, entries),
            (Self::Enum(words), Value::String(word)) if words.contains(word) => Ok(value.clone()),
            (Self::Enum(words), Value::String(word)) => {
                let help = did_you_mean(word, words.iter().map(String::as_str));
                Err(vec![Problem { help, ..self.mismatch(value) }])
            }
            (Self::Bool, Value::Bool(_)) => Ok(value.clone()),
            (_, Value::Number(number)) => self.number(number, value),
            (_, Value::String(text)) => self.text(text).map_err(|expected| vec![problem(expected, value)]),
            _ => Err(vec![self.mismatch(value)]),
        }
    }

    /// The canonical form of a value that was written as text: in an environment variable, `.env` or `--set`.
    pub fn coerce_text(&self, written: &str) -> Outcome {
        let value = Value::String(written.to_owned());
        match self {
            Self::Optional(_) if matches!(written, "" | "none" | "None" | "null") => Ok(Value::Null),
            Self::Optional(inner) => inner.coerce_text(written),
            Self::Union(all) => self.first_that_fits(all, &value, |ty| ty.coerce_text(written)),
            Self::Bool => match written.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(Value::Bool(true)),
                "false" | "no" | "off" | "0" => Ok(Value::Bool(false)),
                _ => Err(vec![problem("`true` or `false`", &value)]),
            },
            Self::Int | Self::Port => match written.trim().parse::<i64>() {
                Ok(number) => self.coerce(&Value::from(number)),
                Err(_) => Err(vec![self.mismatch(&value)]),
            },
            Self::Float => match written.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Value::from(number)),
                _ => Err(vec![self.mismatch(&value)]),
            },
            Self::List(inner) | Self::Set(inner) => self.list_text(inner, written),
            Self::Map(..) | Self::Record(_) => match serde_json::from_str(written) {
                Ok(parsed @ Value::Object(_)) => self.coerce(&parsed),
                _ => Err(vec![Problem {
                    help: Some("write it as a JSON object".to_owned()),
                    ..self.mismatch(&value)
                }]),
            },
            _ => self.coerce(&value),
        }
    }

    /// A list as JSON or with commas.
    fn list_text(&self, inner: &Self, written: &str) -> Outcome {
        if written.trim_start().starts_with('[') {
            return match serde_json::from_str::<Value>(written) {
                Ok(parsed) => self.coerce(&parsed),
                Err(error) => Err(vec![Problem {
                    path: String::new(),
                    message: format!("expected a JSON list or values with commas between: {error}"),
                    help: None,
                }]),
            };
        }
        let parts = written.split(',').map(str::trim).filter(|part| !part.is_empty());
        let (mut items, mut problems) = (Vec::new(), Vec::new());
        for (index, part) in parts.enumerate() {
            match inner.coerce_text(part) {
                Ok(item) => items.push(item),
                Err(found) => problems.extend(inside(&format!("[{index}]"), found)),
            }
        }
        match (problems.is_empty(), self) {
            (false, _) => Err(problems),
            (true, Self::Set(_)) => Ok(sorted(items)),
            (true, _) => Ok(Value::Array(items)),
        }
    }

    fn first_that_fits(&self, all: &[Self], value: &Value, coerce: impl Fn(&Self) -> Outcome) -> Outcome {
        all.iter().find_map(|ty| coerce(ty).ok()).ok_or_else(|| vec![self.mismatch(value)])
    }

    fn number(&self, number: &serde_json::Number, value: &Value) -> Outcome {
        let fine = match self {
            Self::Int => number.as_i64().is_some(),
            Self::Port => number.as_i64().is_some_and(|port| (1..=65535).contains(&port)),
            Self::Mode => number.as_i64().is_some_and(|mode| (0..=0o7777).contains(&mode)),
            Self::Bytes => number.as_u64().is_some(),
            Self::Float => return Ok(Value::from(number.as_f64().unwrap_or_default())),
            _ => false,
        };
        let decimal = number.as_u64().and_then(|bits| text::decimal_mode(bits.try_into().ok()?));
        match decimal {
            Some(meant) if *self == Self::Mode => {
                Err(vec![Problem { help: Some(text::octal_help(meant)), ..self.mismatch(value) }])
            }
            _ if fine => Ok(value.clone()),
            _ => Err(vec![self.mismatch(value)]),
        }
    }

    fn text(&self, written: &str) -> Result<Value, text::Expected> {
        text::plain(written)?;
        match self {
            Self::Str | Self::Deferred | Self::Secret => Ok(()),
            Self::Path => text::path(written),
            Self::Url => text::url(written),
            Self::Version => text::version(written),
            Self::Hostname => text::hostname(written),
            Self::Ip => text::ip(written),
            Self::Cidr => text::cidr(written),
            Self::Mode => return text::mode(written).map(Value::from),
            Self::Bytes => return text::bytes(written).map(Value::from),
            Self::Duration => return text::duration(written).map(|ms| Value::from(text::duration_text(ms))),
            _ => Err(self.expected()),
        }?;
        Ok(Value::String(written.to_owned()))
    }

    fn expected(&self) -> text::Expected {
        match self {
            Self::Int => "a whole number",
            Self::Bool => "`True` or `False`",
            Self::Float => "a number",
            Self::Port => "a port from 1 to 65535",
            Self::List(_) | Self::Set(_) => "a list",
            Self::Map(..) => "a dictionary",
            Self::Record(_) => "a dictionary of the record's fields",
            Self::Mode => "permission bits such as `0o644`",
            Self::Bytes => "a number of bytes, such as `4GiB`",
            Self::Enum(_) => "one of the words",
            Self::Union(_) => "a value of one of the types",
            _ => "text",
        }
    }

    fn mismatch(&self, value: &Value) -> Problem {
        let expected = match self {
            Self::Enum(_) | Self::Union(_) => format!("`{self}`"),
            _ => self.expected().to_owned(),
        };
        Problem {
            path: String::new(),
            message: format!("expected {expected}, found {}", found(value)),
            help: None,
        }
    }
}

fn problem(expected: &str, value: &Value) -> Problem {
    Problem {
        path: String::new(),
        message: format!("expected {expected}, found {}", found(value)),
        help: None,
    }
}

/// A value as an error names it.
fn found(value: &Value) -> String {
    let text = match value {
        Value::Null => "`None`".to_owned(),
        Value::Bool(true) => "`True`".to_owned(),
        Value::Bool(false) => "`False`".to_owned(),
        other => format!("`{other}`"),
    };
    if text.chars().count() <= 80 { text } else { text.chars().take(76).chain("…`".chars()).collect() }
}

fn inside(path: &str, problems: Vec<Problem>) -> impl Iterator<Item = Problem> {
    problems.into_iter().map(move |problem| Problem { path: format!("{path}{}", problem.path), ..problem })
}

fn elements(inner: &Type, items: &[Value]) -> Result<Vec<Value>, Vec<Problem>> {
    let (mut done, mut problems) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.iter().enumerate() {
        match inner.coerce(item) {
            Ok(item) => done.push(item),
            Err(found) => problems.extend(inside(&format!("[{index}]"), found)),
        }
    }
    if problems.is_empty() { Ok(done) } else { Err(problems) }
}

fn sorted(mut items: Vec<Value>) -> Value {
    items.sort_by_cached_key(Value::to_string);
    items.dedup();
    Value::Array(items)
}

fn entries_of(keys: &Type, values: &Type, entries: &Map<String, Value>) -> Outcome {
    let (mut done, mut problems) = (Map::new(), Vec::new());
    for (key, value) in entries {
        let place = format!("[{key:?}]");
        match keys.coerce_text(key) {
            Ok(_) => {}
            Err(found) => problems.extend(inside(&place, found)),
        }
        match values.coerce(value) {
            Ok(value) => {
                done.insert(key.clone(), value);
            }
            Err(found) => problems.extend(inside(&place, found)),
        }
    }
    if problems.is_empty() { Ok(Value::Object(done)) } else { Err(problems) }
}

fn record(fields: &[RecordField], entries: &Map<String, Value>) -> Outcome {
    let (mut done, mut problems) = (Map::new(), Vec::new());
    for field in fields {
        let RecordField { name, ty, default } = field;
        match entries.get(name) {
            Some(value) => match ty.coerce(value) {
                Ok(value) => {
                    done.insert(name.clone(), value);
                }
                Err(found) => problems.extend(inside(&format!(".{name}"), found)),
            },
            None if default.is_some() || ty.is_optional() => {
                done.insert(name.clone(), default.clone().unwrap_or(Value::Null));
            }
            None => problems.push(Problem {
                path: format!(".{name}"),
                message: format!("the field `{name}` is missing"),
                help: None,
            }),
        }
    }
    for key in entries.keys().filter(|key| fields.iter().all(|field| field.name != **key)) {
        problems.push(Problem {
            path: format!(".{key}"),
            message: format!("there is no field `{key}`"),
            help: did_you_mean(key, fields.iter().map(|field| field.name.as_str())),
        });
    }
    if problems.is_empty() { Ok(Value::Object(done)) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(ty: &Type, value: Value, expect: Result<Value, &str>) {
        let outcome = ty.coerce(&value).map_err(|problems| {
            problems.into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect::<Vec<_>>().join("; ")
        });
        assert_eq!(outcome, expect.map_err(str::to_owned), "{ty} {value}");
    }

    #[test]
    fn values_take_their_canonical_form() {
        check(&Type::Mode, json!("0644"), Ok(json!(0o644)));
        check(&Type::Bytes, json!("1KiB"), Ok(json!(1024)));
        check(&Type::Duration, json!("1m"), Ok(json!("60s")));
        check(&Type::Set(Box::new(Type::Str)), json!(["b", "a", "b"]), Ok(json!(["a", "b"])));
        check(&Type::Str.or_none(), Value::Null, Ok(Value::Null));
        check(&Type::Int.or(Type::Str), json!("x"), Ok(json!("x")));
    }

    #[test]
    fn every_fault_is_reported_with_its_place() {
        check(&Type::Int, json!("5"), Err(": expected a whole number, found `\"5\"`"));
        check(&Type::Str, json!(5), Err(": expected text, found `5`"));
        check(&Type::Mode, json!(644), Err(": expected permission bits such as `0o644`, found `644`"));
        check(
            &Type::List(Box::new(Type::Port)),
            json!([80, 0, "x"]),
            Err(
                "[1]: expected a port from 1 to 65535, found `0`; [2]: expected a port from 1 to 65535, found `\"x\"`",
            ),
        );
        let plugin = Type::Record(vec![
            RecordField { name: "repository".into(), ty: Type::Str, default: None },
            RecordField { name: "version".into(), ty: Type::Str.or_none(), default: None },
        ]);
        check(
            &plugin,
            json!({"repositry": "x"}),
            Err(".repository: the field `repository` is missing; .repositry: there is no field `repositry`"),
        );
    }

    #[test]
    fn text_forms_of_lists() {
        let list = Type::List(Box::new(Type::Int));
        assert_eq!(list.coerce_text("1, 2,3"), Ok(json!([1, 2, 3])));
        assert_eq!(list.coerce_text("[1,2]"), Ok(json!([1, 2])));
        assert_eq!(list.coerce_text(""), Ok(json!([])));
        assert!(list.coerce_text("1,x").is_err());
        assert_eq!(Type::Bool.coerce_text("Yes"), Ok(json!(true)));
        assert_eq!(Type::Str.or_none().coerce_text("none"), Ok(Value::Null));
    }

    #[test]
    fn markers_cannot_be_forged() {
        assert!(Type::Str.coerce(&json!("\u{e000}caddy.acme\u{e001}")).is_err());
    }
}
