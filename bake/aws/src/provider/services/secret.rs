//! `aws.secret`.

use async_trait::async_trait;
use aws_sdk_secretsmanager::types::Tag;
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::owner::{self, Owner, Tags, token};
use super::super::problem::{Problem, problem};
use super::unless_absent;

pub(super) struct Secret;

/// The tag with the days in which it can be had back.
const RECOVERY: &str = "olbake:recovery-window";

impl Secret {
    fn tags(wanted: &Wanted<'_>) -> Vec<Tag> {
        let mut tags = owner::tags(wanted.object, wanted.inputs);
        let days = wanted.inputs.get("recovery_window").map(Value::to_string);
        tags.insert(RECOVERY.to_owned(), days.unwrap_or_default());
        tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
    }

    fn tags_of(tags: &[Tag]) -> Tags {
        let tag = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        tags.iter().filter_map(tag).collect()
    }

    fn sighting(arn: &str, name: Option<&str>, tags: &Tags) -> Option<Sighting> {
        let days = tags.get(RECOVERY).and_then(|days| days.parse::<i64>().ok()).unwrap_or(30);
        let inputs = json!({"name": name, "recovery_window": days});
        Some(Sighting::new(Owner::read(tags)?, arn, inputs).gives("arn", arn))
    }

    async fn one(aws: &Aws, wanted: &Wanted<'_>) -> Result<Option<Sighting>, Problem> {
        let Some(name) = wanted.text("name") else { return Ok(None) };
        let found = aws.secrets.describe_secret().secret_id(name).send().await;
        let found = unless_absent(found.map_err(problem("secretsmanager:DescribeSecret")))?;
        let Some(found) = found.filter(|found| found.deleted_date().is_none()) else { return Ok(None) };
        let tags = Self::tags_of(found.tags());
        let Some(mut seen) = Self::sighting(found.arn().unwrap_or_default(), found.name(), &tags) else {
            return Ok(None);
        };
        // Where the secret is not known here, it cannot be compared.
        let Some(expected) =
            wanted.text("secret").filter(|text| !text.contains(olbake_core::secret::MARKER_START))
        else {
            return Ok(Some(seen));
        };
        let value = aws.secrets.get_secret_value().secret_id(name).send().await;
        let value = unless_absent(value.map_err(problem("secretsmanager:GetSecretValue")))?;
        let same = value.and_then(|value| value.secret_string).is_some_and(|value| value == expected);
        seen.inputs.insert("secret".to_owned(), if same { json!(expected) } else { Value::Null });
        Ok(Some(seen))
    }
}

#[async_trait]
impl Kind for Secret {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let mut found = Vec::new();
        if matches!(which, Which::All) {
            let mut pages = aws.secrets.list_secrets().into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(problem("secretsmanager:ListSecrets"))?;
                for entry in page.secret_list().iter().filter(|entry| entry.deleted_date().is_none()) {
                    let tags = Self::tags_of(entry.tags());
                    found.extend(Self::sighting(entry.arn().unwrap_or_default(), entry.name(), &tags));
                }
            }
        }
        for wanted in which.wanted() {
            found.extend(Self::one(aws, wanted).await?);
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let text = |name| wanted.text(name).map(str::to_owned);
        let call = aws.secrets.create_secret().set_name(text("name")).set_secret_string(text("secret"));
        let call = call.client_request_token(token(wanted.object, wanted.inputs));
        let call = call.set_tags(Some(Self::tags(wanted)));
        match call.send().await.map_err(problem("secretsmanager:CreateSecret")) {
            // One of this name was removed and can be had back: it is brought in line then.
            Err(problem) if problem.is("InvalidRequestException") => self.restore(aws, wanted).await,
            other => other.map(drop),
        }
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let same = |name: &str| there.inputs.get(name) == wanted.inputs.get(name);
        let mut settled = Settled::Already;
        if !same("recovery_window") {
            let call = aws.secrets.tag_resource().secret_id(&there.native).set_tags(Some(Self::tags(wanted)));
            call.send().await.map_err(problem("secretsmanager:TagResource"))?;
            settled = Settled::Now;
        }
        if !same("secret") {
            let call = aws.secrets.put_secret_value().secret_id(&there.native);
            let call = call.set_secret_string(wanted.text("secret").map(str::to_owned));
            call.send().await.map_err(problem("secretsmanager:PutSecretValue"))?;
            settled = Settled::Now;
        }
        Ok(settled)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.secrets.delete_secret().secret_id(&there.native);
        let call = match there.inputs.get("recovery_window").and_then(Value::as_i64) {
            Some(0) => call.force_delete_without_recovery(true),
            days => call.recovery_window_in_days(days.unwrap_or(30).clamp(7, 30)),
        };
        call.send().await.map_err(problem("secretsmanager:DeleteSecret")).map(drop)
    }
}

impl Secret {
    async fn restore(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let name = wanted.text("name").unwrap_or_default();
        let call = aws.secrets.restore_secret().secret_id(name);
        call.send().await.map_err(problem("secretsmanager:RestoreSecret"))?;
        let call = aws.secrets.tag_resource().secret_id(name).set_tags(Some(Self::tags(wanted)));
        call.send().await.map_err(problem("secretsmanager:TagResource")).map(drop)
    }
}
