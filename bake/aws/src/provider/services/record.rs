//! `aws.record`. It has no tags: a name and a type in a zone are what it is known by.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_route53::types::{
    AliasTarget, Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet as Seen, RrType,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which, read, set};
use super::super::owner::Owner;
use super::super::problem::{Nature, Problem, problem};
use super::{unless_absent, without_dot};

pub(super) struct Record;

const CHANGE: &str = "route53:ChangeResourceRecordSets";

#[derive(Deserialize)]
struct Names {
    zone_id: String,
    name: String,
    r#type: String,
    ttl: i64,
    records: Vec<String>,
    alias: Option<Follows>,
}

#[derive(Deserialize)]
struct Follows {
    dns_name: String,
    zone_id: String,
}

impl Names {
    fn set(&self) -> Result<Seen, Problem> {
        let wrong = |error: aws_sdk_route53::error::BuildError| Problem::refused(CHANGE, error.to_string());
        let set = Seen::builder().name(&self.name).r#type(RrType::from(self.r#type.as_str()));
        if let Some(Follows { dns_name, zone_id }) = &self.alias {
            let target = AliasTarget::builder().dns_name(dns_name).hosted_zone_id(zone_id);
            let target = target.evaluate_target_health(false).build().map_err(wrong)?;
            return set.alias_target(target).build().map_err(wrong);
        }
        let record = |value: &String| ResourceRecord::builder().value(value).build().map_err(wrong);
        let records = self.records.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        set.ttl(self.ttl).set_resource_records(Some(records)).build().map_err(wrong)
    }

    async fn change(&self, aws: &Aws, action: ChangeAction) -> Result<(), Problem> {
        let wrong = |error: aws_sdk_route53::error::BuildError| Problem::refused(CHANGE, error.to_string());
        let change =
            Change::builder().action(action).resource_record_set(self.set()?).build().map_err(wrong)?;
        let batch = ChangeBatch::builder().changes(change).comment("olbake").build().map_err(wrong)?;
        let call = aws.dns.change_resource_record_sets().hosted_zone_id(&self.zone_id).change_batch(batch);
        call.send().await.map_err(problem(CHANGE)).map(drop)
    }
}

/// A name in one form: stars are written as codes by Route 53.
fn plain(name: &str) -> String {
    without_dot(name).replace("\\052", "*").to_ascii_lowercase()
}

fn sighting(seen: &Seen, wanted: &Wanted<'_>) -> Sighting {
    let alias = seen.alias_target().map(
        |target| json!({"dns_name": without_dot(target.dns_name()), "zone_id": target.hosted_zone_id()}),
    );
    let records = seen.resource_records().iter().map(|record| Value::from(record.value()));
    // As it was given, where it is the same.
    let name = wanted.text("name").unwrap_or_default();
    let mut inputs = json!({
        "zone_id": wanted.text("zone_id"), "name": name, "type": seen.r#type().as_str(),
        "records": set(records), "alias": alias,
    });
    if let Some(ttl) = seen.ttl() {
        inputs["ttl"] = json!(ttl);
    }
    let native = format!("{name} {}", seen.r#type().as_str());
    Sighting::new(Owner::of(wanted.object), native, inputs).gives("name", name)
}

#[async_trait]
impl Kind for Record {
    fn is_anonymous(&self) -> bool {
        true
    }

    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let mut by_zone: BTreeMap<&str, Vec<&Wanted<'_>>> = BTreeMap::new();
        for wanted in which.wanted() {
            // Once it is known: what stands for it until then is no id.
            let is_id = |zone: &&str| zone.chars().all(|c| c.is_ascii_alphanumeric());
            let zone = wanted.text("zone_id").filter(is_id);
            if let Some(zone) = zone {
                by_zone.entry(zone).or_default().push(wanted);
            }
        }
        let mut found = Vec::new();
        for (zone, all) in by_zone {
            let call = aws.dns.list_resource_record_sets().hosted_zone_id(zone);
            let call = match all.as_slice() {
                [only] => {
                    let name = only.text("name").map(|name| format!("{}.", without_dot(name)));
                    let call = call.set_start_record_name(name);
                    call.set_start_record_type(only.text("type").map(RrType::from)).max_items(1)
                }
                _ => call,
            };
            // One page is enough for one; all pages for many.
            let mut call = call;
            loop {
                let answer = call.clone().send().await.map_err(problem("route53:ListResourceRecordSets"));
                let Some(answer) = unless_absent(answer)? else { break };
                for seen in answer.resource_record_sets() {
                    let is = |wanted: &&&Wanted<'_>| {
                        wanted.text("name").map(plain) == Some(plain(seen.name()))
                            && wanted.text("type") == Some(seen.r#type().as_str())
                    };
                    found.extend(all.iter().find(is).map(|wanted| sighting(seen, wanted)));
                }
                if all.len() == 1 || !answer.is_truncated() {
                    break;
                }
                call = call
                    .set_start_record_name(answer.next_record_name)
                    .set_start_record_type(answer.next_record_type);
            }
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let names: Names = wanted.read(CHANGE)?;
        names.change(aws, ChangeAction::Create).await
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let follows = wanted.inputs.get("alias").is_some_and(|alias| !alias.is_null());
        let says = |name: &String, value: &Value| !value.is_null() && (name != "ttl" || !follows);
        let mut asked = wanted.inputs.iter().filter(|(name, value)| says(name, value));
        if asked.all(|(name, value)| there.inputs.get(name) == Some(value)) {
            return Ok(Settled::Already);
        }
        let names: Names = wanted.read(CHANGE)?;
        names.change(aws, ChangeAction::Upsert).await.map(|()| Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let mut inputs = there.inputs.clone();
        inputs.entry("ttl").or_insert(json!(0));
        let names: Names = read(&inputs).map_err(|error| Problem::failed(CHANGE, error.to_string()))?;
        match names.change(aws, ChangeAction::Delete).await {
            Err(problem) if problem.nature() == Nature::Absent => Ok(()),
            other => other,
        }
    }

    async fn claim(&self, _aws: &Aws, _wanted: &Wanted<'_>, _foreign: &str) -> Result<(), Problem> {
        Ok(())
    }
}
