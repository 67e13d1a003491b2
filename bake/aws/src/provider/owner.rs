//! Whose an object of AWS is: tags that are set by the call that makes it. Main type: [`Owner`].
//!
//! | tag | what it has |
//! |---|---|
//! | `olbake:id` | the object's id, fixed in the plan |
//! | `olbake:stack`, `olbake:resource` | what it is for |
//! | `Name` | the resource's name, for people; `tags` may name another |

use std::collections::BTreeMap;

use olbake_core::digest::FieldDigest;
use olbake_core::stack::{ObjectId, ResourceName, StackName};
use olbake_engine::stack::provider::Object;
use serde_json::{Map, Value, json};

/// The object's id.
pub(super) const ID: &str = "olbake:id";
/// The stack's name.
pub(super) const STACK: &str = "olbake:stack";
/// The resource's name.
const RESOURCE: &str = "olbake:resource";
const OURS: &str = "olbake:";
const NAME: &str = "Name";

/// Tags by key.
pub(super) type Tags = BTreeMap<String, String>;

/// What an object is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) stack: StackName,
    pub(super) name: ResourceName,
    pub(super) id: ObjectId,
}

impl Owner {
    pub(super) fn of(object: &Object) -> Self {
        let Object { stack, name, id, .. } = object.clone();
        Self { stack, name, id }
    }

    /// From an object's tags; none: it is nobody's that we know of.
    pub(super) fn read(tags: &Tags) -> Option<Self> {
        Some(Self {
            stack: tags.get(STACK)?.parse().ok()?,
            name: tags.get(RESOURCE)?.parse().ok()?,
            id: tags.get(ID)?.parse().ok()?,
        })
    }
}

/// All tags that an object is to have.
pub(super) fn tags(object: &Object, inputs: &Map<String, Value>) -> Tags {
    let given = inputs.get("tags").and_then(Value::as_object);
    let mut tags = Tags::from([(NAME.to_owned(), object.name.to_string())]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    tags.extend(given.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))));
    tags.insert(ID.to_owned(), object.id.to_string());
    tags.insert(STACK.to_owned(), object.stack.to_string());
    tags.insert(RESOURCE.to_owned(), object.name.to_string());
    tags
}

/// The property `tags` as it is seen: those that are neither ours nor AWS's, nor the name that we gave.
pub(super) fn seen(tags: &Tags) -> Value {
    let given_name = tags.get(RESOURCE);
    let theirs = tags.iter().filter(|(key, value)| {
        let ours = key.starts_with(OURS) || key.starts_with("aws:");
        let named_by_us = *key == NAME && Some(*value) == given_name;
        !ours && !named_by_us
    });
    json!(theirs.collect::<BTreeMap<_, _>>())
}

/// What changes tags from one set to another: to set, and keys to take away.
pub(super) fn difference(there: &Tags, wanted: &Tags) -> (Tags, Vec<String>) {
    let set = wanted.iter().filter(|(key, value)| there.get(*key) != Some(value));
    let gone = there.keys().filter(|key| !wanted.contains_key(*key) && !key.starts_with("aws:"));
    (set.map(|(key, value)| (key.clone(), value.clone())).collect(), gone.cloned().collect())
}

/// The client token of a call that makes an object: the same call has the same token, so that it can be repeated.
/// What it refers to is in it: what is made anew after everything was removed is another object.
pub(super) fn token(object: &Object, inputs: &Map<String, Value>) -> String {
    let digest = FieldDigest::new("olbake aws token 1")
        .field("stack", object.stack.as_str().as_bytes())
        .field("id", object.id.as_str().as_bytes())
        .field("inputs", olbake_core::canonical::to_string(inputs).as_bytes());
    digest.finish().hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object {
            stack: "applications.hello.QA".parse().unwrap(),
            name: "web/group".parse().unwrap(),
            ty: "aws.vpc".parse().unwrap(),
            id: "group-0123abcd".parse().unwrap(),
        }
    }

    #[test]
    fn tags_say_whose_it_is() {
        let inputs = json!({"tags": {"team": "web", "olbake:id": "mine"}});
        let tags = tags(&object(), inputs.as_object().unwrap());
        assert_eq!(Owner::read(&tags), Some(Owner::of(&object())));
        assert_eq!(seen(&tags), json!({"team": "web"}));
    }

    #[test]
    fn a_name_that_was_given_is_seen() {
        let inputs = json!({"tags": {"Name": "Main"}});
        let tags = tags(&object(), inputs.as_object().unwrap());
        assert_eq!(seen(&tags), json!({"Name": "Main"}));
    }

    #[test]
    fn only_differences_are_set() {
        let there =
            Tags::from([("a".into(), "1".into()), ("b".into(), "2".into()), ("aws:x".into(), "".into())]);
        let wanted = Tags::from([("a".into(), "1".into()), ("c".into(), "3".into())]);
        let (set, gone) = difference(&there, &wanted);
        assert_eq!((set, gone), (Tags::from([("c".into(), "3".into())]), vec!["b".to_owned()]));
    }

    #[test]
    fn tokens_differ_with_what_they_refer_to() {
        let with = |vpc: &str| token(&object(), json!({"vpc_id": vpc}).as_object().unwrap());
        assert_eq!(with("vpc-1"), with("vpc-1"));
        assert_ne!(with("vpc-1"), with("vpc-2"));
    }
}
