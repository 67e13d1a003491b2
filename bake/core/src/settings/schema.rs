//! The schema of a component's settings.

use indexmap::IndexMap;
use regex_lite::Regex;
use serde_json::Value;

use super::coerce::Problem;
use super::types::Type;
use crate::names::ComponentName;
use crate::span::Span;

/// The settings that a component declares, in the order of its recipe.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The name: the prefix of environment variables and the component in `--set`.
    pub name: ComponentName,
    /// The settings.
    pub fields: IndexMap<String, Field>,
}

/// One setting.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its type.
    pub ty: Type,
    /// Its value where no layer gives one; canonical.
    pub default: Option<Value>,
    /// What it is for.
    pub doc: Option<String>,
    /// Rules for its value.
    pub constraints: Constraints,
    /// A type that its value, or each element of it, must fit besides.
    pub check: Option<Type>,
    /// For a secret: where its value comes from.
    pub source: Option<String>,
    /// Its value is computed from the others; no layer can give one.
    pub computed: bool,
    /// Where it is declared.
    pub span: Option<Span>,
}

/// Rules for a value, besides its type. They hold for the elements of a list where they make sense only there.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// At least this number.
    pub ge: Option<f64>,
    /// At most this number.
    pub le: Option<f64>,
    /// The fewest and the most characters or elements.
    pub len: Option<(u64, u64)>,
    /// An expression that the whole text matches.
    pub regex: Option<Regex>,
    /// The values there are to choose from.
    pub one_of: Vec<Value>,
}

impl Field {
    /// A setting of a type, without a default and rules.
    pub fn new(ty: Type) -> Self {
        Self {
            ty,
            default: None,
            doc: None,
            constraints: Constraints::default(),
            check: None,
            source: None,
            computed: false,
            span: None,
        }
    }

    /// Whether some layer must give a value.
    pub fn required(&self) -> bool {
        let given = self.default.is_some() || self.computed || self.source.is_some();
        !given && !self.ty.is_optional()
    }

    /// What the rules have against a canonical value.
    pub fn broken_rules(&self, value: &Value) -> Vec<Problem> {
        if value.is_null() || self.ty.is_secret() {
            return Vec::new();
        }
        let mut problems = self.constraints.broken(value);
        if let Some(ty) = &self.check {
            problems.extend(fits(ty, value));
        }
        problems
    }
}

/// Whether a value, or each of its elements, fits the type of `check =`.
fn fits(ty: &Type, value: &Value) -> Vec<Problem> {
    match (ty, value) {
        (Type::List(_) | Type::Set(_), _) => ty.coerce(value).err().unwrap_or_default(),
        (_, Value::Array(items)) => {
            let each = items.iter().enumerate().flat_map(|(index, item)| {
                let problems = ty.coerce(item).err().unwrap_or_default();
                problems
                    .into_iter()
                    .map(move |problem| Problem { path: format!("[{index}]{}", problem.path), ..problem })
            });
            each.collect()
        }
        _ => ty.coerce(value).err().unwrap_or_default(),
    }
}

impl Constraints {
    fn broken(&self, value: &Value) -> Vec<Problem> {
        let Self { ge, le, len, regex, one_of } = self;
        let mut problems = Vec::new();
        let mut broken =
            |message: String| problems.push(Problem { path: String::new(), message, help: None });
        if let Some(number) = value.as_f64() {
            if let Some(least) = ge.filter(|least| number < *least) {
                broken(format!("must be at least {least}, is {number}"));
            }
            if let Some(most) = le.filter(|most| number > *most) {
                broken(format!("must be at most {most}, is {number}"));
            }
        }
        let length = match value {
            Value::String(text) => Some((text.chars().count() as u64, "characters")),
            Value::Array(items) => Some((items.len() as u64, "elements")),
            Value::Object(entries) => Some((entries.len() as u64, "entries")),
            _ => None,
        };
        if let (Some((fewest, most)), Some((length, what))) = (len, length)
            && !(*fewest..=*most).contains(&length)
        {
            broken(match (*fewest, *most) {
                (fewest, u64::MAX) => format!("must have at least {fewest} {what}, has {length}"),
                (fewest, most) if fewest == most => format!("must have {fewest} {what}, has {length}"),
                (fewest, most) => format!("must have {fewest} to {most} {what}, has {length}"),
            });
        }
        let elements = match value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        for element in elements {
            if let (Some(regex), Some(text)) = (regex, element.as_str())
                && !regex.find(text).is_some_and(|found| found.range() == (0..text.len()))
            {
                broken(format!("`{text}` does not match `{}`", regex.as_str()));
            }
            if !one_of.is_empty() && !one_of.contains(element) {
                let all: Vec<String> = one_of.iter().map(Value::to_string).collect();
                broken(format!("`{element}` is none of {}", all.join(", ")));
            }
        }
        problems
    }
}
