//! Whose an object is: a comment on it, `olbake 1 STACK RESOURCE ID`. Main type: [`Mark`].

use olbake_core::stack::{ObjectId, ResourceName, StackName};
use olbake_engine::stack::provider::{Object, ProviderError};
use tokio_postgres::Row;

const START: &str = "olbake 1 ";

/// What a comment says of an object's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) stack: StackName,
    pub(crate) name: ResourceName,
    pub(crate) id: ObjectId,
}

impl Mark {
    /// The mark in a comment; none: somebody else's comment.
    pub(crate) fn parse(comment: &str) -> Option<Self> {
        let mut words = comment.strip_prefix(START)?.split(' ');
        let mut word = || words.next();
        let mark =
            Self { stack: word()?.parse().ok()?, name: word()?.parse().ok()?, id: word()?.parse().ok()? };
        word().is_none().then_some(mark)
    }
}

/// The comment that marks an object.
pub(crate) fn comment(object: &Object) -> String {
    format!("{START}{} {} {}", object.stack, object.name, object.id)
}

/// What `LIKE` finds the comment of an id with. Ids have none of its special characters.
pub(crate) fn pattern(id: &ObjectId) -> String {
    format!("{START}% % {id}")
}

/// What `LIKE` finds every mark with.
pub(crate) fn any() -> String {
    format!("{START}%")
}

/// Whether an object that was looked up by its name, a row with its comment, can be taken.
pub(crate) fn free(noun: &str, foreign: &str, object: &Object, rows: &[Row]) -> Result<(), ProviderError> {
    let Some(row) = rows.first() else {
        return Err(ProviderError::refused(format!("there is no {noun} `{foreign}`")));
    };
    let comment: Option<String> = row.get(0);
    match comment.as_deref().and_then(Mark::parse) {
        Some(mark) if mark.id != object.id => Err(ProviderError::refused(format!(
            "the {noun} `{foreign}` is `{}` of the stack `{}`",
            mark.name, mark.stack
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back() {
        let object = Object {
            stack: "substructure.database.QA".parse().unwrap(),
            name: "shop/app".parse().unwrap(),
            ty: "postgresql.role".parse().unwrap(),
            id: "app-3f2a91cc".parse().unwrap(),
        };
        let mark = Mark::parse(&comment(&object)).unwrap();
        assert_eq!((mark.stack, mark.name, mark.id), (object.stack, object.name, object.id));
        for other in ["", "olbake 1 ", "olbake 2 a.QA b c", "standard public schema", "olbake 1 a.QA b c d"] {
            assert_eq!(Mark::parse(other), None, "{other}");
        }
    }
}
