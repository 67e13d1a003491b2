//! Promotions carried out: facts read from the registry, gates judged, channels moved. Main type: [`Promotions`].
//!
//! The decision is made on the channel's last entry, and the change is refused if another came meanwhile: what moved
//! a channel between the two is never overwritten. A process killed at any moment has either created the new entry,
//! and with it made the change, or done nothing.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::diagnostic::Diagnostics;
use olbake_core::promotion::{
    APPROVAL_NAMESPACE, AllowedSigners, Approvals, Before, Channel, ChannelRecord, Checks, Facts, Gate,
    Revocation, Signer, Statement, Verdict, Why, channel_before, held, judge, rollback_targets,
};
use olbake_core::report::Outcome;
use olbake_core::time::Timestamp;
use olbake_core::{Digest, ImageRef};
use serde::Serialize;

use crate::config::Config;
use crate::registry::approvals::{SignatureError, SigningKey, signing_key};
use crate::registry::channels::{Move, Moved};
use crate::registry::revocations::REVOCATION_SCHEMA;
use crate::registry::{Records, RegistryError, Version};

/// Why a promotion, an approval or a way back was refused.
#[derive(Debug, thiserror::Error)]
pub enum PromotionError {
    /// Gates do not hold.
    #[error("{}", .0.text())]
    Gates(Box<Unmet>),
    /// The channel pointed to nothing else before.
    #[error("{channel} of `{image}` has no earlier version to go back to{}", passed_over(skipped))]
    NothingBefore {
        /// The image.
        image: ImageRef,
        /// The channel.
        channel: Channel,
        /// Earlier versions that do not do, with the reason.
        skipped: Vec<Skipped>,
    },
    /// A way back to what never was there.
    #[error("`{image}@{}` never was in {channel}", digest.short())]
    NeverThere {
        /// The image.
        image: ImageRef,
        /// The version.
        digest: Digest,
        /// The channel.
        channel: Channel,
    },
    /// The key may not approve.
    #[error("the signature is right, but by {fingerprint}, {refusal}")]
    NotAllowed {
        /// The key's fingerprint.
        fingerprint: String,
        /// Why it does not count.
        refusal: olbake_core::promotion::Refusal,
    },
    /// The signature is none.
    #[error("the approval is not accepted")]
    Signature(#[from] SignatureError),
    /// The file of allowed signers cannot be read.
    #[error("cannot read the allowed signers in `{path}`")]
    AllowedSigners {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file of allowed signers has mistakes.
    #[error("the allowed signers have mistakes")]
    Diagnostics(Diagnostics),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Gates that do not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The image.
    pub image: ImageRef,
    /// The version.
    pub digest: Digest,
    /// The channel.
    pub channel: Channel,
    /// What each gate said, also those that hold.
    pub verdicts: Vec<Verdict>,
}

impl Unmet {
    fn text(&self) -> String {
        let Self { image, digest, channel, verdicts } = self;
        let failed: Vec<String> = verdicts
            .iter()
            .filter(|verdict| !verdict.held)
            .map(|verdict| format!("{} ({})", verdict.gate, verdict.reason))
            .collect();
        format!("`{image}@{}` may not enter {channel}: {}", digest.short(), failed.join("; "))
    }
}

fn passed_over(skipped: &[Skipped]) -> String {
    skipped.iter().map(|skipped| format!("; {}", skipped.reason)).collect()
}

type Result<T> = std::result::Result<T, PromotionError>;

/// An earlier version that a channel does not go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The version.
    pub digest: Digest,
    /// Why not.
    pub reason: String,
}

/// A way back that was gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// How it ended.
    pub moved: Moved,
    /// Nearer versions that do not do.
    pub skipped: Vec<Skipped>,
}

/// An approval that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approved {
    /// Who signed; none where the channel asks for no approvals.
    pub signer: Option<Signer>,
    /// The fingerprint of the key.
    pub fingerprint: String,
    /// Whether this signature is new.
    pub new: bool,
    /// All who approved by now.
    pub signers: Vec<Signer>,
    /// How many the channel asks for.
    pub wanted: u32,
}

/// What a revocation means.
#[derive(Clone, Debug, PartialEq)]
pub struct Revoked {
    /// What stands: the first revocation, where there was one.
    pub revocation: Revocation,
    /// The versions that start from it.
    pub descendants: Vec<Version>,
    /// The channels that point to it or to one of those.
    pub channels: Vec<ChannelRecord>,
}

/// Promotions in one registry, by one person, at one time.
#[derive(Clone, Copy, Debug)]
pub struct Promotions<'a> {
    /// The registry.
    pub records: &'a Records,
    /// The channels and their gates.
    pub config: &'a Config,
    /// Who acts, as they say.
    pub by: &'a str,
    /// The time.
    pub now: Timestamp,
}

impl Promotions<'_> {
    /// What the gates before a channel say of a version.
    pub fn judge(&self, version: &Version, channel: &Channel) -> Result<Vec<Verdict>> {
        let gates = self.config.gates(channel).gates;
        let ancestors = self.records.ancestors(version)?;
        let revocations = self.revocations(version, &ancestors)?;
        let before = channel_before(&self.config.channels, channel);
        let history = match before {
            Some(before) => self.records.channel_history(&version.image_ref(), before)?,
            None => Vec::new(),
        };
        let approvals =
            if wanted(&gates) > 0 { self.approvals(version, channel)? } else { Approvals::default() };
        Ok(judge(
            &gates,
            &Facts {
                digest: version.digest,
                checks: checks(version),
                ancestors: &ancestors,
                revocations: &revocations,
                before: before.map(|channel| Before { channel, history: &history }),
                approvals: &approvals,
                now: self.now,
            },
        ))
    }

    /// Moves a channel to a version if every gate before it holds.
    pub fn promote(&self, version: &Version, to: &Channel, why: Why, reason: Option<&str>) -> Result<Moved> {
        let image = version.image_ref();
        // What others do from here on is noticed when the channel is moved.
        let seen = self.records.channel_record(&image, to)?.map_or(0, |record| record.sequence);
        let verdicts = self.judge(version, to)?;
        if !held(&verdicts) {
            let unmet = Unmet { image, digest: version.digest, channel: to.clone(), verdicts };
            return Err(PromotionError::Gates(Box::new(unmet)));
        }
        let reason = reason.map(str::to_owned);
        let (channel, digest, by, at) = (to.clone(), version.digest, self.by.to_owned(), self.now);
        let change = Move { image, channel, seen, digest, by, at, why, reason, evidence: verdicts };
        Ok(self.records.move_channel(&change)?)
    }

    /// Takes a channel back to the version before, or to one that it pointed to once. Of the gates only the first is
    /// asked: a way back must not wait for approvals.
    pub fn rollback(
        &self,
        image: &ImageRef,
        channel: &Channel,
        to: Option<&Version>,
        reason: Option<&str>,
    ) -> Result<RolledBack> {
        let history = self.records.channel_history(image, channel)?;
        let Some(last) = history.last() else {
            let (image, channel) = (image.clone(), channel.clone());
            return Err(RegistryError::EmptyChannel { image, channel }.into());
        };
        let (version, skipped) = match to {
            Some(version) if history.iter().any(|record| record.digest == version.digest) => {
                (self.records.resolve_digest_for_deploy(image, &version.digest)?, Vec::new())
            }
            Some(version) => {
                let (image, digest) = (image.clone(), version.digest);
                return Err(PromotionError::NeverThere { image, digest, channel: channel.clone() });
            }
            None => self.nearest(image, channel, &history)?,
        };
        let evidence = vec![self.not_revoked(&version)?];
        let moved = self.records.move_channel(&Move {
            image: image.clone(),
            channel: channel.clone(),
            seen: last.sequence,
            digest: version.digest,
            by: self.by.to_owned(),
            at: self.now,
            why: Why::RolledBack,
            reason: reason.map(str::to_owned),
            evidence,
        })?;
        Ok(RolledBack { moved, skipped })
    }

    /// Stores an approval, if the signature is right and the signer may approve for the channel.
    pub fn approve(&self, version: &Version, channel: &Channel, signature: &str) -> Result<Approved> {
        let statement = Statement::new(&version.image_ref(), version.digest, channel);
        let SigningKey { key, fingerprint } = signing_key(&statement, signature)?;
        let gates = self.config.gates(channel);
        if gates.allowed_signers.is_some() {
            let allowed = self.allowed_signers(channel)?;
            if let Err(refusal) = allowed.principals(&key, APPROVAL_NAMESPACE, self.now) {
                return Err(PromotionError::NotAllowed { fingerprint, refusal });
            }
        }
        let new = self.records.put_approval(&statement, signature)?;
        let signers = self.approvals(version, channel)?.signers();
        let signer = signers.iter().find(|signer| signer.fingerprints.contains(&fingerprint)).cloned();
        Ok(Approved { signer, fingerprint, new, signers, wanted: wanted(&gates.gates) })
    }

    /// Revokes a version, and says what else that concerns.
    pub fn revoke(&self, version: &Version, why: &str) -> Result<Revoked> {
        let revocation = self.records.revoke(&Revocation {
            schema: REVOCATION_SCHEMA,
            digest: version.digest,
            image: version.image_ref(),
            by: self.by.to_owned(),
            at: self.now,
            why: why.to_owned(),
        })?;
        let descendants = self.records.descendants(&version.digest)?;
        let affected: BTreeSet<Digest> =
            descendants.iter().chain([version]).map(|version| version.digest).collect();
        let mut channels = self.records.channels()?;
        channels.retain(|record| affected.contains(&record.digest));
        Ok(Revoked { revocation, descendants, channels })
    }

    /// The nearest earlier version that can still be deployed, and those passed over.
    fn nearest(
        &self,
        image: &ImageRef,
        channel: &Channel,
        history: &[ChannelRecord],
    ) -> Result<(Version, Vec<Skipped>)> {
        let mut skipped = Vec::new();
        for digest in rollback_targets(history) {
            match self.records.resolve_digest_for_deploy(image, &digest) {
                Ok(version) => return Ok((version, skipped)),
                Err(error @ (RegistryError::Revoked { .. } | RegistryError::UnknownVersion { .. })) => {
                    skipped.push(Skipped { digest, reason: error.to_string() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(PromotionError::NothingBefore { image: image.clone(), channel: channel.clone(), skipped })
    }

    fn not_revoked(&self, version: &Version) -> Result<Verdict> {
        let ancestors = self.records.ancestors(version)?;
        let revocations = self.revocations(version, &ancestors)?;
        let facts = Facts {
            digest: version.digest,
            checks: checks(version),
            ancestors: &ancestors,
            revocations: &revocations,
            before: None,
            approvals: &Approvals::default(),
            now: self.now,
        };
        Ok(judge(&[], &facts).swap_remove(0))
    }

    fn revocations(&self, version: &Version, ancestors: &[Digest]) -> Result<Vec<Revocation>> {
        let all = std::iter::once(&version.digest).chain(ancestors);
        Ok(all
            .filter_map(|digest| self.records.revocation(digest).transpose())
            .collect::<std::result::Result<_, _>>()?)
    }

    fn approvals(&self, version: &Version, channel: &Channel) -> Result<Approvals> {
        let statement = Statement::new(&version.image_ref(), version.digest, channel);
        Ok(self.records.approvals(&statement, &self.allowed_signers(channel)?, self.now)?)
    }

    fn allowed_signers(&self, channel: &Channel) -> Result<AllowedSigners> {
        let Some(path) = self.config.gates(channel).allowed_signers else {
            return Ok(AllowedSigners::default());
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|source| PromotionError::AllowedSigners { path: path.clone(), source })?;
        AllowedSigners::parse(shown(&path, &self.config.root), &text).map_err(PromotionError::Diagnostics)
    }
}

/// A path as diagnostics name it: from the workspace on.
fn shown<'a>(path: &'a Utf8Path, root: &Utf8Path) -> &'a str {
    path.strip_prefix(root).unwrap_or(path).as_str()
}

fn wanted(gates: &[Gate]) -> u32 {
    let signers = gates.iter().map(|gate| match gate {
        Gate::Approved { signers } => *signers,
        Gate::NotRevoked | Gate::Verified | Gate::Soaked { .. } => 0,
    });
    signers.max().unwrap_or(0)
}

fn checks(version: &Version) -> Checks {
    let count = |outcomes: &[Outcome]| {
        version.checks.iter().filter(|check| outcomes.contains(&check.outcome)).count()
    };
    Checks {
        passed: count(&[Outcome::Ok, Outcome::Changed]),
        failed: count(&[Outcome::Failed]),
        skipped: count(&[Outcome::Skipped]),
    }
}
