//! The types of resources at AWS. They are known to every build, with the feature `aws` or without: recipes mean the
//! same in both. Main function: [`catalog`].

mod balancing;
mod iam;
mod instances;
mod network;
mod security;
mod services;
mod shorthand;

use olbake_core::stack::Catalog;

/// All types, under their names.
pub fn catalog() -> Catalog {
    Catalog::default()
        .with("aws.vpc", network::vpc())
        .with("aws.subnet", network::subnet())
        .with("aws.internet_gateway", network::internet_gateway())
        .with("aws.nat_gateway", network::nat_gateway())
        .with("aws.elastic_ip", network::elastic_ip())
        .with("aws.route_table", network::route_table())
        .with("aws.peering", network::peering())
        .with("aws.gateway_endpoint", network::gateway_endpoint())
        .with("aws.security_group", security::security_group())
        .with("aws.security_group_rule", security::security_group_rule())
        .with("aws.launch_template", instances::launch_template())
        .with("aws.auto_scaling_group", instances::auto_scaling_group())
        .with("aws.role", iam::role())
        .with("aws.policy", iam::policy())
        .with("aws.role_policy", iam::role_policy())
        .with("aws.instance_profile", iam::instance_profile())
        .with("aws.load_balancer", balancing::load_balancer())
        .with("aws.target_group", balancing::target_group())
        .with("aws.listener", balancing::listener())
        .with("aws.listener_rule", balancing::listener_rule())
        .with("aws.hosted_zone", services::hosted_zone())
        .with("aws.record", services::record())
        .with("aws.certificate", services::certificate())
        .with("aws.certificate_validation", services::certificate_validation())
        .with("aws.bucket", services::bucket())
        .with("aws.kms_key", services::kms_key())
        .with("aws.kms_alias", services::kms_alias())
        .with("aws.parameter", services::parameter())
        .with("aws.secret", services::secret())
}
