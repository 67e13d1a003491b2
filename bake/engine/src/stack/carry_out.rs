//! Carrying a plan out: every action after those that it names, as many at a time as the site allows, each written
//! down before and after. Nothing is chosen here. Main function: [`carry_out`].

use std::collections::BTreeMap;
use std::sync::Arc;

use olbake_core::stack::plan::{Act, Action};
use olbake_core::stack::queue::Queue;
use olbake_core::stack::record::{Intent, IntentAct, OperationKey};
use olbake_core::stack::{Record, StackPlan, StackState, value};
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::error::StackError;
use super::event::StackEvent;
use super::look::object;
use super::provider::ProviderError;
use super::roll;
use super::secrets::{reveal, reveal_known};
use super::site::Site;
use crate::state::Held;

/// How the actions of a plan ended.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) done: usize,
    pub(super) failures: Vec<(OperationKey, StackError)>,
    pub(super) skipped: usize,
    pub(super) cancelled: bool,
}

/// Carries out the actions of a plan.
pub(super) async fn carry_out(
    site: &Site,
    plan: &StackPlan,
    held: &Arc<Held<StackState>>,
) -> Result<Ends, StackError> {
    let mut queue = Queue::new(plan.actions.iter().map(|action| (&action.key, &action.after)));
    let by_key: BTreeMap<&OperationKey, &Action> =
        plan.actions.iter().map(|action| (&action.key, action)).collect();
    let mut running: JoinSet<(OperationKey, Result<(), StackError>)> = JoinSet::new();
    let mut ends = Ends::default();
    loop {
        while !site.cancel.is_cancelled() && !held.is_lost() && running.len() < site.jobs.max(1) {
            let Some(key) = queue.take() else { break };
            let work = Work { site: site.clone(), stack: plan.stack.clone(), held: held.clone() };
            let action = by_key[key].clone();
            running.spawn(async move { (action.key.clone(), work.act(&action).await) });
        }
        let Some(ended) = running.join_next().await else { break };
        let (key, result) = ended?;
        match result {
            Ok(()) => {
                ends.done += 1;
                queue.done(&&by_key[&key].key);
            }
            Err(StackError::Cancelled) => ends.cancelled = true,
            Err(error) => ends.failures.push((key, error)),
        }
    }
    ends.skipped = queue.left().len();
    ends.cancelled |= site.cancel.is_cancelled() && ends.skipped > 0;
    queue.left().for_each(|key| site.say(StackEvent::ActionSkipped { key: (*key).clone() }));
    Ok(ends)
}

/// What one action needs.
pub(super) struct Work {
    pub(super) site: Site,
    pub(super) stack: olbake_core::stack::StackName,
    pub(super) held: Arc<Held<StackState>>,
}

impl Work {
    async fn act(&self, action: &Action) -> Result<(), StackError> {
        let Action { key, act, name, ty, .. } = action;
        let started = self.site.clock.steady();
        self.site.say(StackEvent::ActionStarted {
            key: key.clone(),
            act: act.clone(),
            name: name.clone(),
            ty: ty.clone(),
        });
        let result = self.carry_out(action).await;
        let seconds = self.site.seconds_since(started);
        self.site.say(match &result {
            Ok(()) => StackEvent::ActionDone { key: key.clone(), seconds },
            Err(error) => StackEvent::ActionFailed { key: key.clone(), message: whole(error), seconds },
        });
        result
    }

    async fn carry_out(&self, action: &Action) -> Result<(), StackError> {
        let name = action.name.clone();
        match action.act {
            Act::Forget => {
                self.held.append(Record::Forgotten { id: action.id.clone() }).await?;
                Ok(())
            }
            Act::Mark => {
                let Action { protect, retain, dependencies, .. } = action.clone();
                self.held.append(Record::Marked { name, protect, retain, dependencies }).await?;
                Ok(())
            }
            Act::Roll => roll::roll(self, action, self.complete(action).await?).await,
            Act::Create | Act::Import { .. } | Act::Update | Act::Delete => self.ask(action).await,
        }
    }

    /// The properties of an action with every reference put in, checked again now that they are known.
    async fn complete(&self, action: &Action) -> Result<Map<String, Value>, StackError> {
        let inputs = self.held.with(|state| resolved(state, action)).await??;
        if action.act == Act::Delete {
            return Ok(inputs);
        }
        let schema = self.site.catalog.get(&action.ty);
        let schema = schema.ok_or_else(|| StackError::NoProvider(action.ty.clone()))?;
        schema.coerce(&inputs).map_err(|problems| StackError::Value {
            name: action.name.clone(),
            problem: problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "),
        })
    }

    /// Asks a provider, having written down that it will be asked, and writes down what came of it.
    async fn ask(&self, action: &Action) -> Result<(), StackError> {
        let inputs = self.complete(action).await?;
        let revealed = self.reveal(action, &inputs)?;
        let intent = action.intent(inputs).expect("objects are asked for by an intent");
        self.held.append(Record::Intent(Box::new(intent.clone()))).await?;
        self.held.permit()?;
        match self.call(action, &intent, &revealed).await {
            Ok(outputs) => {
                self.held.append(Record::Done { key: intent.key, outputs, seen: true }).await?;
                Ok(())
            }
            Err(source) => {
                if matches!(source, ProviderError::Refused { .. }) && intent.act != IntentAct::Update {
                    // It was refused before anything was made. Of any other end the next change finds out.
                    self.held.append(Record::NotDone { key: intent.key }).await?;
                }
                Err(StackError::Provider { name: intent.name, source })
            }
        }
    }

    async fn call(
        &self,
        action: &Action,
        intent: &Intent,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        let provider =
            self.site.provider(&action.ty).map_err(|error| ProviderError::refused(error.to_string()))?;
        let object = object(&self.stack, &action.name, &action.ty, &action.id);
        match &intent.act {
            IntentAct::Create => provider.create(&object, inputs).await,
            IntentAct::Import(foreign) => {
                provider.import(&object, foreign, inputs).await.map(|live| live.outputs)
            }
            IntentAct::Update => provider.update(&object, inputs).await,
            IntentAct::Delete => provider.delete(&object, inputs).await.map(|()| Map::new()),
        }
    }

    /// Properties with the secrets put in; what is removed need not have them.
    pub(super) fn reveal(
        &self,
        action: &Action,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, StackError> {
        match action.act {
            Act::Delete => Ok(reveal_known(&self.site, inputs)),
            _ => reveal(&self.site, &action.name, inputs),
        }
    }
}

fn resolved(state: &StackState, action: &Action) -> Result<Map<String, Value>, StackError> {
    let known =
        |reference: &value::Reference| reference.in_map(&state.resources.get(&reference.resource)?.outputs);
    let resolve = |(name, input): (&String, &Value)| {
        let resolved = value::resolve(input, &known);
        match value::references(&resolved).into_iter().next() {
            Some(missing) if action.act != Act::Delete => Err(StackError::NoOutput {
                name: action.name.clone(),
                reference: format!("{}.{}", missing.resource, missing.output),
            }),
            _ => Ok((name.clone(), resolved)),
        }
    };
    action.inputs.iter().map(resolve).collect()
}

/// An error with its causes on one line.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
