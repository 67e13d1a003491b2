//! What listeners and rules do with requests, and how they divide them.

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types::{
    Action, ActionTypeEnum, FixedResponseActionConfig, ForwardActionConfig, RedirectActionConfig,
    RedirectActionStatusCodeEnum, TargetGroupTuple,
};
use serde_json::Value;

use super::super::clients::Aws;
use super::super::kind::set;
use super::super::problem::{Problem, problem};

/// The weight of a target group that has all requests.
const ALL: i32 = 100;

/// Weights of target groups by their ARNs.
pub(in super::super) type Shares = BTreeMap<String, i32>;

/// Sends requests to target groups with weights.
pub(super) fn forward(shares: &Shares) -> Action {
    let tuple = |(arn, weight): (&String, &i32)| {
        TargetGroupTuple::builder().target_group_arn(arn).weight(*weight).build()
    };
    let config = ForwardActionConfig::builder().set_target_groups(Some(shares.iter().map(tuple).collect()));
    Action::builder().r#type(ActionTypeEnum::Forward).forward_config(config.build()).build()
}

/// Sends requests to the same place over TLS.
pub(super) fn to_https() -> Action {
    let config = RedirectActionConfig::builder()
        .protocol("HTTPS")
        .port("443")
        .status_code(RedirectActionStatusCodeEnum::Http301)
        .build();
    Action::builder().r#type(ActionTypeEnum::Redirect).redirect_config(config).build()
}

/// Says that nothing is there.
pub(super) fn nothing() -> Action {
    let config =
        FixedResponseActionConfig::builder().status_code("404").content_type("text/plain").message_body("");
    Action::builder().r#type(ActionTypeEnum::FixedResponse).fixed_response_config(config.build()).build()
}

/// How actions divide requests.
pub(super) fn divided(actions: &[Action]) -> Shares {
    let mut found = Shares::new();
    for action in actions.iter().filter(|action| action.r#type() == Some(&ActionTypeEnum::Forward)) {
        let groups = action.forward_config().map(ForwardActionConfig::target_groups).unwrap_or_default();
        for group in groups {
            let arn = group.target_group_arn().map(str::to_owned);
            found.extend(arn.map(|arn| (arn, group.weight().unwrap_or(1))));
        }
        if groups.is_empty() {
            found.extend(action.target_group_arn().map(|arn| (arn.to_owned(), ALL)));
        }
    }
    found
}

/// Shares of target groups: as they are, where they are the same groups; else the first has all.
pub(super) fn shared(there: &Shares, wanted: &[String]) -> Shares {
    let same = there.len() == wanted.len() && wanted.iter().all(|arn| there.contains_key(arn));
    match same {
        true => there.clone(),
        false => wanted
            .iter()
            .zip([ALL].into_iter().chain(std::iter::repeat(0)))
            .map(|(a, w)| (a.clone(), w))
            .collect(),
    }
}

/// The property `target_group_arns` as it is seen.
pub(super) fn seen(shares: &Shares) -> Value {
    set(shares.keys().cloned().map(Value::from))
}

fn is_rule(arn: &str) -> bool {
    arn.contains(":listener-rule/")
}

/// How a listener or a rule divides requests now.
pub(in super::super) async fn shares(aws: &Aws, arn: &str) -> Result<Shares, Problem> {
    if is_rule(arn) {
        let call = aws.balancing.describe_rules().rule_arns(arn);
        let found = call.send().await.map_err(problem("elasticloadbalancing:DescribeRules"))?;
        return Ok(found.rules().first().map(|rule| divided(rule.actions())).unwrap_or_default());
    }
    let call = aws.balancing.describe_listeners().listener_arns(arn);
    let found = call.send().await.map_err(problem("elasticloadbalancing:DescribeListeners"))?;
    Ok(found.listeners().first().map(|listener| divided(listener.default_actions())).unwrap_or_default())
}

/// Has a listener or a rule divide requests so.
pub(in super::super) async fn weigh(aws: &Aws, arn: &str, shares: &Shares) -> Result<(), Problem> {
    if is_rule(arn) {
        let call = aws.balancing.modify_rule().rule_arn(arn).actions(forward(shares));
        return call.send().await.map_err(problem("elasticloadbalancing:ModifyRule")).map(drop);
    }
    let call = aws.balancing.modify_listener().listener_arn(arn).default_actions(forward(shares));
    call.send().await.map_err(problem("elasticloadbalancing:ModifyListener")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_as_a_rollout_left_them() {
        let arns = ["a".to_owned(), "b".to_owned()];
        let fresh = shared(&Shares::new(), &arns);
        assert_eq!(fresh, Shares::from([("a".into(), 100), ("b".into(), 0)]));
        let moved = Shares::from([("a".into(), 0), ("b".into(), 100)]);
        assert_eq!(shared(&moved, &arns), moved);
        assert_eq!(divided(&[forward(&moved)]), moved);
    }
}
