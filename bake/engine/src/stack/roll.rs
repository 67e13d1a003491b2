//! Driving a rollout: the machine of `olbake_core::rollout` decides, a [`super::provider::Fleet`] is asked, and the
//! machine's whole state is written down before anything is asked of the fleet. A rollout that was cut short goes on
//! from there; its steps can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use olbake_core::Digest;
use olbake_core::rollout::{
    self, Attachment, Availability, Captured, Existing, Hook, InstanceId, Observation, OnFailure, Outcome,
    Phase, Preflight, Release, Request, Rollout, Step, StepResult, Time, Traffic, Verdict,
};
use olbake_core::stack::plan::{Action, release, release_properties};
use olbake_core::stack::record::{GroupState, Refused};
use olbake_core::stack::{Record, ResourceName};
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::carry_out::{Work, whole};
use super::error::StackError;
use super::event::StackEvent;
use super::group::Group;
use super::look::object;
use super::provider::{Fleet, Launch, Life, Object, Provider, ProviderError, Seen};
use super::site::{HookCommand, Site};

/// How often a group is looked at while nothing else happens.
const TICK: Duration = Duration::from_millis(300);

/// Brings a group's instances to what its properties say.
pub(super) async fn roll(work: &Work, action: &Action, inputs: Map<String, Value>) -> Result<(), StackError> {
    let driver = Driver::new(work, action, inputs).await?;
    if driver.fleet()?.delegates(&driver.revealed) {
        return driver.delegate().await;
    }
    let mut machine = driver.machine().await?;
    driver.run(&mut machine).await
}

/// What a release is launched with, secrets put in.
type Releases = BTreeMap<Release, Map<String, Value>>;

struct Driver<'a> {
    work: &'a Work,
    name: ResourceName,
    object: Object,
    provider: Arc<dyn Provider>,
    group: Group,
    /// Complete, with secrets as markers: what may be written down.
    inputs: Map<String, Value>,
    /// Complete, with secrets: what the fleet is given.
    revealed: Arc<Map<String, Value>>,
    to: Release,
    before: GroupState,
    releases: Arc<Releases>,
    hooks: Arc<BTreeMap<Digest, Vec<HookCommand>>>,
}

impl<'a> Driver<'a> {
    async fn new(work: &'a Work, action: &Action, inputs: Map<String, Value>) -> Result<Self, StackError> {
        let Work { site, stack, held } = work;
        let name = action.name.clone();
        let wrong = |problem: String| StackError::Value { name: name.clone(), problem };
        let group = Group::read(&inputs).map_err(wrong)?;
        let schema = site.catalog.get(&action.ty).ok_or_else(|| StackError::NoProvider(action.ty.clone()))?;
        let digest = release(schema, &inputs, &action.secrets);
        let to = group.release(digest.expect("the properties are complete"));
        let revealed = work.reveal(action, &inputs)?;
        let before =
            held.with(|state| state.resources.get(&name).and_then(|applied| applied.group.clone())).await?;
        let before = before.unwrap_or_default();
        let mut releases = Releases::from([(to, release_properties(schema, &revealed))]);
        if let Some(from) = captured(&before) {
            let properties = work.reveal(action, &before.properties)?;
            releases.entry(from.release).or_insert(properties);
        }
        let mut hooks = BTreeMap::new();
        for image in releases.keys().map(|release| release.image).collect::<BTreeSet<Digest>>() {
            hooks.insert(image, site.images.upgrade_hooks(&image).await?);
        }
        Ok(Self {
            work,
            object: object(stack, &name, &action.ty, &action.id),
            name,
            provider: site.provider(&action.ty)?.clone(),
            group,
            inputs,
            revealed: Arc::new(revealed),
            to,
            before,
            releases: Arc::new(releases),
            hooks: Arc::new(hooks),
        })
    }

    fn site(&self) -> &Site {
        &self.work.site
    }

    fn fleet(&self) -> Result<&dyn Fleet, StackError> {
        fleet(&*self.provider).map_err(|source| self.wrap(source))
    }

    fn wrap(&self, source: ProviderError) -> StackError {
        StackError::Provider { name: self.name.clone(), source }
    }

    /// The rollout that is under way towards the same release, or a new one from what is there.
    async fn machine(&self) -> Result<Rollout, StackError> {
        let name = &self.name;
        let held = &self.work.held;
        let written =
            held.with(|state| state.resources.get(name).and_then(|applied| applied.rollout.clone())).await?;
        let mut liens_left = BTreeSet::new();
        if let Some(written) = written {
            let mut machine: Rollout = serde_json::from_value(written)
                .map_err(|source| StackError::BadRollout { name: name.clone(), source })?;
            if self.is_wanted(machine.request())? {
                machine.resume(&[], self.site().now());
                return Ok(machine);
            }
            liens_left = machine.report().liens_left.into_iter().collect();
        }
        let request = self.request(liens_left).await?;
        let machine = Rollout::begin(request, self.site().now())?;
        self.fetch(machine.request()).await?;
        Ok(machine)
    }

    /// Fetches the image that instances will be of, and the one that they would go back to.
    async fn fetch(&self, request: &Request) -> Result<(), StackError> {
        let fleet = self.fleet()?;
        let to = Some(request.to.image).filter(|_| request.desired > 0);
        let goes_back = request.replaces() && request.options.on_failure == OnFailure::RollBack;
        let from = request.from.filter(|_| goes_back).map(|from| from.release.image);
        for image in to.iter().chain(&from) {
            fleet.fetch(&self.object, image).await.map_err(|error| self.wrap(error))?;
        }
        Ok(())
    }

    /// Whether a rollout that is under way leads to what is wanted now, and as it is wanted: bounds that were
    /// changed since may be what lets it succeed.
    fn is_wanted(&self, request: &Request) -> Result<bool, StackError> {
        Ok(request.to == self.to
            && request.desired == self.group.size
            && request.options == self.options()?
            && request.checks == self.group.checks()
            && request.fronting == self.group.fronting())
    }

    fn options(&self) -> Result<rollout::Options, StackError> {
        let wrong = |problem: String| StackError::Value { name: self.name.clone(), problem };
        self.group.options().map_err(wrong)
    }

    async fn request(&self, inherited_liens: BTreeSet<rollout::Lien>) -> Result<Request, StackError> {
        let fleet = self.fleet()?;
        let seen = fleet.observe(&self.object, &self.revealed).await.map_err(|e| self.wrap(e))?;
        let room = fleet.room(&self.object, &self.revealed).await.map_err(|e| self.wrap(e))?;
        let asked = Asked {
            site: self.site(),
            object: &self.object,
            fleet,
            group: &self.group,
            before: &self.before,
            to: self.to,
            hooks: self.hooks.values().any(|hooks| !hooks.is_empty()),
        };
        asked.request(&seen, room, inherited_liens).await
    }

    async fn run(&self, machine: &mut Rollout) -> Result<(), StackError> {
        let held = &self.work.held;
        let mut steps: JoinSet<(rollout::StepId, StepResult)> = JoinSet::new();
        let mut waiting = Vec::new();
        loop {
            let stopping = self.site().cancel.is_cancelled() || held.is_lost();
            if stopping && steps.is_empty() {
                self.write_down(machine).await?;
                return Err(StackError::Cancelled);
            }
            if !stopping {
                let world = self.observe(machine).await?;
                let decision = machine.next(&world, self.site().now());
                if !decision.steps.is_empty() || !decision.events.is_empty() {
                    self.write_down(machine).await?;
                }
                for event in decision.events {
                    self.site().say(StackEvent::Rollout { group: self.name.clone(), rollout: event });
                }
                if waiting != decision.waiting {
                    waiting = decision.waiting;
                    let event =
                        StackEvent::RolloutStatus { group: self.name.clone(), waiting: waiting.clone() };
                    self.site().say(event);
                }
                for step in decision.steps {
                    held.permit()?;
                    steps.spawn(self.carry_out(step));
                }
                if let Some(outcome) = decision.finished {
                    while steps.join_next().await.is_some() {}
                    return self.finish(machine, &outcome).await;
                }
            }
            tokio::select! {
                Some(ended) = steps.join_next(), if !steps.is_empty() => {
                    let (id, result) = ended?;
                    machine.done(id, &result, self.site().now());
                }
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn write_down(&self, machine: &Rollout) -> Result<(), StackError> {
        let state = serde_json::to_value(machine)
            .map_err(|source| StackError::BadRollout { name: self.name.clone(), source })?;
        self.work.held.append(Record::Rollout { name: self.name.clone(), state }).await?;
        Ok(())
    }

    /// The group as it is seen. What cannot be seen for now is unknown, and nothing is concluded from it.
    async fn observe(&self, machine: &Rollout) -> Result<Observation, StackError> {
        let wish = (self.site().wishes)(&self.work.stack, &self.name);
        let Ok(seen) = self.fleet()?.observe(&self.object, &self.revealed).await else {
            return Ok(Observation { wish, ..Observation::default() });
        };
        let mut instances: BTreeMap<InstanceId, rollout::Seen> =
            machine.watched().map(|member| (member.id.clone(), rollout::Seen::absent())).collect();
        instances.extend(seen.into_iter().map(|seen| (seen.instance.clone(), sight(seen))));
        Ok(Observation { instances, shares: None, wish })
    }

    fn carry_out(&self, step: Step) -> impl Future<Output = (rollout::StepId, StepResult)> + use<> {
        let doing = Doing {
            object: self.object.clone(),
            provider: self.provider.clone(),
            inputs: self.revealed.clone(),
            releases: self.releases.clone(),
            hooks: self.hooks.clone(),
        };
        async move {
            let result = match doing.act(&step.action).await {
                Ok(()) => StepResult::Done,
                Err(error) => StepResult::Failed { message: whole(&error) },
            };
            (step.id, result)
        }
    }

    async fn finish(&self, machine: &Rollout, outcome: &Outcome) -> Result<(), StackError> {
        let report = machine.report();
        let succeeded = *outcome == Outcome::Succeeded;
        self.keep(succeeded).await?;
        let refused = (!succeeded).then(|| outcome.to_string());
        self.conclude(refused).await?;
        let event = StackEvent::RolloutOver { group: self.name.clone(), report: Box::new(report) };
        self.site().say(event);
        match outcome {
            Outcome::Succeeded => Ok(()),
            other => Err(StackError::Rollout { name: self.name.clone(), outcome: other.to_string() }),
        }
    }

    /// Tells whatever keeps the group alive by itself which release holds.
    async fn keep(&self, succeeded: bool) -> Result<(), StackError> {
        let before = captured(&self.before).map(|from| from.release);
        let holds = if succeeded { Some(self.to) } else { before };
        let Some(release) = holds else { return Ok(()) };
        let Some(properties) = self.releases.get(&release) else { return Ok(()) };
        let kept = self.fleet()?.keep(&self.object, &self.revealed, &release.inputs, properties).await;
        kept.map_err(|error| self.wrap(error))
    }

    /// Writes down what the group runs now; with a reason, that it did not take its new release.
    async fn conclude(&self, refused: Option<String>) -> Result<(), StackError> {
        let seen = self.fleet()?.observe(&self.object, &self.revealed).await.map_err(|e| self.wrap(e))?;
        let known: Vec<Option<Release>> = self.releases.keys().copied().map(Some).collect();
        let instances = seen.iter().filter_map(|seen| existing(&known, seen)).collect();
        let schema = self.site().catalog.get(&self.object.ty);
        let group = match (refused, schema) {
            (None, Some(schema)) => GroupState {
                release: Some(self.to.inputs),
                properties: release_properties(schema, &self.inputs),
                size: self.group.size,
                instances,
                refused: None,
            },
            (why, _) => GroupState {
                instances,
                refused: why.map(|why| Refused { release: self.to.inputs, why }),
                ..self.before.clone()
            },
        };
        self.work.held.append(Record::RolledOut { name: self.name.clone(), group }).await?;
        Ok(())
    }

    /// Has the provider's own machinery replace the instances.
    async fn delegate(&self) -> Result<(), StackError> {
        self.work.held.permit()?;
        let done = self.fleet()?.delegate(&self.object, &self.revealed, &self.to.inputs).await;
        let refused = done.as_ref().err().map(|error| whole(error));
        self.conclude(refused).await?;
        done.map_err(|error| self.wrap(error))
    }
}

/// What a rollout is begun with.
pub(super) struct Asked<'a> {
    pub(super) site: &'a Site,
    pub(super) object: &'a Object,
    pub(super) fleet: &'a dyn Fleet,
    pub(super) group: &'a Group,
    pub(super) before: &'a GroupState,
    pub(super) to: Release,
    /// Whether an image that is there, or comes, wants something run on instances that leave.
    pub(super) hooks: bool,
}

impl Asked<'_> {
    pub(super) async fn request(
        &self,
        seen: &[Seen],
        room: Option<u32>,
        inherited_liens: BTreeSet<rollout::Lien>,
    ) -> Result<Request, StackError> {
        let Self { group, to, .. } = *self;
        let wrong = |problem: String| StackError::Value { name: self.object.name.clone(), problem };
        let from = captured(self.before);
        let images = &self.site.images;
        let preflight = Preflight {
            to: images.availability(&to.image).await?,
            from: match from {
                Some(from) => images.availability(&from.release.image).await?,
                None => Availability::Launchable,
            },
            room,
        };
        let known = [Some(to), from.map(|from| from.release)];
        Ok(Request {
            group: self.object.name.to_string(),
            prefix: prefix(self.object, &to, seen),
            from,
            to,
            desired: group.size,
            existing: seen.iter().filter_map(|seen| existing(&known, seen)).collect(),
            options: group.options().map_err(wrong)?,
            fronting: group.fronting(),
            checks: group.checks(),
            hooks: if self.hooks { BTreeSet::from([Hook::AfterDrain]) } else { BTreeSet::new() },
            liens: self.fleet.liens(),
            inherited_liens,
            preflight,
        })
    }
}

/// What names of a rollout's instances begin with: the release, and a number that no instance has yet.
fn prefix(object: &Object, to: &Release, seen: &[Seen]) -> String {
    let stem = format!("{}-{}", object.id, &to.inputs.hex()[..4]);
    (1_u32..)
        .map(|number| if number == 1 { stem.clone() } else { format!("{stem}{number}") })
        .find(|prefix| !seen.iter().any(|seen| seen.instance.0.starts_with(&format!("{prefix}-"))))
        .expect("some number is free")
}

/// An instance that is there. A release that nobody knows any more can serve, but not be launched: it is what it says
/// it is.
fn existing(known: &[Option<Release>], seen: &Seen) -> Option<Existing> {
    let of = |digest: &Digest| known.iter().flatten().find(|release| release.inputs == *digest).copied();
    let nothing = Digest::of(b"unknown");
    let strange = Release { image: seen.image.unwrap_or(nothing), inputs: seen.release.unwrap_or(nothing) };
    (seen.life != Life::Absent).then(|| Existing {
        id: seen.instance.clone(),
        release: seen.release.as_ref().and_then(of).unwrap_or(strange),
        since: Time(seen.since.unwrap_or_default()),
        slot: seen.slot,
    })
}

/// What ran before, if a rollout ever succeeded.
pub(super) fn captured(before: &GroupState) -> Option<Captured> {
    let image = Group::image_of(&before.properties)?;
    Some(Captured { release: Release { image, inputs: before.release? }, size: before.size })
}

pub(super) fn fleet(provider: &dyn Provider) -> Result<&dyn Fleet, ProviderError> {
    provider
        .fleet()
        .ok_or_else(|| ProviderError::refused(format!("provider `{}` has no groups", provider.name())))
}

/// What carrying a step out needs.
struct Doing {
    object: Object,
    provider: Arc<dyn Provider>,
    inputs: Arc<Map<String, Value>>,
    releases: Arc<Releases>,
    hooks: Arc<BTreeMap<Digest, Vec<HookCommand>>>,
}

impl Doing {
    async fn act(&self, action: &rollout::Action) -> Result<(), ProviderError> {
        let Self { object, inputs, .. } = self;
        let fleet = fleet(&*self.provider)?;
        match action {
            rollout::Action::TakeLien { lien } => fleet.take(object, *lien).await,
            rollout::Action::ReleaseLien { lien } => fleet.release(object, *lien).await,
            rollout::Action::Launch { instance, release, slot } => {
                let properties = self.releases.get(release);
                let properties = properties.ok_or_else(|| {
                    ProviderError::refused(format!("nothing is known of release {release}"))
                })?;
                let launch = Launch {
                    instance: instance.clone(),
                    release: release.inputs,
                    slot: *slot,
                    properties: properties.clone(),
                };
                fleet.launch(object, inputs, &launch).await
            }
            rollout::Action::Attach { instance, traffic } => {
                let weight = if *traffic == Traffic::Full { FULL } else { 0 };
                fleet.attach(object, inputs, instance, weight).await
            }
            rollout::Action::SetWeights { shares, old, new } => {
                let weights = weights(*shares, old, new);
                fleet.weigh(object, inputs, &weights).await
            }
            rollout::Action::Detach { instance } => fleet.drain(object, inputs, instance).await,
            rollout::Action::RunHook { instance, .. } => self.run_hooks(fleet, instance).await,
            rollout::Action::Terminate { instance } => {
                fleet.detach(object, inputs, instance).await?;
                fleet.terminate(object, instance).await
            }
        }
    }

    /// Runs the commands that the image of an instance wants run.
    async fn run_hooks(&self, fleet: &dyn Fleet, instance: &InstanceId) -> Result<(), ProviderError> {
        let seen = fleet.observe(&self.object, &self.inputs).await?;
        let image = seen.into_iter().find(|seen| seen.instance == *instance).and_then(|seen| seen.image);
        for hook in image.and_then(|image| self.hooks.get(&image)).into_iter().flatten() {
            fleet.run(&self.object, instance, &hook.argv, hook.limit).await?;
        }
        Ok(())
    }
}

/// The weight of an instance that has its full share.
const FULL: u32 = 100;

/// Weights of instances so that two sets have the given shares: only their ratio matters.
fn weights(shares: rollout::Shares, old: &[InstanceId], new: &[InstanceId]) -> Vec<(InstanceId, u32)> {
    let (old_count, new_count) = (old.len().max(1) as u64, new.len().max(1) as u64);
    let each = [u64::from(shares.old) * new_count, u64::from(shares.new) * old_count];
    let most = each.into_iter().max().unwrap_or(1).max(1);
    let scaled = |weight: u64| {
        let scaled = (weight * u64::from(FULL)).div_ceil(most);
        u32::try_from(scaled).unwrap_or(FULL)
    };
    let old = old.iter().map(|id| (id.clone(), scaled(each[0])));
    let new = new.iter().map(|id| (id.clone(), scaled(each[1])));
    old.chain(new).collect()
}

fn sight(seen: Seen) -> rollout::Seen {
    let verdict = |holds: bool| if holds { Verdict::Passing } else { Verdict::Failing };
    rollout::Seen {
        phase: match seen.life {
            Life::Absent => Phase::Absent,
            Life::Booting => Phase::Booting,
            Life::Running => Phase::Running,
            Life::Stopped => Phase::Stopped,
        },
        checks: seen.checks.into_iter().map(|probe| (probe.check, verdict(probe.holds))).collect(),
        digest: seen.image,
        attachment: match (seen.draining, seen.in_service) {
            (Some(connections), _) => Attachment::Draining { connections },
            (None, Some(serving)) => Attachment::In { serving },
            (None, None) => Attachment::Out,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_divide_between_sets_of_different_sizes() {
        let ids =
            |names: &[&str]| names.iter().map(|name| InstanceId((*name).to_owned())).collect::<Vec<_>>();
        let found = weights(rollout::Shares::to_new(10), &ids(&["a", "b", "c"]), &ids(&["x"]));
        let of = |name: &str| found.iter().find(|(id, _)| id.0 == name).unwrap().1;
        // Three old ones with 90 of 100 between them, one new one with 10: 30 each against 10.
        assert_eq!((of("a"), of("x")), (100, 34));
        let none = weights(rollout::Shares::to_new(100), &ids(&["a"]), &ids(&["x", "y"]));
        assert_eq!(none.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(), [0, 100, 100]);
    }
}
