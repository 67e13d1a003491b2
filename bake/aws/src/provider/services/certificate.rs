//! `aws.certificate` and `aws.certificate_validation`.

use async_trait::async_trait;
use aws_sdk_acm::types::{CertificateDetail, CertificateStatus, Tag, ValidationMethod};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Sighting, Stage, Wanted, Which};
use super::super::owner::{self, Owner, Tags, token};
use super::super::problem::{Problem, problem};
use super::{unless_absent, without_dot};

pub(super) struct Certificate;

impl Certificate {
    async fn owner(aws: &Aws, arn: &str) -> Result<Option<Owner>, Problem> {
        let found = aws.certificates.list_tags_for_certificate().certificate_arn(arn).send().await;
        let found = unless_absent(found.map_err(problem("acm:ListTagsForCertificate")))?;
        let tag = |tag: &Tag| (tag.key().to_owned(), tag.value().unwrap_or_default().to_owned());
        let tags: Option<Tags> = found.map(|found| found.tags().iter().map(tag).collect());
        Ok(tags.as_ref().and_then(Owner::read))
    }
}

async fn describe(aws: &Aws, arn: &str) -> Result<Option<CertificateDetail>, Problem> {
    let found = aws.certificates.describe_certificate().certificate_arn(arn).send().await;
    Ok(unless_absent(found.map_err(problem("acm:DescribeCertificate")))?.and_then(|found| found.certificate))
}

fn sighting(detail: &CertificateDetail, owner: Owner) -> Option<Sighting> {
    let arn = detail.certificate_arn()?;
    let record = detail.domain_validation_options().first().and_then(|option| option.resource_record());
    let stage = match (detail.status(), record) {
        (Some(CertificateStatus::Failed | CertificateStatus::ValidationTimedOut), _) => {
            let why = detail.failure_reason().map_or("it was not validated in time", |why| why.as_str());
            Stage::Broken(why.to_owned())
        }
        // Which record validates it is known a little later.
        (_, None) => Stage::Coming,
        _ => Stage::Ready,
    };
    let seen = Sighting::new(owner, arn, json!({"domain_name": detail.domain_name()})).at(stage);
    Some(
        seen.gives("arn", arn)
            .gives("validation_name", record.map(|record| without_dot(record.name())))
            .gives("validation_value", record.map(|record| without_dot(record.value()))),
    )
}

#[async_trait]
impl Kind for Certificate {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.certificates.list_certificates().into_paginator().items().send();
        let listed = call.collect::<Result<Vec<_>, _>>().await.map_err(problem("acm:ListCertificates"))?;
        let mut found = Vec::new();
        for summary in listed {
            let name = summary.domain_name();
            let asked = which.wanted().iter().any(|wanted| wanted.text("domain_name") == name);
            let Some(arn) = summary.certificate_arn().filter(|_| asked || matches!(which, Which::All)) else {
                continue;
            };
            let Some(owner) = Self::owner(aws, arn).await? else { continue };
            found.extend(describe(aws, arn).await?.and_then(|detail| sighting(&detail, owner)));
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let action = "acm:RequestCertificate";
        let tags = owner::tags(wanted.object, wanted.inputs);
        let tag = |(key, value): (&String, &String)| {
            let tag = Tag::builder().key(key).value(value).build();
            tag.map_err(|error| Problem::refused(action, error.to_string()))
        };
        let tags = tags.iter().map(tag).collect::<Result<Vec<_>, _>>()?;
        let call = aws.certificates.request_certificate();
        let call = call.set_domain_name(wanted.text("domain_name").map(str::to_owned));
        let call = call.validation_method(ValidationMethod::Dns).set_tags(Some(tags));
        let call = call.idempotency_token(token(wanted.object, wanted.inputs));
        call.send().await.map_err(problem(action)).map(drop)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.certificates.delete_certificate().certificate_arn(&there.native);
        call.send().await.map_err(problem("acm:DeleteCertificate")).map(drop)
    }
}

/// Nothing is made: it is waited until the certificate is issued.
pub(super) struct Validation;

#[async_trait]
impl Kind for Validation {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let mut found = Vec::new();
        for wanted in which.wanted() {
            let Some(arn) = wanted.text("certificate_arn").filter(|arn| arn.starts_with("arn:")) else {
                continue;
            };
            let Some(detail) = describe(aws, arn).await? else { continue };
            let stage = match detail.status() {
                Some(CertificateStatus::Issued) => Stage::Ready,
                Some(CertificateStatus::PendingValidation) | None => Stage::Coming,
                Some(other) => Stage::Broken(format!("the certificate is {}", other.as_str())),
            };
            let inputs = json!({"certificate_arn": arn});
            found.push(Sighting::new(Owner::of(wanted.object), arn, inputs).at(stage).gives("arn", arn));
        }
        Ok(found)
    }

    async fn make(&self, _aws: &Aws, _wanted: &Wanted<'_>) -> Result<(), Problem> {
        Ok(())
    }

    fn is_only_seen(&self) -> bool {
        true
    }

    async fn remove(&self, _aws: &Aws, _there: &Sighting) -> Result<(), Problem> {
        Ok(())
    }
}
