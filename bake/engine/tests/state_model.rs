//! The journal's protocol, checked over every order of its steps.
//!
//! What is checked is the code itself, not a copy of it: a holder's program is run again from its beginning with the
//! answers that it had so far, up to the call that it makes next. So a state of the model is the store, the cloud,
//! and what each holder has heard. Between any two calls another holder may go on, a holder may be killed, time may
//! pass a lease, and a put may have an unknown end: carried out, not carried out, or carried out at any later time.
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use olbake_core::stack::StackName;
use olbake_engine::state::{
    Clock, Fold, Heartbeat, HoldOptions, Holder, Objects, Process, StateError, StateStore, Takeover,
    Timestamp, Writer,
};
use olbake_engine::store::StoreError;
use olbake_engine::store::object::{Etag, Object, ObjectKey, Put, PutOutcome};
use serde::{Deserialize, Serialize};
use stateright::{Checker, Model, Property};
use tokio::sync::Notify;

const TTL: u64 = 10;

fn stack() -> StackName {
    "applications.hello.QA".parse().unwrap()
}

/// What exists, as a stack's state: a resource is pending under the token of its intent, or done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Applied {
    resources: BTreeMap<u8, (String, bool)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    Intent(u8, String),
    Done(u8),
}

impl Fold for Applied {
    type Record = Step;

    fn apply(&mut self, record: &Step) -> Result<(), String> {
        match record {
            Step::Intent(resource, token) => match self.resources.insert(*resource, (token.clone(), false)) {
                None => Ok(()),
                Some(_) => Err(format!("{resource} is intended twice")),
            },
            Step::Done(resource) => match self.resources.get_mut(resource) {
                Some((_, done @ false)) => {
                    *done = true;
                    Ok(())
                }
                _ => Err(format!("{resource} was not intended")),
            },
        }
    }

    fn lint(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a holder asks of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Call {
    Get(String),
    List(String, Option<String>),
    Put(PutCall),
    /// A create, under the token of its intent, by the holder of an epoch.
    Effect {
        resource: u8,
        token: String,
        epoch: u64,
    },
    /// Waits until no lease is good.
    Wait,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PutCall {
    key: String,
    bytes: Bytes,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Condition {
    Always,
    Absent,
    Match(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Got(Option<Bytes>),
    Listed(Vec<String>),
    Stored,
    Refused,
    Unsure,
    Done,
}

/// The answers that a holder had, and what the clock said; compared by digest.
#[derive(Clone, Debug, Default)]
struct History {
    digest: u64,
    answers: Arc<Vec<(Answer, Option<u64>)>>,
}

impl History {
    fn push(&mut self, answer: Answer, now: Option<u64>) {
        let mut hasher = DefaultHasher::new();
        (self.digest, &answer, now).hash(&mut hasher);
        self.digest = hasher.finish();
        Arc::make_mut(&mut self.answers).push((answer, now));
    }
}

impl PartialEq for History {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.answers.len() == other.answers.len()
    }
}

impl Eq for History {}

impl Hash for History {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

type Files = BTreeMap<String, Bytes>;

/// The content of an object, compared by digest.
#[derive(Clone, Debug)]
struct Bytes(u64, Arc<Vec<u8>>);

impl Bytes {
    fn new(bytes: Vec<u8>) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Self(hasher.finish(), Arc::new(bytes))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.1).unwrap()
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Bytes {}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// The world as a holder that is run again sees it: the answers it had, then silence.
#[derive(Debug)]
struct Script {
    answers: Mutex<VecDeque<(Answer, Option<u64>)>>,
    asked: Mutex<Option<Call>>,
    silence: Notify,
    now: AtomicU64,
}

impl Script {
    async fn ask(&self, call: Call) -> Answer {
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some((answer, now)) => {
                if let Some(now) = now {
                    self.now.store(now, Ordering::SeqCst);
                }
                answer
            }
            None => {
                *self.asked.lock().unwrap() = Some(call);
                self.silence.notify_one();
                std::future::pending().await
            }
        }
    }
}

impl Clock for Script {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Duration {
        Duration::from_millis(self.now.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl Objects for Script {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        match self.ask(Call::Get(key.to_string())).await {
            Answer::Got(bytes) => {
                Ok(bytes.map(|bytes| Object { etag: Etag::of(&bytes.1), bytes: bytes.1.to_vec() }))
            }
            other => panic!("{other:?} answers no get"),
        }
    }

    async fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError> {
        let condition = match condition {
            Put::Always => Condition::Always,
            Put::IfAbsent => Condition::Absent,
            Put::IfMatch(Etag(etag)) => Condition::Match(etag),
        };
        let put = PutCall { key: key.to_string(), bytes: Bytes::new(bytes.to_owned()), condition };
        match self.ask(Call::Put(put)).await {
            Answer::Stored => Ok(PutOutcome::Stored(Etag::of(bytes))),
            Answer::Refused => Ok(PutOutcome::Refused),
            Answer::Unsure => {
                let source = std::io::ErrorKind::TimedOut.into();
                Err(StoreError::Unsure { object: key.to_string(), source })
            }
            other => panic!("{other:?} answers no put"),
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        panic!("nothing of a journal is deleted: {key}");
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Vec<ObjectKey>, StoreError> {
        match self.ask(Call::List(prefix.to_owned(), after.map(ToString::to_string))).await {
            Answer::Listed(keys) => Ok(keys.iter().map(|key| key.parse().unwrap()).collect()),
            other => panic!("{other:?} answers no list"),
        }
    }

    fn place(&self, key: &ObjectKey) -> String {
        key.to_string()
    }
}

/// How a holder's program ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum End {
    Finished,
    /// It was taken over or its lease ran out: it stopped.
    Stopped,
    /// Something that must not happen.
    Wrong(String),
}

/// What a deploy is: hold, resolve what is in doubt, create what is missing, close.
async fn program(script: Arc<Script>, number: u128, resources: u8) -> End {
    match deploy(script, number, resources).await {
        Ok(()) => End::Finished,
        Err(StateError::Lost { .. } | StateError::Expired { .. }) => End::Stopped,
        Err(error) => End::Wrong(error.to_string()),
    }
}

async fn deploy(script: Arc<Script>, number: u128, resources: u8) -> Result<(), StateError> {
    let store = StateStore::new(script.clone());
    let held = loop {
        match store.hold::<Applied>(&stack(), options(&script, number)).await {
            Err(StateError::Busy { .. }) => drop(script.ask(Call::Wait).await),
            held => break held?,
        }
    };
    for resource in 0..resources {
        let token = match held.with(|state| state.resources.get(&resource).cloned()).await? {
            Some((_, true)) => continue,
            // In doubt: asking again with the token of the intent does it once.
            Some((token, false)) => token,
            None => {
                let token = format!("{number}-{resource}");
                held.append(Step::Intent(resource, token.clone())).await?;
                token
            }
        };
        held.permit()?;
        script.ask(Call::Effect { resource, token, epoch: held.epoch() }).await;
        held.append(Step::Done(resource)).await?;
    }
    held.close("deployed").await.map(drop)
}

fn options(script: &Arc<Script>, number: u128) -> HoldOptions {
    let elsewhere =
        Process { pid: 1, started: 1, boot: "b".into(), namespace: "n".into(), machine: "elsewhere".into() };
    HoldOptions {
        holder: Holder {
            who: number.to_string(),
            host: String::new(),
            process: elsewhere,
            command: String::new(),
            since: Timestamp(0),
        },
        writer: Writer::fixed(number),
        clock: script.clone(),
        ttl: Duration::from_millis(TTL),
        heartbeat: Heartbeat::Manual,
        takeover: Takeover::Refuse,
    }
}

/// Where a holder is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Asks(Call),
    Ended(End),
    Killed,
}

/// Runs a program that had these answers, to its next call or its end.
fn run<F: Future<Output = End>>(history: &History, program: impl FnOnce(Arc<Script>) -> F) -> Phase {
    let script = Arc::new(Script {
        answers: Mutex::new(history.answers.iter().cloned().collect()),
        asked: Mutex::default(),
        silence: Notify::new(),
        now: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            end = program(script.clone()) => Phase::Ended(end),
            () = script.silence.notified() => Phase::Asks(script.asked.lock().unwrap().take().unwrap()),
        }
    })
}

fn head_key() -> String {
    format!("v1/stacks/{}/HEAD", stack())
}

/// Carries a call on the store out.
fn serve(files: &mut Files, call: &Call) -> Answer {
    match call {
        Call::Get(key) => Answer::Got(files.get(key).cloned()),
        Call::List(prefix, after) => {
            let names = files
                .keys()
                .filter(|key| key.starts_with(prefix) && after.as_ref().is_none_or(|after| *key > after));
            Answer::Listed(names.cloned().collect())
        }
        Call::Put(put) => match put_holds(files, put) {
            true => {
                files.insert(put.key.clone(), put.bytes.clone());
                Answer::Stored
            }
            false => Answer::Refused,
        },
        Call::Effect { .. } | Call::Wait => Answer::Done,
    }
}

fn put_holds(files: &Files, put: &PutCall) -> bool {
    match (&put.condition, files.get(&put.key)) {
        (Condition::Always, _) => true,
        (Condition::Absent, there) => there.is_none(),
        (Condition::Match(etag), there) => there.is_some_and(|bytes| Etag::of(&bytes.1).0 == *etag),
    }
}

/// A holder: the answers it had, and so what it does next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    history: History,
    phase: Phase,
}

impl Hash for Standing {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.history, self.phase == Phase::Killed).hash(state);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    files: Files,
    now: u64,
    holders: Vec<Standing>,
    /// The lease in `HEAD`: whose it is, and until when.
    lease: Option<(usize, u64)>,
    /// Puts that are still on their way.
    adrift: Vec<PutCall>,
    /// The tokens under which each resource was made: more than one is a duplicate.
    cloud: BTreeMap<u8, BTreeSet<String>>,
    /// Per holder, creates after its epoch was sealed.
    late: Vec<u8>,
    /// Creates whose intent was not in the journal.
    unannounced: u8,
    /// Slots that came after a seal.
    behind: u8,
    kills: u8,
    lapses: u8,
    doubts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Go(usize),
    Kill(usize),
    /// The answer to a put is lost: it was carried out, or not, or will be.
    Doubt(usize, Fate),
    Land(usize),
    Lapse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    NotDone,
    Later,
}

struct Protocol {
    holders: usize,
    resources: u8,
    kills: u8,
    lapses: u8,
    doubts: u8,
    runs: Mutex<HashMap<(usize, History), Phase>>,
}

impl Protocol {
    /// Runs a holder's program, unless it was run with these answers before.
    fn run(&self, index: usize, history: &History) -> Phase {
        let key = (index, history.clone());
        let known = self.runs.lock().unwrap().get(&key).cloned();
        known.unwrap_or_else(|| {
            let phase = run(history, |script| program(script, index as u128 + 1, self.resources));
            self.runs.lock().unwrap().insert(key, phase.clone());
            phase
        })
    }

    fn answer(&self, world: &mut World, index: usize, answer: Answer) {
        let Standing { history, phase } = &mut world.holders[index];
        // Who reads the clock does so right after these calls; less to tell apart means more that can be checked.
        let looks = match &*phase {
            Phase::Asks(Call::Get(key)) => *key == head_key(),
            Phase::Asks(Call::Put(_) | Call::Wait) => true,
            _ => false,
        };
        history.push(answer, looks.then_some(world.now));
        *phase = self.run(index, history);
    }

    fn effect(world: &mut World, index: usize, resource: u8, token: &str, epoch: u64) {
        let slots = slots(&world.files);
        let intent = format!("[{resource},\"{token}\"]");
        world.unannounced += u8::from(!slots.values().flatten().any(|slot| slot.contains(&intent)));
        let sealed = slots.get(&epoch).is_some_and(|slots| slots.iter().any(|slot| is_seal(slot)));
        world.late[index] += u8::from(sealed);
        world.cloud.entry(resource).or_default().insert(token.to_owned());
    }
}

impl World {
    /// Carries a call out.
    fn serve(&mut self, call: &Call) -> Answer {
        let answer = serve(&mut self.files, call);
        let (Call::Put(PutCall { key, bytes, .. }), Answer::Stored) = (call, &answer) else { return answer };
        if *key == head_key() {
            let (_, json) = bytes.text().split_once('\n').unwrap();
            let head: serde_json::Value = serde_json::from_str(json).unwrap();
            let lease = &head["lease"];
            let number = lease["holder"]["who"].as_str().map(|who| who.parse::<usize>().unwrap());
            self.lease = number.map(|number| (number - 1, lease["until"].as_u64().unwrap()));
        } else {
            let behind = |slots: &Vec<&str>| slots.iter().rev().skip(1).any(|slot| is_seal(slot));
            self.behind += u8::from(slots(&self.files).values().any(behind));
        }
        answer
    }

    /// Whether a lease is good.
    fn is_held(&self) -> bool {
        self.lease.is_some_and(|(_, until)| self.now < until)
    }

    /// Whether the lease is of a holder that was killed or has ended.
    fn is_orphaned(&self) -> bool {
        self.lease.is_some_and(|(holder, _)| !matches!(self.holders[holder].phase, Phase::Asks(_)))
    }
}

/// The slots of each epoch, as text, in order.
fn slots(files: &Files) -> BTreeMap<u64, Vec<&str>> {
    let mut found: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (key, bytes) in files {
        if let Some((_, slot)) = key.split_once("/j/") {
            let (epoch, number) = slot.split_once('/').unwrap();
            let slots = found.entry(epoch.parse().unwrap()).or_default();
            assert_eq!(number.parse::<usize>().unwrap(), slots.len(), "a gap in epoch {epoch}");
            slots.push(bytes.text());
        }
    }
    found
}

fn is_seal(slot: &str) -> bool {
    slot.contains("\"kind\":\"seal\"")
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let holder = |index| {
            let history = History::default();
            Standing { phase: self.run(index, &history), history }
        };
        vec![World {
            files: Files::new(),
            now: 0,
            holders: (0..self.holders).map(holder).collect(),
            adrift: Vec::new(),
            cloud: BTreeMap::new(),
            late: vec![0; self.holders],
            unannounced: 0,
            behind: 0,
            lease: None,
            kills: self.kills,
            lapses: self.lapses,
            doubts: self.doubts,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (index, Standing { phase, .. }) in world.holders.iter().enumerate() {
            let Phase::Asks(call) = phase else { continue };
            match call {
                Call::Wait if world.is_held() => {}
                _ => actions.push(Action::Go(index)),
            }
            if world.kills > 0 {
                actions.push(Action::Kill(index));
            }
            if world.doubts > 0 && matches!(call, Call::Put(_)) {
                actions
                    .extend([Fate::Done, Fate::NotDone, Fate::Later].map(|fate| Action::Doubt(index, fate)));
            }
        }
        actions.extend((0..world.adrift.len()).map(Action::Land));
        // Time passes in the end, where only that lets anyone go on.
        let waits = |holder: &Standing| matches!(holder.phase, Phase::Asks(Call::Wait));
        let must = world.is_orphaned() && world.holders.iter().any(waits);
        if world.is_held() && (world.lapses > 0 || must) {
            actions.push(Action::Lapse);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Go(index) => {
                let Phase::Asks(call) = world.holders[index].phase.clone() else { return None };
                if let Call::Effect { resource, token, epoch } = &call {
                    Self::effect(&mut world, index, *resource, token, *epoch);
                }
                let answer = world.serve(&call);
                self.answer(&mut world, index, answer);
            }
            Action::Kill(index) => {
                world.kills -= 1;
                world.holders[index] = Standing { history: History::default(), phase: Phase::Killed };
            }
            Action::Doubt(index, fate) => {
                let Phase::Asks(Call::Put(put)) = world.holders[index].phase.clone() else { return None };
                world.doubts -= 1;
                match fate {
                    Fate::Done => drop(world.serve(&Call::Put(put))),
                    Fate::NotDone => {}
                    Fate::Later => world.adrift.push(put),
                }
                self.answer(&mut world, index, Answer::Unsure);
            }
            Action::Land(index) => {
                let put = world.adrift.remove(index);
                world.serve(&Call::Put(put));
            }
            Action::Lapse => {
                world.lapses = world.lapses.saturating_sub(1);
                world.now += TTL + 1;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("nothing is made twice", |_, world: &World| {
                world.cloud.values().all(|tokens| tokens.len() == 1)
            }),
            Property::always("nothing is made without a durable intent", |_, world: &World| {
                world.unannounced == 0
            }),
            Property::always("nothing is appended behind a seal", |_, world: &World| world.behind == 0),
            Property::always("one call in flight is all a sealed holder does", |_, world: &World| {
                world.late.iter().all(|late| *late <= 1)
            }),
            Property::always("nobody is surprised", |_, world: &World| {
                !world
                    .holders
                    .iter()
                    .any(|Standing { phase, .. }| matches!(phase, Phase::Ended(End::Wrong(_))))
            }),
            Property::always("whoever is left finishes", |model: &Self, world: &World| {
                let mut actions = Vec::new();
                model.actions(world, &mut actions);
                let waits =
                    world.holders.iter().any(|Standing { phase, .. }| matches!(phase, Phase::Asks(_)));
                let finished =
                    world.holders.iter().any(|Standing { phase, .. }| *phase == Phase::Ended(End::Finished));
                !actions.is_empty() || (!waits && (!finished || is_complete(world, model.resources)))
            }),
        ];
        if self.lapses > 0 {
            properties
                .push(Property::sometimes("a sealed holder has a call in flight", |_, world: &World| {
                    world.late.contains(&1)
                }));
            properties.push(Property::sometimes("a holder that was taken over stops", |_, world: &World| {
                world.holders.iter().any(|holder| holder.phase == Phase::Ended(End::Stopped))
            }));
        }
        properties
    }
}

/// Whether the state, as the code reads it, has everything that the cloud has, and the cloud has everything.
fn is_complete(world: &World, resources: u8) -> bool {
    let mut files = world.files.clone();
    let mut history = History::default();
    let viewed = Arc::new(Mutex::new(None));
    loop {
        let read = |script: Arc<Script>| {
            let viewed = viewed.clone();
            async move {
                let store = StateStore::new(script.clone());
                *viewed.lock().unwrap() = store.read::<Applied>(&stack(), &*script).await.unwrap();
                End::Finished
            }
        };
        match run(&history, read) {
            Phase::Asks(call) => history.push(serve(&mut files, &call), Some(world.now)),
            _ => break,
        }
    }
    let Some(viewed) = viewed.lock().unwrap().take() else { return false };
    let state = viewed.state.resources;
    state.len() == usize::from(resources)
        && state.iter().all(|(resource, (token, done))| *done && world.cloud[resource].contains(token))
}

/// How much may go wrong in one run.
#[derive(Clone, Copy)]
struct Bounds {
    holders: usize,
    resources: u8,
    kills: u8,
    lapses: u8,
    doubts: u8,
}

fn check(bounds: Bounds) {
    let Bounds { holders, resources, kills, lapses, doubts } = bounds;
    let protocol = Protocol { holders, resources, kills, lapses, doubts, runs: Mutex::default() };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

const TWO: Bounds = Bounds { holders: 2, resources: 1, kills: 0, lapses: 0, doubts: 0 };

#[test]
fn one_is_killed_or_sleeps_past_its_lease() {
    check(Bounds { kills: 1, lapses: 1, ..TWO });
}

#[test]
fn one_is_killed_and_a_put_has_an_unknown_end() {
    check(Bounds { kills: 1, doubts: 1, ..TWO });
}

#[test]
fn two_resources_and_each_may_be_killed() {
    check(Bounds { resources: 2, kills: 2, ..TWO });
}
