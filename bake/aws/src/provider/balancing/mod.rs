//! Load balancers, target groups, listeners and rules. Their names are their ids; listeners and rules are told apart
//! by their port and their priority.

mod actions;
mod balancer;
mod listener;
mod rule;
mod target;

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types::Tag;

use super::clients::Aws;
use super::kind::{Kind, Wanted, Which};
use super::owner::{self, Owner, Tags};
use super::problem::{Nature, Problem, problem};

pub(super) use actions::{shares, weigh};

/// The types of this folder.
pub(super) const KINDS: &[(&str, &dyn Kind)] = &[
    ("aws.load_balancer", &balancer::LoadBalancer),
    ("aws.target_group", &target::TargetGroup),
    ("aws.listener", &listener::Listener),
    ("aws.listener_rule", &rule::ListenerRule),
];

/// The most objects whose tags one call tells.
const MOST_TAGGED: usize = 20;

fn tags(wanted: &Wanted<'_>) -> Vec<Tag> {
    let tags = owner::tags(wanted.object, wanted.inputs);
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// Whose objects are, by their ARNs.
async fn owners(aws: &Aws, arns: &[String]) -> Result<BTreeMap<String, Owner>, Problem> {
    let mut found = BTreeMap::new();
    for some in arns.chunks(MOST_TAGGED) {
        let call = aws.balancing.describe_tags().set_resource_arns(Some(some.to_vec()));
        let answer = call.send().await.map_err(problem("elasticloadbalancing:DescribeTags"))?;
        for description in answer.tag_descriptions() {
            let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
            let tags: Tags = description.tags().iter().filter_map(pair).collect();
            let arn = description.resource_arn().map(str::to_owned);
            found.extend(arn.zip(Owner::read(&tags)));
        }
    }
    Ok(found)
}

/// Whose the named objects are: those that are asked for by their names, of others their tags tell.
async fn owners_by_name(
    aws: &Aws,
    which: Which<'_>,
    named: &[(String, String)],
) -> Result<BTreeMap<String, Owner>, Problem> {
    match which {
        Which::All => {
            let ours = |name: &String| name.rsplit('-').next().is_some_and(|end| end.len() == 8);
            let arns: Vec<String> =
                named.iter().filter(|(name, _)| ours(name)).map(|(_, arn)| arn.clone()).collect();
            owners(aws, &arns).await
        }
        Which::These(wanted) => {
            let by_name: BTreeMap<&str, &Wanted<'_>> =
                wanted.iter().map(|wanted| (wanted.id().as_str(), wanted)).collect();
            let owner = |(name, arn): &(String, String)| {
                Some((arn.clone(), Owner::of(by_name.get(name.as_str())?.object)))
            };
            Ok(named.iter().filter_map(owner).collect())
        }
    }
}

/// What is not there is nothing to see.
fn unless_absent<T>(found: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(problem) if problem.nature() == Nature::Absent => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// A property that names another object, once it is known.
fn known<'a>(wanted: &Wanted<'a>, name: &str) -> Option<&'a str> {
    let text = wanted.inputs.get(name)?.as_str()?;
    text.starts_with("arn:").then_some(text)
}
