//! `aws.role`, `aws.policy`, `aws.role_policy` and `aws.instance_profile`.
//!
//! Their names are their ids. Many are looked at with one paginated call for all roles, policies and profiles.

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_sdk_iam::types::{EntityType, GroupDetail, ManagedPolicyDetail, RoleDetail, Tag};
use serde_json::{Value, json};

use super::clients::Aws;
use super::kind::{Kind, Settled, Sighting, Wanted, Which, set};
use super::owner::{self, Owner, Tags};
use super::problem::{Nature, Problem, problem};

/// The types of this file.
pub(super) const KINDS: &[(&str, &dyn Kind)] = &[
    ("aws.role", &Role),
    ("aws.policy", &Policy),
    ("aws.role_policy", &RolePolicy),
    ("aws.instance_profile", &InstanceProfile),
];

/// Everything that is ours has it: it is found by it, and policies can name it.
const PATH: &str = "/olbake/";

fn tags_of(tags: &[Tag]) -> Tags {
    tags.iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect()
}

fn tags(wanted: &Wanted<'_>, action: &'static str) -> Result<Vec<Tag>, Problem> {
    let tags = owner::tags(wanted.object, wanted.inputs);
    let tag = |(key, value): (&String, &String)| {
        let tag = Tag::builder().key(key).value(value).build();
        tag.map_err(|error| Problem::refused(action, error.to_string()))
    };
    tags.iter().map(tag).collect()
}

/// A policy as AWS tells it: JSON with percent signs.
fn document(text: &str) -> Value {
    let decoded = percent_decoded(text);
    serde_json::from_str(&decoded).unwrap_or(Value::String(decoded))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A policy's text, in the form in which the property has it: JSON, whether it was given as text or as a record.
fn text_of(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// What is seen of a policy, in the form in which it was given.
fn seen_policy(seen: &Value, given: Option<&Value>) -> Value {
    match given {
        Some(Value::String(text)) => {
            let same = serde_json::from_str::<Value>(text).is_ok_and(|given| given == *seen);
            if same { Value::String(text.clone()) } else { Value::String(seen.to_string()) }
        }
        _ => seen.clone(),
    }
}

/// All roles, or policies, with everything about them.
async fn details(
    aws: &Aws,
    of: EntityType,
) -> Result<(Vec<RoleDetail>, Vec<ManagedPolicyDetail>, Vec<GroupDetail>), Problem> {
    let mut pages =
        aws.iam.get_account_authorization_details().filter(of).into_paginator().page_size(1000).send();
    let (mut roles, mut policies, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(page) = pages.next().await {
        let page = page.map_err(problem("iam:GetAccountAuthorizationDetails"))?;
        roles.extend(page.role_detail_list().iter().cloned());
        policies.extend(page.policies().iter().cloned());
        groups.extend(page.group_detail_list().iter().cloned());
    }
    Ok((roles, policies, groups))
}

/// What is not there is nothing to see.
fn unless_absent<T>(found: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(problem) if problem.nature() == Nature::Absent => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// What was given for a property of the object with an id.
fn given<'a>(which: &Which<'a>, owner: &Owner, name: &str) -> Option<&'a Value> {
    let wanted = which.wanted().iter().find(|wanted| *wanted.id() == owner.id)?;
    wanted.inputs.get(name)
}

struct Role;

/// A role, whichever call told of it.
struct SeenRole {
    name: String,
    arn: String,
    tags: Tags,
    trust: Value,
    attached: Vec<String>,
}

impl Role {
    async fn one(aws: &Aws, name: &str) -> Result<Option<SeenRole>, Problem> {
        let found = aws.iam.get_role().role_name(name).send().await.map_err(problem("iam:GetRole"));
        let Some(role) = unless_absent(found)?.and_then(|found| found.role) else { return Ok(None) };
        let attached = aws.iam.list_attached_role_policies().role_name(name).into_paginator().items().send();
        let attached = attached.collect::<Result<Vec<_>, _>>().await;
        let Some(attached) = unless_absent(attached.map_err(problem("iam:ListAttachedRolePolicies")))? else {
            return Ok(None);
        };
        Ok(Some(SeenRole {
            name: role.role_name().to_owned(),
            arn: role.arn().to_owned(),
            tags: tags_of(role.tags()),
            trust: document(role.assume_role_policy_document().unwrap_or_default()),
            attached: attached.into_iter().filter_map(|policy| policy.policy_arn).collect(),
        }))
    }

    async fn many(aws: &Aws) -> Result<Vec<SeenRole>, Problem> {
        let (roles, ..) = details(aws, EntityType::Role).await?;
        let see = |role: RoleDetail| {
            let attached = role.attached_managed_policies().iter();
            Some(SeenRole {
                attached: attached.filter_map(|policy| policy.policy_arn.clone()).collect(),
                tags: tags_of(role.tags()),
                trust: document(role.assume_role_policy_document().unwrap_or_default()),
                name: role.role_name?,
                arn: role.arn?,
            })
        };
        Ok(roles.into_iter().filter_map(see).collect())
    }
}

#[async_trait]
impl Kind for Role {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let roles = match which.only() {
            Some(only) => Self::one(aws, only.id().as_str()).await?.into_iter().collect(),
            None => Self::many(aws).await?,
        };
        let see = |role: SeenRole| {
            let owner = Owner::read(&role.tags)?;
            let trust = seen_policy(&role.trust, given(&which, &owner, "assume_role_policy"));
            let inputs = json!({
                "assume_role_policy": trust,
                "managed_policy_arns": set(role.attached.into_iter().map(Value::from)),
            });
            Some(Sighting::new(owner, role.name, inputs).gives("arn", role.arn))
        };
        Ok(roles.into_iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let call = aws.iam.create_role().role_name(wanted.id().as_str()).path(PATH);
        let call = call.assume_role_policy_document(text_of(wanted.inputs.get("assume_role_policy")));
        let call = call.set_tags(Some(tags(wanted, "iam:CreateRole")?));
        call.send().await.map_err(problem("iam:CreateRole")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let mut settled = Settled::Already;
        let name = "assume_role_policy";
        if there.inputs.get(name) != wanted.inputs.get(name) {
            let call = aws.iam.update_assume_role_policy().role_name(&there.native);
            let call = call.policy_document(text_of(wanted.inputs.get(name)));
            call.send().await.map_err(problem("iam:UpdateAssumeRolePolicy"))?;
            settled = Settled::Now;
        }
        let before: BTreeSet<String> =
            Wanted { inputs: &there.inputs, ..*wanted }.texts("managed_policy_arns").into_iter().collect();
        let after: BTreeSet<String> = wanted.texts("managed_policy_arns").into_iter().collect();
        for arn in after.difference(&before) {
            let attach = || async {
                let call = aws.iam.attach_role_policy().role_name(&there.native).policy_arn(arn);
                call.send().await.map_err(problem("iam:AttachRolePolicy"))
            };
            aws.once_visible(attach).await?;
            settled = Settled::Now;
        }
        for arn in before.difference(&after) {
            let call = aws.iam.detach_role_policy().role_name(&there.native).policy_arn(arn);
            unless_absent(call.send().await.map_err(problem("iam:DetachRolePolicy")))?;
            settled = Settled::Now;
        }
        Ok(settled)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let attached = there.inputs.get("managed_policy_arns").and_then(Value::as_array);
        for arn in attached.into_iter().flatten().filter_map(Value::as_str) {
            let call = aws.iam.detach_role_policy().role_name(&there.native).policy_arn(arn);
            unless_absent(call.send().await.map_err(problem("iam:DetachRolePolicy")))?;
        }
        let call = aws.iam.delete_role().role_name(&there.native);
        call.send().await.map_err(problem("iam:DeleteRole")).map(drop)
    }
}

struct Policy;

impl Policy {
    /// The ARN and the tags of the policy with a name.
    async fn one(aws: &Aws, name: &str) -> Result<Option<(String, Tags, String)>, Problem> {
        let local = aws_sdk_iam::types::PolicyScopeType::Local;
        let call = aws.iam.list_policies().scope(local).path_prefix(PATH).into_paginator().items().send();
        let found = call.collect::<Result<Vec<_>, _>>().await.map_err(problem("iam:ListPolicies"))?;
        let found = found.into_iter().find(|policy| policy.policy_name() == Some(name));
        let Some(arn) = found.and_then(|policy| policy.arn) else { return Ok(None) };
        let found = aws.iam.get_policy().policy_arn(&arn).send().await.map_err(problem("iam:GetPolicy"));
        let Some(policy) = unless_absent(found)?.and_then(|found| found.policy) else { return Ok(None) };
        let version = policy.default_version_id().unwrap_or_default().to_owned();
        Ok(Some((arn, tags_of(policy.tags()), version)))
    }

    async fn text(aws: &Aws, arn: &str, version: &str) -> Result<Option<Value>, Problem> {
        let call = aws.iam.get_policy_version().policy_arn(arn).version_id(version);
        let found = unless_absent(call.send().await.map_err(problem("iam:GetPolicyVersion")))?;
        let version = found.and_then(|found| found.policy_version);
        Ok(version.map(|version| document(version.document().unwrap_or_default())))
    }

    fn sighting(which: &Which<'_>, arn: &str, owner: Owner, text: &Value) -> Sighting {
        let text = seen_policy(text, given(which, &owner, "policy"));
        Sighting::new(owner, arn, json!({"policy": text})).gives("arn", arn)
    }

    /// The policies that a stack has. What they allow comes with them, but not whose they are: their names tell.
    async fn many(aws: &Aws, which: &Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let (_, policies, _) = details(aws, EntityType::LocalManagedPolicy).await?;
        let mut seen = Vec::new();
        for policy in policies.iter().filter(|policy| policy.path() == Some(PATH)) {
            let (Some(name), Some(arn)) = (policy.policy_name(), policy.arn()) else { continue };
            let wanted = which.wanted().iter().find(|wanted| wanted.id().as_str() == name);
            let owner = match (wanted, which) {
                (Some(wanted), _) => Some(Owner::of(wanted.object)),
                (None, Which::These(_)) => None,
                (None, Which::All) => Self::one(aws, name).await?.and_then(|(_, tags, _)| Owner::read(&tags)),
            };
            let mut versions = policy.policy_version_list().iter();
            let current = versions.find(|version| version.is_default_version());
            let text = document(current.and_then(|version| version.document()).unwrap_or_default());
            seen.extend(owner.map(|owner| Self::sighting(which, arn, owner, &text)));
        }
        Ok(seen)
    }
}

#[async_trait]
impl Kind for Policy {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let Some(only) = which.only() else { return Self::many(aws, &which).await };
        let Some((arn, tags, version)) = Self::one(aws, only.id().as_str()).await? else {
            return Ok(Vec::new());
        };
        let text = Self::text(aws, &arn, &version).await?;
        let seen = Owner::read(&tags).zip(text);
        Ok(seen.map(|(owner, text)| Self::sighting(&which, &arn, owner, &text)).into_iter().collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let call = aws.iam.create_policy().policy_name(wanted.id().as_str()).path(PATH);
        let call = call.policy_document(text_of(wanted.inputs.get("policy")));
        let call = call.set_tags(Some(tags(wanted, "iam:CreatePolicy")?));
        call.send().await.map_err(problem("iam:CreatePolicy")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        if there.inputs.get("policy") == wanted.inputs.get("policy") {
            return Ok(Settled::Already);
        }
        // There may be five versions: what is no longer in force goes.
        let call = aws.iam.list_policy_versions().policy_arn(&there.native).into_paginator().items().send();
        let versions =
            call.collect::<Result<Vec<_>, _>>().await.map_err(problem("iam:ListPolicyVersions"))?;
        for old in versions.iter().filter(|version| !version.is_default_version()) {
            let call = aws.iam.delete_policy_version().policy_arn(&there.native);
            let call = call.set_version_id(old.version_id().map(str::to_owned));
            unless_absent(call.send().await.map_err(problem("iam:DeletePolicyVersion")))?;
        }
        let call = aws.iam.create_policy_version().policy_arn(&there.native).set_as_default(true);
        let call = call.policy_document(text_of(wanted.inputs.get("policy")));
        call.send().await.map_err(problem("iam:CreatePolicyVersion"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.iam.list_policy_versions().policy_arn(&there.native).into_paginator().items().send();
        let versions =
            call.collect::<Result<Vec<_>, _>>().await.map_err(problem("iam:ListPolicyVersions"))?;
        for old in versions.iter().filter(|version| !version.is_default_version()) {
            let call = aws.iam.delete_policy_version().policy_arn(&there.native);
            let call = call.set_version_id(old.version_id().map(str::to_owned));
            unless_absent(call.send().await.map_err(problem("iam:DeletePolicyVersion")))?;
        }
        let call = aws.iam.delete_policy().policy_arn(&there.native);
        call.send().await.map_err(problem("iam:DeletePolicy")).map(drop)
    }
}

struct RolePolicy;

impl RolePolicy {
    fn sighting(wanted: &Wanted<'_>, role: &str, text: &Value) -> Sighting {
        let text = seen_policy(text, wanted.inputs.get("policy"));
        let inputs = json!({"role": role, "policy": text});
        Sighting::new(Owner::of(wanted.object), wanted.id().as_str(), inputs)
    }
}

#[async_trait]
impl Kind for RolePolicy {
    /// It has no tags, only a name in its role; it goes with its role.
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        if let Some(only) = which.only() {
            let role = only.text("role").unwrap_or_default();
            if role.is_empty() || value_is_unknown(role) {
                return Ok(Vec::new());
            }
            let call = aws.iam.get_role_policy().role_name(role).policy_name(only.id().as_str());
            let found = unless_absent(call.send().await.map_err(problem("iam:GetRolePolicy")))?;
            let see = |found: aws_sdk_iam::operation::get_role_policy::GetRolePolicyOutput| {
                Self::sighting(only, role, &document(found.policy_document()))
            };
            return Ok(found.map(see).into_iter().collect());
        }
        if which.wanted().is_empty() {
            return Ok(Vec::new());
        }
        let (roles, ..) = details(aws, EntityType::Role).await?;
        let see = |wanted: &Wanted<'_>| {
            let role = roles.iter().find(|role| role.role_name() == wanted.text("role"))?;
            let mut policies = role.role_policy_list().iter();
            let policy = policies.find(|policy| policy.policy_name() == Some(wanted.id().as_str()))?;
            let text = document(policy.policy_document().unwrap_or_default());
            Some(Self::sighting(wanted, role.role_name()?, &text))
        };
        Ok(which.wanted().iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let call = aws.iam.put_role_policy().set_role_name(wanted.text("role").map(str::to_owned));
        let call = call.policy_name(wanted.id().as_str());
        let call = call.policy_document(text_of(wanted.inputs.get("policy")));
        call.send().await.map_err(problem("iam:PutRolePolicy")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        if there.inputs.get("policy") == wanted.inputs.get("policy") {
            return Ok(Settled::Already);
        }
        self.make(aws, wanted).await.map(|()| Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let role = there.text("role").unwrap_or_default();
        let call = aws.iam.delete_role_policy().role_name(role).policy_name(&there.native);
        call.send().await.map_err(problem("iam:DeleteRolePolicy")).map(drop)
    }
}

/// Whether a text has a placeholder in it: what it names was never known, so nothing can be there.
fn value_is_unknown(text: &str) -> bool {
    olbake_core::stack::value::has_references(&Value::String(text.to_owned()))
}

struct InstanceProfile;

#[async_trait]
impl Kind for InstanceProfile {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let found = match which.only() {
            Some(only) => {
                let call = aws.iam.get_instance_profile().instance_profile_name(only.id().as_str());
                let found = unless_absent(call.send().await.map_err(problem("iam:GetInstanceProfile")))?;
                found.and_then(|found| found.instance_profile).into_iter().collect()
            }
            None => {
                let call = aws.iam.list_instance_profiles().path_prefix(PATH).max_items(1000);
                let call = call.into_paginator().items().send();
                call.collect::<Result<Vec<_>, _>>().await.map_err(problem("iam:ListInstanceProfiles"))?
            }
        };
        let see = |profile: aws_sdk_iam::types::InstanceProfile| {
            // A list does not have the tags; the name says whose it is that is asked for.
            let wanted =
                which.wanted().iter().find(|wanted| wanted.id().as_str() == profile.instance_profile_name());
            let owner = Owner::read(&tags_of(profile.tags())).or_else(|| {
                which.only().is_none().then(|| wanted.map(|wanted| Owner::of(wanted.object)))?
            })?;
            let role = profile.roles().first().map(|role| role.role_name().to_owned());
            let seen = Sighting::new(owner, profile.instance_profile_name(), json!({"role": role}));
            Some(seen.gives("arn", profile.arn()))
        };
        Ok(found.into_iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let call = aws.iam.create_instance_profile().instance_profile_name(wanted.id().as_str()).path(PATH);
        let call = call.set_tags(Some(tags(wanted, "iam:CreateInstanceProfile")?));
        call.send().await.map_err(problem("iam:CreateInstanceProfile")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        if there.text("role") == wanted.text("role") {
            return Ok(Settled::Already);
        }
        // It holds one role at most.
        self.empty(aws, there).await?;
        let add = || async {
            let call = aws.iam.add_role_to_instance_profile().instance_profile_name(&there.native);
            let call = call.set_role_name(wanted.text("role").map(str::to_owned));
            call.send().await.map_err(problem("iam:AddRoleToInstanceProfile"))
        };
        aws.once_visible(add).await?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        self.empty(aws, there).await?;
        let call = aws.iam.delete_instance_profile().instance_profile_name(&there.native);
        call.send().await.map_err(problem("iam:DeleteInstanceProfile")).map(drop)
    }
}

impl InstanceProfile {
    async fn empty(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let Some(role) = there.text("role") else { return Ok(()) };
        let call = aws.iam.remove_role_from_instance_profile().instance_profile_name(&there.native);
        let found = call.role_name(role).send().await.map_err(problem("iam:RemoveRoleFromInstanceProfile"));
        unless_absent(found).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_come_with_percent_signs() {
        assert_eq!(document("%7B%22Version%22%3A%20%222012-10-17%22%7D"), json!({"Version": "2012-10-17"}));
        assert_eq!(percent_decoded("100%"), "100%");
    }

    #[test]
    fn a_policy_is_seen_as_it_was_given() {
        let given = json!("{ \"a\": 1 }");
        assert_eq!(seen_policy(&json!({"a": 1}), Some(&given)), given);
        assert_eq!(seen_policy(&json!({"a": 2}), Some(&given)), json!("{\"a\":2}"));
        assert_eq!(seen_policy(&json!({"a": 2}), Some(&json!({"a": 1}))), json!({"a": 2}));
    }
}
