//! Names of stacks, of their resources, and of the objects that a provider makes for those.

use crate::digest::FieldDigest;
use crate::names::{NameError, text_name};

text_name!(
    /// An environment: `QA`, `Production`; written into names and tags as it stands.
    EnvironmentName,
    "environment name",
    "environments start with a letter and go on with letters, digits or `-`, 32 characters at most",
    is_environment
);
text_name!(
    /// A project in an environment: `applications.hello.QA`.
    StackName,
    "stack name",
    "stacks are the folders of a project and an environment, joined by dots: `applications.hello.QA`",
    is_stack
);
text_name!(
    /// A resource of a stack: `network`; one that a component made has the component's name before it:
    /// `hello/group`.
    ResourceName,
    "resource name",
    "resources start with a letter and go on with letters, digits, `-`, `_` or `/`, 100 characters at most",
    is_resource
);
text_name!(
    /// A type of resources: `local.network`. The part before the first dot names the provider.
    ResourceType,
    "resource type",
    "types are a provider and a kind: `local.network`",
    is_type
);
text_name!(
    /// What a provider knows an object by, fixed in the plan: `network-3f2a91cc`.
    ObjectId,
    "object id",
    "ids are lower-case letters, digits and `-`, 40 characters at most",
    |text| !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

fn is_environment(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn is_folder(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

fn is_stack(text: &str) -> bool {
    match text.rsplit_once('.') {
        Some((project, environment)) => {
            text.len() <= 200 && project.split('.').all(is_folder) && is_environment(environment)
        }
        None => false,
    }
}

fn is_resource(text: &str) -> bool {
    text.len() <= 100
        && text.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        })
}

fn is_type(text: &str) -> bool {
    text.split_once('.').is_some_and(|(provider, kind)| is_folder(provider) && is_folder(kind))
}

impl StackName {
    /// The stack of a project, named by its folders below `stacks/`, in an environment.
    pub fn new(project: &str, environment: &EnvironmentName) -> Result<Self, NameError> {
        format!("{}.{environment}", project.replace('/', ".")).parse()
    }

    /// The project: `applications.hello`.
    pub fn project(&self) -> &str {
        self.0.rsplit_once('.').map_or(&self.0, |(project, _)| project)
    }

    /// The project's folder below `stacks/`: `applications/hello`.
    pub fn project_folder(&self) -> String {
        self.project().replace('.', "/")
    }

    /// The environment.
    pub fn environment(&self) -> EnvironmentName {
        EnvironmentName(self.0.rsplit_once('.').map_or("", |(_, environment)| environment).to_owned())
    }
}

impl ResourceType {
    /// The provider: `local`.
    pub fn provider(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(provider, _)| provider)
    }

    /// The kind, without the provider: `network`.
    pub fn kind(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(_, kind)| kind)
    }
}

impl ObjectId {
    /// The id of a resource's object: its name, cut, and a digest of stack, name and generation. The generation
    /// counts replacements, so that old and new stand beside each other.
    pub fn of(stack: &StackName, name: &ResourceName, generation: u64) -> Self {
        let digest = FieldDigest::new("olbake object 1")
            .field("stack", stack.as_str().as_bytes())
            .field("resource", name.as_str().as_bytes())
            .field("generation", &generation.to_le_bytes())
            .finish();
        let readable: String = name
            .as_str()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .chars()
            .map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() })
            .take(16)
            .collect();
        Self(format!("{readable}-{}", &digest.hex()[..8]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_end_in_an_environment() {
        let stack: StackName = "infrastructure.aws.network.QA".parse().unwrap();
        assert_eq!(stack.project(), "infrastructure.aws.network");
        assert_eq!(stack.project_folder(), "infrastructure/aws/network");
        assert_eq!(stack.environment().as_str(), "QA");
        for bad in ["hello", "Hello.QA", "a..QA", ".QA", "a.", "a.Q A", "a/b.QA"] {
            assert!(bad.parse::<StackName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_object_is_another_after_a_replacement() {
        let stack = "applications.hello.QA".parse().unwrap();
        let name = "Hello_Service/web_group".parse().unwrap();
        let first = ObjectId::of(&stack, &name, 1);
        assert!(first.as_str().starts_with("web-group-"), "{first}");
        assert!(first.as_str().parse::<ObjectId>().is_ok());
        assert_ne!(first, ObjectId::of(&stack, &name, 2));
    }

    #[test]
    fn types_have_a_provider() {
        let ty: ResourceType = "local.instance_group".parse().unwrap();
        assert_eq!((ty.provider(), ty.kind()), ("local", "instance_group"));
        assert!("network".parse::<ResourceType>().is_err());
    }
}
