//! An image's operations for a machine that is there already: those of the images that it starts from and its own, as
//! one run. What the machine itself was made from is not looked at. Main type: [`Application`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use olbake_core::digest::FieldDigest;
use olbake_core::operation::Operation;
use olbake_core::plan::{Architecture, Payload};
use olbake_core::protocol::{FromAgent, Mode, Reboots};
use olbake_core::report::OperationReport;
use olbake_core::secret::SecretId;
use olbake_core::{ComponentName, Digest, ImageRef, OperationId};

use crate::bake::PlannedImage;
use crate::bake::operations::{counts, event_of, used_secrets};
use crate::event::{Event, EventSink, LayerOutcome, LayerResult};
use crate::secrets::{SecretError, SecretReader};
use crate::session::Run;

/// A component that is used by more than one of the images.
#[derive(Debug, thiserror::Error)]
#[error(
    "the component `{0}` is used by more than one of the images that belong together here: on one machine it is once"
)]
pub struct UsedTwice(pub ComponentName);

/// What is to be applied.
pub struct Application {
    /// The image.
    pub image: ImageRef,
    /// The architecture that its plan is for.
    pub architecture: Architecture,
    /// All operations, in order.
    pub operations: Vec<Operation>,
    /// Where the bytes of their contents are.
    pub payloads: BTreeMap<Digest, Payload>,
    /// Bytes that were made while planning.
    pub inline: BTreeMap<Digest, Arc<[u8]>>,
    layers: Vec<Layer>,
    sources: BTreeMap<SecretId, String>,
}

/// A component's part.
struct Layer {
    component: ComponentName,
    key: Digest,
    operations: HashSet<OperationId>,
}

impl Application {
    /// What the plans of an image and of those that it starts from, which come first, ask for together.
    pub fn of(planned: &[PlannedImage]) -> Result<Self, UsedTwice> {
        let last = &planned.last().expect("an image was planned").plan;
        let mut application = Self {
            image: last.image.clone(),
            architecture: last.architecture,
            operations: Vec::new(),
            payloads: BTreeMap::new(),
            inline: BTreeMap::new(),
            layers: Vec::new(),
            sources: BTreeMap::new(),
        };
        for PlannedImage { plan, inline } in planned {
            for layer in &plan.layers {
                if application.layers.iter().any(|known| known.component == layer.component) {
                    return Err(UsedTwice(layer.component.clone()));
                }
                application.layers.push(Layer {
                    component: layer.component.clone(),
                    key: layer.key,
                    operations: layer.operations.iter().map(|operation| operation.id.clone()).collect(),
                });
                application.operations.extend(layer.operations.iter().cloned());
            }
            application.payloads.extend(plan.payloads.clone());
            application.inline.extend(inline.clone());
            let sources = plan.secrets.iter().map(|(id, secret)| (id.clone(), secret.source.clone()));
            application.sources.extend(sources);
        }
        Ok(application)
    }

    /// The components, in order.
    pub fn components(&self) -> Vec<ComponentName> {
        self.layers.iter().map(|layer| layer.component.clone()).collect()
    }

    /// Names the run: the same plan on the same machine goes on where it was interrupted.
    pub fn key(&self) -> Digest {
        let start = FieldDigest::new("apply");
        self.layers.iter().fold(start, |digest, layer| digest.field("layer", layer.key.as_bytes())).finish()
    }

    /// The run, with the values of the secrets that it uses.
    pub fn run(&self, mode: Mode, work_dir: &str, secrets: &SecretReader) -> Result<Run, SecretError> {
        let mut run = self.run_of(&self.operations, self.key(), work_dir, secrets)?;
        run.mode = mode;
        run.keep_going = mode == Mode::Check;
        Ok(run)
    }

    /// A run of other operations on the same machine: what ends an image, checks. Who searches for leaks is told every
    /// secret.
    pub fn run_of(
        &self,
        operations: &[Operation],
        run: Digest,
        work_dir: &str,
        secrets: &SecretReader,
    ) -> Result<Run, SecretError> {
        let values: Result<BTreeMap<SecretId, String>, SecretError> = self
            .sources
            .iter()
            .map(|(id, source)| Ok((id.clone(), secrets.value(source)?.to_string())))
            .collect();
        Ok(Run {
            mode: Mode::Apply,
            run,
            work_dir: work_dir.to_owned(),
            operations: operations.to_vec(),
            secrets: used_secrets(operations, &values?),
            workers: 0,
            shuffle: None,
            keep_going: false,
            packages: false,
            reboots: Reboots::Done,
            architecture: Some(self.architecture.kernel()),
        })
    }

    /// What an agent says of a run of these operations, as events.
    pub fn tell<'a>(
        &'a self,
        operations: &'a [Operation],
        events: &'a EventSink,
    ) -> impl FnMut(&FromAgent) + Send + 'a {
        let index: BTreeMap<&str, &Operation> =
            operations.iter().map(|operation| (operation.id.as_str(), operation)).collect();
        move |message| {
            if let Some(event) = event_of(&self.image, message, &index) {
                events.send(event);
            }
        }
    }

    /// How each component's operations ended: as events, and as they are written down.
    pub fn tell_layers(&self, reports: &[OperationReport], events: &EventSink) -> Vec<LayerResult> {
        let mut results = Vec::new();
        for Layer { component, key, operations } in &self.layers {
            let own: Vec<OperationReport> =
                reports.iter().filter(|report| operations.contains(&report.id)).cloned().collect();
            let micros: u64 = own.iter().map(|report| report.micros).sum();
            let seconds = std::time::Duration::from_micros(micros).as_secs_f64();
            events.send(Event::LayerFinished {
                image: self.image.clone(),
                component: component.clone(),
                key: *key,
                outcome: LayerOutcome::Run,
                operations: counts(&own),
                seconds,
            });
            results.push(LayerResult {
                component: component.to_string(),
                key: *key,
                outcome: LayerOutcome::Run,
                seconds,
            });
        }
        results
    }
}
