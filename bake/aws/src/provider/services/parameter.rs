//! `aws.parameter`.

use async_trait::async_trait;
use aws_sdk_ssm::types::{Parameter as Seen, ParameterType, Tag};
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::owner::{self, Owner};
use super::super::problem::{Problem, problem};

pub(super) struct Parameter;

/// How many one call tells.
const MOST: usize = 10;

/// A value that is not what it is to be is seen as nothing: secrets are not shown.
fn seen_secret(seen: &Seen, wanted: &Wanted<'_>) -> Value {
    let same = seen.value().is_some() && seen.value() == wanted.text("secret");
    if same { json!(wanted.text("secret")) } else { Value::Null }
}

fn sighting(seen: &Seen, wanted: &Wanted<'_>) -> Option<Sighting> {
    let name = seen.name()?;
    let inputs = match seen.r#type() {
        Some(ParameterType::SecureString) => json!({"name": name, "secret": seen_secret(seen, wanted)}),
        _ => json!({"name": name, "value": seen.value()}),
    };
    Some(Sighting::new(Owner::of(wanted.object), name, inputs))
}

impl Parameter {
    async fn put(aws: &Aws, wanted: &Wanted<'_>, overwrite: bool) -> Result<(), Problem> {
        let action = "ssm:PutParameter";
        let (ty, value) = match (wanted.text("value"), wanted.text("secret")) {
            (Some(value), None) => (ParameterType::String, value),
            (None, Some(secret)) => (ParameterType::SecureString, secret),
            _ => return Err(Problem::refused(action, "give either `value` or `secret`")),
        };
        let call = aws.ssm.put_parameter().set_name(wanted.text("name").map(str::to_owned));
        let call = call.r#type(ty).value(value).overwrite(overwrite);
        // Tags come with the call that makes it, and are refused with one that changes it.
        let tags = owner::tags(wanted.object, wanted.inputs);
        let tag = |(key, value): (&String, &String)| {
            let tag = Tag::builder().key(key).value(value).build();
            tag.map_err(|error| Problem::refused(action, error.to_string()))
        };
        let tags = tags.iter().map(tag).collect::<Result<Vec<_>, _>>()?;
        let call = call.set_tags((!overwrite).then_some(tags));
        call.send().await.map_err(problem(action)).map(drop)
    }
}

#[async_trait]
impl Kind for Parameter {
    fn is_anonymous(&self) -> bool {
        true
    }

    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let mut found = Vec::new();
        for some in which.wanted().chunks(MOST) {
            let names = some.iter().filter_map(|wanted| wanted.text("name").map(str::to_owned)).collect();
            let call = aws.ssm.get_parameters().set_names(Some(names)).with_decryption(true);
            let answer = call.send().await.map_err(problem("ssm:GetParameters"))?;
            for seen in answer.parameters() {
                let wanted = some.iter().find(|wanted| wanted.text("name") == seen.name());
                found.extend(wanted.and_then(|wanted| sighting(seen, wanted)));
            }
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        Self::put(aws, wanted, false).await
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let same = |name: &str| there.text(name) == wanted.text(name);
        if same("value") && same("secret") {
            return Ok(Settled::Already);
        }
        Self::put(aws, wanted, true).await.map(|()| Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ssm.delete_parameter().name(&there.native);
        call.send().await.map_err(problem("ssm:DeleteParameter")).map(drop)
    }

    async fn claim(&self, _aws: &Aws, _wanted: &Wanted<'_>, _foreign: &str) -> Result<(), Problem> {
        Ok(())
    }
}
