//! What every provider has to keep to, asked of real objects: made, made again, seen, changed, listed, removed,
//! removed again, and found again where an answer was lost. Main function: [`check`].

use std::collections::BTreeMap;

use olbake_core::stack::declare::Declared;
use olbake_core::stack::value::{self, Reference};
use olbake_core::stack::{Catalog, Declaration, ObjectId, ResourceName};
use olbake_engine::stack::provider::{Live, Object, Provider, ProviderError};
use serde_json::{Map, Value};

/// What is asked of a provider.
pub struct Course<'a> {
    /// Resources, each after those that it refers to.
    pub declaration: &'a Declaration,
    /// Properties that are changed in place once everything is there: resource, property, value.
    pub changes: &'a [(&'a str, &'a str, Value)],
    /// Has the answer to the next call that changes something be lost: it is carried out, and nobody hears of it.
    pub lose_an_answer: &'a (dyn Fn(&Declared) + Send + Sync),
}

/// Takes a provider through a course; says what it does not keep to, a line each.
pub async fn check(provider: &dyn Provider, course: &Course<'_>) -> Vec<String> {
    let mut walk = Walk {
        provider,
        catalog: provider.catalog(),
        course,
        outputs: BTreeMap::new(),
        made: Vec::new(),
        found: Vec::new(),
    };
    for resource in &course.declaration.resources {
        if !walk.make(resource).await {
            break;
        }
    }
    walk.all_at_once().await;
    for change in course.changes {
        walk.change(change).await;
    }
    walk.remove().await;
    walk.found
}

struct Walk<'a> {
    provider: &'a dyn Provider,
    catalog: Catalog,
    course: &'a Course<'a>,
    outputs: BTreeMap<ResourceName, Map<String, Value>>,
    made: Vec<(Object, Map<String, Value>)>,
    found: Vec<String>,
}

impl Walk<'_> {
    fn say(&mut self, object: &Object, what: &str) {
        self.found.push(format!("{} ({}): {what}", object.name, object.ty));
    }

    fn expect(&mut self, object: &Object, holds: bool, what: &str) {
        if !holds {
            self.say(object, what);
        }
    }

    /// What came of a call; none, and a line, where it failed.
    fn ok<T>(&mut self, object: &Object, verb: &str, result: Result<T, ProviderError>) -> Option<T> {
        result.map_err(|error| self.say(object, &format!("{verb}: {error:?}"))).ok()
    }

    fn object(&self, resource: &Declared) -> Object {
        let stack = self.course.declaration.stack.clone();
        let id = ObjectId::of(&stack, &resource.name, 1);
        Object { stack, name: resource.name.clone(), ty: resource.ty.clone(), id }
    }

    fn complete(&self, resource: &Declared) -> Map<String, Value> {
        let known = |reference: &Reference| reference.in_map(self.outputs.get(&reference.resource)?);
        let inputs = resource.inputs.iter();
        let inputs: Map<String, Value> =
            inputs.map(|(name, input)| (name.clone(), value::resolve(input, &known))).collect();
        let schema = self.catalog.get(&resource.ty).expect("the course is of the provider's types");
        schema.coerce(&inputs).expect("the course's properties fit")
    }

    async fn read(&mut self, object: &Object, inputs: &Map<String, Value>) -> Option<Live> {
        let read = self.provider.read(object, inputs).await;
        self.ok(object, "read", read).flatten()
    }

    async fn listed(&mut self, object: &Object) -> Option<usize> {
        let listed = self.provider.list().await;
        let listed = self.ok(object, "list", listed)?;
        Some(listed.iter().filter(|other| other.id == object.id).count())
    }

    /// Makes an object whose first answer is lost; false: it could not be made.
    async fn make(&mut self, resource: &Declared) -> bool {
        let (object, inputs) = (self.object(resource), self.complete(resource));
        let before = self.read(&object, &inputs).await;
        self.expect(&object, before.is_none(), "it is seen before it was made");
        let gone = self.provider.delete(&object, &inputs).await;
        self.ok(&object, "removing what never was", gone);

        (self.course.lose_an_answer)(resource);
        // What is heard of it does not matter; what is there does.
        drop(self.provider.create(&object, &inputs).await);
        let again = self.provider.create(&object, &inputs).await;
        let Some(outputs) = self.ok(&object, "create", again) else { return false };
        let third = self.provider.create(&object, &inputs).await;
        let third = self.ok(&object, "create again", third);
        self.expect(&object, third.as_ref() == Some(&outputs), "made again, it gives something else");
        let promised: Vec<&str> = self
            .catalog
            .get(&object.ty)
            .map(|schema| schema.outputs.keys().copied().collect())
            .unwrap_or_default();
        for name in promised {
            self.expect(&object, outputs.contains_key(name), &format!("it does not give `{name}`"));
        }
        self.as_given(&object, &inputs, &outputs).await;
        let listed = self.listed(&object).await;
        // Some have nothing on them that says whose they are, and are not listed.
        self.expect(&object, listed.is_none_or(|count| count <= 1), "it is there more than once");
        self.outputs.insert(resource.name.clone(), outputs);
        self.made.push((object, inputs));
        true
    }

    /// Whether an object is seen as it was given.
    async fn as_given(&mut self, object: &Object, inputs: &Map<String, Value>, outputs: &Map<String, Value>) {
        let Some(live) = self.read(object, inputs).await else {
            return self.say(object, "it is not seen");
        };
        self.expect(object, live.outputs == *outputs, "it is seen to give something else than it gave");
        for (name, seen) in &live.inputs {
            let given = inputs.get(name).unwrap_or(&Value::Null);
            self.expect(
                object,
                seen == given,
                &format!("`{name}` is seen as {seen} and was given as {given}"),
            );
        }
    }

    /// What looks at many at once says what looking at each says.
    async fn all_at_once(&mut self) {
        let Some(bulk) = self.provider.bulk() else { return };
        let made = self.made.clone();
        match bulk.read_all(&made).await {
            Ok(lives) => {
                for ((object, inputs), live) in made.iter().zip(lives) {
                    let alone = self.read(object, inputs).await;
                    let same = alone == live;
                    self.expect(object, same, &format!("among many it is {live:?}, alone {alone:?}"));
                }
            }
            Err(error) => self.found.push(format!("read_all: {error:?}")),
        }
    }

    async fn change(&mut self, (name, property, value): &(&str, &str, Value)) {
        let Some(index) = self.made.iter().position(|(object, _)| object.name.as_str() == *name) else {
            return;
        };
        let (object, mut inputs) = self.made[index].clone();
        inputs.insert((*property).to_owned(), value.clone());
        let changed = self.provider.update(&object, &inputs).await;
        let Some(outputs) = self.ok(&object, "update", changed) else { return };
        let again = self.provider.update(&object, &inputs).await;
        let again = self.ok(&object, "update again", again);
        self.expect(&object, again.as_ref() == Some(&outputs), "changed again, it gives something else");
        self.as_given(&object, &inputs, &outputs).await;
        self.made[index].1 = inputs;
    }

    /// Removes everything, the last first, and each twice.
    async fn remove(&mut self) {
        while let Some((object, inputs)) = self.made.pop() {
            for verb in ["remove", "remove again"] {
                let removed = self.provider.delete(&object, &inputs).await;
                self.ok(&object, verb, removed);
            }
            let after = self.read(&object, &inputs).await;
            self.expect(&object, after.is_none(), "it is seen after it was removed");
            let listed = self.listed(&object).await;
            self.expect(&object, listed == Some(0), "it is listed after it was removed");
        }
    }
}
