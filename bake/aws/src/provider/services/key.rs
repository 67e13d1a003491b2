//! `aws.kms_key` and `aws.kms_alias`. A key is found by an alias of ours, `alias/olbake/ID`; one whose making was cut
//! short before it had that, by its tags.

use async_trait::async_trait;
use aws_sdk_kms::types::{KeyMetadata, KeyState, Tag};
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::owner::{self, Owner, Tags};
use super::super::problem::{Nature, Problem, problem};
use super::unless_absent;

pub(super) struct Key;

/// What our aliases begin with.
const OURS: &str = "alias/olbake/";

fn alias_of(id: &str) -> String {
    format!("{OURS}{id}")
}

async fn aliases(aws: &Aws) -> Result<Vec<(String, String)>, Problem> {
    let found = aws.keys.list_aliases().limit(100).into_paginator().items().send();
    let found = found.collect::<Result<Vec<_>, _>>().await.map_err(problem("kms:ListAliases"))?;
    Ok(found.into_iter().filter_map(|alias| alias.alias_name.zip(alias.target_key_id)).collect())
}

impl Key {
    async fn describe(aws: &Aws, key: &str) -> Result<Option<KeyMetadata>, Problem> {
        let found = aws.keys.describe_key().key_id(key).send().await;
        let found = unless_absent(found.map_err(problem("kms:DescribeKey")))?;
        // One that is to be deleted is as good as gone: nothing can be done with it.
        let going = |key: &KeyMetadata| key.key_state() == Some(&KeyState::PendingDeletion);
        Ok(found.and_then(|found| found.key_metadata).filter(|key| !going(key)))
    }

    async fn owner(aws: &Aws, key: &str) -> Result<Option<Owner>, Problem> {
        let found = aws.keys.list_resource_tags().key_id(key).into_paginator().items().send();
        let found = found.collect::<Result<Vec<_>, _>>().await.map_err(problem("kms:ListResourceTags"));
        let tags = match found {
            Ok(tags) => tags,
            // Keys of AWS itself may not be asked.
            Err(problem) if matches!(problem.nature(), Nature::Absent | Nature::Forbidden) => {
                return Ok(None);
            }
            Err(problem) => return Err(problem),
        };
        let tags: Tags =
            tags.iter().map(|tag| (tag.tag_key().to_owned(), tag.tag_value().to_owned())).collect();
        Ok(Owner::read(&tags))
    }

    /// Every key that is ours by its tags.
    async fn scan(aws: &Aws) -> Result<Vec<Sighting>, Problem> {
        let keys = aws.keys.list_keys().limit(1000).into_paginator().items().send();
        let keys = keys.collect::<Result<Vec<_>, _>>().await.map_err(problem("kms:ListKeys"))?;
        let mut found = Vec::new();
        for key in keys.iter().filter_map(|key| key.key_id()) {
            if let Some(owner) = Self::owner(aws, key).await? {
                found.extend(Self::describe(aws, key).await?.map(|key| Self::sighting(&key, owner)));
            }
        }
        Ok(found)
    }

    fn sighting(key: &KeyMetadata, owner: Owner) -> Sighting {
        Sighting::new(owner, key.key_id(), json!({"description": key.description()})).gives("arn", key.arn())
    }
}

#[async_trait]
impl Kind for Key {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        match which {
            Which::All => Self::scan(aws).await,
            Which::These([only]) => {
                if let Some(key) = Self::describe(aws, &alias_of(only.id().as_str())).await? {
                    return Ok(vec![Self::sighting(&key, Owner::of(only.object))]);
                }
                let found = Self::scan(aws).await?;
                Ok(found.into_iter().filter(|there| there.owner.id == *only.id()).collect())
            }
            Which::These(wanted) => {
                let aliases = aliases(aws).await?;
                let mut found = Vec::new();
                for wanted in wanted {
                    let name = alias_of(wanted.id().as_str());
                    let Some((_, key)) = aliases.iter().find(|(alias, _)| *alias == name) else { continue };
                    let key = Self::describe(aws, key).await?;
                    found.extend(key.map(|key| Self::sighting(&key, Owner::of(wanted.object))));
                }
                Ok(found)
            }
        }
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let action = "kms:CreateKey";
        let tags = owner::tags(wanted.object, wanted.inputs);
        let tag = |(key, value): (&String, &String)| {
            let tag = Tag::builder().tag_key(key).tag_value(value).build();
            tag.map_err(|error| Problem::refused(action, error.to_string()))
        };
        let tags = tags.iter().map(tag).collect::<Result<Vec<_>, _>>()?;
        let call = aws.keys_once.create_key().set_description(wanted.text("description").map(str::to_owned));
        let made = call.set_tags(Some(tags)).send().await.map_err(problem(action))?;
        let key = made.key_metadata.map(|key| key.key_id).unwrap_or_default();
        let call = aws.keys.create_alias().alias_name(alias_of(wanted.id().as_str())).target_key_id(key);
        call.send().await.map_err(problem("kms:CreateAlias")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let key = &there.native;
        let alias = alias_of(wanted.id().as_str());
        let named = aws.keys.create_alias().alias_name(&alias).target_key_id(key).send().await;
        match named.map_err(problem("kms:CreateAlias")) {
            Err(problem) if problem.nature() != Nature::Exists => return Err(problem),
            _ => {}
        }
        if wanted.flag("enable_key_rotation") {
            let call = aws.keys.enable_key_rotation().key_id(key);
            call.send().await.map_err(problem("kms:EnableKeyRotation"))?;
        } else {
            let call = aws.keys.disable_key_rotation().key_id(key);
            call.send().await.map_err(problem("kms:DisableKeyRotation"))?;
        }
        if there.text("description") == wanted.text("description") {
            return Ok(Settled::Already);
        }
        let call = aws.keys.update_key_description().key_id(key);
        let call = call.set_description(wanted.text("description").map(str::to_owned));
        call.send().await.map_err(problem("kms:UpdateKeyDescription"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let alias = aws.keys.delete_alias().alias_name(alias_of(there.owner.id.as_str())).send().await;
        unless_absent(alias.map_err(problem("kms:DeleteAlias")))?;
        // The longest time: what it encrypted is lost with it.
        let call = aws.keys.schedule_key_deletion().key_id(&there.native).pending_window_in_days(30);
        call.send().await.map_err(problem("kms:ScheduleKeyDeletion")).map(drop)
    }
}

pub(super) struct Alias;

#[async_trait]
impl Kind for Alias {
    fn is_anonymous(&self) -> bool {
        true
    }

    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        if which.wanted().is_empty() {
            return Ok(Vec::new());
        }
        let aliases = aliases(aws).await?;
        let see = |wanted: &Wanted<'_>| {
            let (name, key) = aliases.iter().find(|(name, _)| Some(name.as_str()) == wanted.text("name"))?;
            // A key's ARN names it too.
            let given = wanted.text("key_id").filter(|given| given.ends_with(key.as_str()));
            let inputs = json!({"name": name, "key_id": given.unwrap_or(key)});
            Some(Sighting::new(Owner::of(wanted.object), name, inputs))
        };
        Ok(which.wanted().iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let text = |name| wanted.text(name).map(str::to_owned);
        let call = aws.keys.create_alias().set_alias_name(text("name")).set_target_key_id(text("key_id"));
        call.send().await.map_err(problem("kms:CreateAlias")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        if there.inputs.get("key_id").and_then(Value::as_str) == wanted.text("key_id") {
            return Ok(Settled::Already);
        }
        let call = aws.keys.update_alias().alias_name(&there.native);
        let call = call.set_target_key_id(wanted.text("key_id").map(str::to_owned));
        call.send().await.map_err(problem("kms:UpdateAlias"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.keys.delete_alias().alias_name(&there.native);
        call.send().await.map_err(problem("kms:DeleteAlias")).map(drop)
    }

    async fn claim(&self, _aws: &Aws, _wanted: &Wanted<'_>, _foreign: &str) -> Result<(), Problem> {
        Ok(())
    }
}
