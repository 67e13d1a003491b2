//! Plans for tests, short to write.

use std::collections::BTreeMap;

use olbake_core::operation::{Action, Content, LinePlace, Operation, Ownership, Phase, Run};
use olbake_core::secret::SecretId;
use olbake_core::{Digest, OperationId};

/// Operations and what they need.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub operations: Vec<Operation>,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub secrets: BTreeMap<SecretId, String>,
}

/// The identity of the `number`th operation, from 1.
pub fn id(number: usize) -> OperationId {
    OperationId::new(&"test".parse().unwrap(), Phase::Install, number)
}

impl Plan {
    pub fn of(actions: impl IntoIterator<Item = Action>) -> Self {
        let mut plan = Self::default();
        for action in actions {
            plan.add(action);
        }
        plan
    }

    pub fn add(&mut self, action: Action) -> &mut Operation {
        let id = id(self.operations.len() + 1);
        let title = id.to_string();
        let (phase, spans, when_changed, after) = (Phase::Install, Vec::new(), Vec::new(), Vec::new());
        self.operations.push(Operation { id, phase, title, spans, action, when_changed, after });
        self.operations.last_mut().unwrap()
    }

    /// Keeps bytes for the agent.
    pub fn content(&mut self, bytes: impl AsRef<[u8]>) -> Content {
        let digest = Digest::of(bytes.as_ref());
        self.blobs.insert(digest, bytes.as_ref().to_vec());
        Content { digest, secrets: Vec::new() }
    }

    pub fn secret(&mut self, name: &str, value: &str) -> SecretId {
        let id = SecretId(name.to_owned());
        self.secrets.insert(id.clone(), value.to_owned());
        id
    }

    pub fn put(&mut self, path: &str, bytes: impl AsRef<[u8]>) -> &mut Operation {
        let content = self.content(bytes);
        self.add(put(path, content))
    }
}

pub fn put(path: &str, content: Content) -> Action {
    let ownership = Ownership::default();
    Action::FilePut { path: path.into(), content, ownership, validate: None, only_if_absent: false }
}

pub fn owned(owner: &str, group: &str, mode: u32) -> Ownership {
    Ownership { owner: Some(owner.into()), group: Some(group.into()), mode: Some(mode) }
}

pub fn directory(path: &str, ownership: Ownership) -> Action {
    Action::FileDirectory { path: path.into(), ownership, recursive: false }
}

pub fn line(path: &str, line: &str) -> Action {
    Action::FileLine {
        path: path.into(),
        line: line.into(),
        matching: None,
        present: true,
        place: LinePlace::End,
        validate: None,
        create: true,
        secrets: Vec::new(),
    }
}

pub fn argv<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

pub fn command<const N: usize>(words: [&str; N]) -> Action {
    Action::Run(Box::new(Run { argv: argv(words), ..Run::default() }))
}

pub fn shell(text: &str) -> Run {
    Run { argv: vec![text.to_owned()], shell: true, ..Run::default() }
}

pub fn service(unit: &str, enabled: bool) -> Action {
    Action::Service {
        unit: unit.into(),
        enabled: Some(enabled),
        masked: None,
        running: None,
        restart_on: Vec::new(),
        reload_on: Vec::new(),
    }
}
