//! Planning: an image's components with their settings, as a plan with keys.
//!
//! Main type: [`Planner`], which keeps what images share: layers by settings, base images, versions of secrets.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8PathBuf;
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::operation::{Action, Operation, Phase, SealStep};
use olbake_core::plan::{Base, Checks, Layer, PLAN_SCHEMA, Payload, Plan, Provenance, Setting};
use olbake_core::secret::{Secret, SecretId};
use olbake_core::settings::{
    Given, GivenValue, LayerKind, Resolved, SetOption, Variables, did_you_mean, parse_dotenv, resolve,
};
use olbake_core::span::Span;
use olbake_core::{ComponentName, Digest, ImageRef, OperationId, key, lint};
use rayon::prelude::*;
use serde_json::Value as Json;

use crate::conflict::Claims;
use crate::declare::{BaseDeclaration, GivenInRecipe, ImageDeclaration, UseDeclaration};
use crate::layer::{self, Component, Failed, LayerDraft, Use};
use crate::values::Facts;
use crate::workspace::{Explained, Inputs, Planned, Workspace};

type Outcome = Result<Arc<Planned>, Diagnostics>;
/// A component's name, the digest of its settings, and the image where the recipe asked for it.
type LayerKey = (ComponentName, Digest, Option<ImageRef>);

/// Plans images of one workspace with the same inputs.
pub(crate) struct Planner<'a> {
    workspace: &'a Workspace,
    inputs: &'a Inputs,
    environment: Variables,
    dotenv: Variables,
    sets: Vec<SetOption>,
    /// What is wrong with the inputs: no image can be planned, yet each says what else is wrong.
    pub(crate) problems: Vec<Diagnostic>,
    images: Mutex<HashMap<ImageRef, Outcome>>,
    layers: Mutex<HashMap<LayerKey, Arc<LayerDraft>>>,
    versions: Mutex<HashMap<String, Result<Option<Digest>, String>>>,
    /// Which settings of each component some evaluation read.
    pub(crate) read: Mutex<BTreeMap<ComponentName, u64>>,
}

/// An image's root: what the first disk is made of.
struct Root {
    os: [String; 3],
}

impl<'a> Planner<'a> {
    /// Reads the inputs; what is wrong with them is wrong for every image.
    pub(crate) fn new(workspace: &'a Workspace, inputs: &'a Inputs) -> Self {
        let environment = inputs.environment.iter().map(|(name, value)| (name.clone(), value.clone(), None));
        let (entries, mut problems) = match &inputs.dotenv {
            Some((file, text)) => parse_dotenv(file, text),
            None => (Vec::new(), Vec::new()),
        };
        let mut sets = Vec::new();
        for written in &inputs.sets {
            match SetOption::parse(written).and_then(|set| known_places(workspace, set)) {
                Ok(set) => sets.push(set),
                Err(problem) => problems.push(problem),
            }
        }
        Self {
            workspace,
            inputs,
            environment: Variables::new(environment),
            dotenv: Variables::new(
                entries.into_iter().map(|entry| (entry.name, entry.value, Some(entry.span))),
            ),
            sets,
            problems,
            images: Mutex::default(),
            layers: Mutex::default(),
            versions: Mutex::default(),
            read: Mutex::default(),
        }
    }

    /// Plans images in parallel, bases first, so that no two threads plan one base.
    pub(crate) fn plan_all(&self, images: &[ImageRef]) -> Vec<(ImageRef, Result<Planned, Diagnostics>)> {
        let mut bases: Vec<ImageRef> =
            images.iter().filter_map(|image| self.workspace.base_of(image).ok().flatten()).collect();
        bases.sort();
        bases.dedup();
        bases.par_iter().for_each(|base| drop(self.plan(base)));
        images
            .par_iter()
            .map(|image| {
                let known = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(image).cloned();
                // A plan that nobody else needs is handed over instead of copied.
                let planned = match known {
                    Some(known) => known.map(|planned| Planned::clone(&planned)),
                    None => self.plan_anew(image),
                };
                (image.clone(), planned)
            })
            .collect()
    }

    /// Plans an image, once.
    pub(crate) fn plan(&self, image: &ImageRef) -> Outcome {
        let known = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(image).cloned();
        if let Some(known) = known {
            return known;
        }
        let outcome = self.plan_anew(image).map(Arc::new);
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(image.clone(), outcome.clone());
        outcome
    }

    fn plan_anew(&self, image: &ImageRef) -> Result<Planned, Diagnostics> {
        let outcome = self.plan_as_given(image);
        if self.problems.is_empty() {
            return outcome;
        }
        // What an input that cannot be read would have given is missing, and rules may miss it.
        let follows = |problem: &Diagnostic| matches!(&*problem.code, "missing-setting" | "settings-rule");
        let found = outcome.err().map_or_else(Vec::new, |found| found.0);
        let others = found.into_iter().filter(|problem| !follows(problem));
        Err(unique(self.problems.iter().cloned().chain(others).collect()))
    }

    fn plan_as_given(&self, image: &ImageRef) -> Result<Planned, Diagnostics> {
        let declaration = self.declaration(image, None)?;
        let root = self.root(image)?;
        let (base, below, problems) = match self.base(&declaration) {
            Ok((base, below)) => (base, below, Vec::new()),
            // Whatever is wrong below, what is wrong here can be said too.
            Err(problems) => (unplanned(image), None, problems.0),
        };
        Imaging { problems, ..Imaging::new(self, image, &declaration, root, base, below) }.plan()
    }

    /// The settings of an image's components and of those it starts from. No recipe runs, so neither a broken rule nor
    /// anything else that stands against a plan hides them.
    pub(crate) fn settings(&self, image: &ImageRef) -> Result<Explained, Diagnostics> {
        self.root(image)?;
        let mut explained = Explained { layers: Vec::new(), problems: Diagnostics(self.problems.clone()) };
        let mut next = Some(image.clone());
        while let Some(image) = next {
            let declaration = self.declaration(&image, None)?;
            let nowhere = Root { os: Default::default() };
            let mut imaging = Imaging::new(self, &image, &declaration, nowhere, unplanned(&image), None);
            imaging.check_variant();
            imaging.check_sets();
            for (component, used) in imaging.components() {
                let mut resolved = resolve(&component.declaration.schema, &imaging.given(&component, used));
                imaging.problems.append(&mut resolved.problems);
                explained.layers.push((component.name.clone(), resolved.settings));
            }
            explained.problems.0.append(&mut imaging.problems);
            next = match &declaration.base {
                BaseDeclaration::Image(base) => Some(base.clone()),
                _ => None,
            };
        }
        Ok(explained)
    }

    /// An image's declaration, with its variant known to exist.
    fn declaration(
        &self,
        image: &ImageRef,
        used: Option<&Span>,
    ) -> Result<Arc<ImageDeclaration>, Diagnostics> {
        let declaration = self.workspace.image_named(&image.image, used)?;
        if let Some(variant) = &image.variant
            && !declaration.variants.contains_key(variant)
        {
            let text = format!("the image `{}` has no variant `{variant}`", image.image);
            let mut problem =
                Diagnostic::error("unknown-variant", text).at(used.or(declaration.span.as_ref()).cloned());
            problem.help =
                did_you_mean(variant.as_str(), declaration.variants.keys().map(|name| name.as_str()));
            return Err(problem.into());
        }
        Ok(declaration)
    }

    /// Follows the bases down to the first disk; refuses a circle.
    fn root(&self, image: &ImageRef) -> Result<Root, Diagnostics> {
        let mut chain: Vec<(ImageRef, Option<Span>)> = Vec::new();
        let (mut current, mut used) = (image.clone(), None);
        loop {
            if let Some(start) = chain.iter().position(|(known, _)| known.image == current.image) {
                return Err(circle(&chain[start..]).into());
            }
            let declaration = self.declaration(&current, used.as_ref())?;
            chain.push((current.clone(), declaration.base_span.clone()));
            match &declaration.base {
                BaseDeclaration::Image(base) => {
                    (current, used) = (base.clone(), declaration.base_span.clone())
                }
                BaseDeclaration::Debian { suite, .. } => return Ok(Root { os: debian(suite) }),
                BaseDeclaration::Disk { .. } | BaseDeclaration::Ami { .. } => {
                    return Ok(Root { os: Default::default() });
                }
            }
        }
    }

    fn base(&self, declaration: &ImageDeclaration) -> Result<(Base, Option<Arc<Planned>>), Diagnostics> {
        Ok(match &declaration.base {
            BaseDeclaration::Image(image) => {
                let below = self.plan(image)?;
                (Base::Image { image: image.clone(), key: below.plan.key }, Some(below))
            }
            BaseDeclaration::Debian { suite, packages, mirror, disk_size } => {
                let (suite, packages, mirror) = (suite.clone(), packages.clone(), mirror.clone());
                (Base::Debian { suite, packages, mirror, disk_size: *disk_size }, None)
            }
            BaseDeclaration::Disk { file, sha256 } => {
                (Base::Disk { file: file.clone(), sha256: *sha256 }, None)
            }
            BaseDeclaration::Ami { owner, name } => {
                (Base::Ami { owner: owner.clone(), name: name.clone() }, None)
            }
        })
    }

    fn version(&self, source: &str) -> Result<Option<Digest>, String> {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.entry(source.to_owned()).or_insert_with(|| (self.inputs.secret_version)(source)).clone()
    }

    /// A component's layer, from the cache where another image uses the component in the same way.
    fn layer(
        &self,
        component: &Component,
        resolved: &Resolved,
        facts: Facts,
        image: &ImageRef,
        span: Option<Span>,
    ) -> Result<Arc<LayerDraft>, Failed> {
        let values = values(component, resolved);
        let digest = digest(&values, &facts);
        let name = &component.name;
        let kept = {
            let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = layers.get(&(name.clone(), digest, None));
            shared.or_else(|| layers.get(&(name.clone(), digest, Some(image.clone())))).cloned()
        };
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let secrets = resolved.secrets.keys().cloned().collect();
        let sources = &self.workspace.sources;
        let used = Use { component, values, secrets, facts: Arc::new(facts), sources, span };
        let draft = Arc::new(layer::evaluate(used)?);
        let owner = draft.asked_for_image.then(|| image.clone());
        *self.read.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default() |=
            draft.read;
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.insert((name.clone(), digest, owner), Arc::clone(&draft));
        Ok(draft)
    }
}

/// Stands for a base that cannot be planned; nothing that is made of it is kept.
fn unplanned(image: &ImageRef) -> Base {
    Base::Image { image: image.clone(), key: Digest::of(b"") }
}

/// Refuses `--set` for images and components that do not exist.
fn known_places(workspace: &Workspace, set: SetOption) -> Result<SetOption, Diagnostic> {
    let components = workspace.components();
    let configurations = workspace.configuration_names();
    let names = components.iter().map(ComponentName::as_str).chain(configurations.iter().map(String::as_str));
    if !names.clone().any(|name| name == set.component) {
        let text = format!("`--set {}`: there is no component `{}`", set.written, set.component);
        let mut problem = Diagnostic::error("unknown-component", text);
        problem.help = did_you_mean(&set.component, names);
        return Err(problem);
    }
    let image = set.image.as_ref().map(|image| image.split('/').next().unwrap_or(image));
    if let Some(image) = image
        && !workspace.image_names().any(|name| name == image)
    {
        let text = format!("`--set {}`: there is no image `{image}`", set.written);
        let mut problem = Diagnostic::error("unknown-image", text);
        problem.help = did_you_mean(image, workspace.image_names());
        return Err(problem);
    }
    Ok(set)
}

/// Images that are based on each other. From whichever of them one comes to it, it is the same circle.
fn circle(chain: &[(ImageRef, Option<Span>)]) -> Diagnostic {
    let start = chain.iter().enumerate().min_by_key(|(_, (image, _))| image).map_or(0, |(index, _)| index);
    let chain: Vec<_> = chain[start..].iter().chain(&chain[..start]).collect();
    let names: Vec<String> =
        chain.iter().chain(&chain[..1]).map(|(image, _)| image.image.to_string()).collect();
    let mut problem = Diagnostic::error(
        "image-cycle",
        format!("images are based on each other in a circle: {}", names.join(" → ")),
    )
    .at(chain.first().and_then(|(_, span)| span.clone()));
    for (image, span) in chain.iter().skip(1) {
        problem.related.extend(span.clone().map(|span| (span, format!("the base of `{image}`"))));
    }
    problem.help("one of them must start from `debian(…)` or `disk(…)`")
}

fn debian(suite: &str) -> [String; 3] {
    let version = match suite.split('-').next().unwrap_or(suite) {
        "bullseye" => "11",
        "bookworm" => "12",
        "trixie" => "13",
        "forky" => "14",
        _ => "",
    };
    ["debian".to_owned(), suite.to_owned(), version.to_owned()]
}

/// The values in the order of the declaration; computed ones are null until they are computed.
fn values(component: &Component, resolved: &Resolved) -> Vec<Json> {
    let fields = component.declaration.schema.fields.keys();
    fields
        .map(|name| resolved.settings.get(name).map_or(Json::Null, |setting| setting.value.clone()))
        .collect()
}

fn digest(values: &[Json], facts: &Facts) -> Digest {
    let text = serde_json::to_string(values).unwrap_or_default();
    Digest::of(format!("{text}\n{}\n{}", facts.os.join("\n"), facts.architecture.debian()).as_bytes())
}

/// One image being planned.
struct Imaging<'p, 'a> {
    planner: &'p Planner<'a>,
    image: &'p ImageRef,
    declaration: &'p ImageDeclaration,
    root: Root,
    base: Base,
    below: Option<Arc<Planned>>,
    problems: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// What the components come to, in their order; of those with problems, what is left.
    drafts: Vec<Arc<LayerDraft>>,
    secrets: BTreeMap<SecretId, Secret>,
    payloads: BTreeMap<Digest, Payload>,
    inline: BTreeMap<Digest, Arc<[u8]>>,
}

impl<'p, 'a> Imaging<'p, 'a> {
    fn new(
        planner: &'p Planner<'a>,
        image: &'p ImageRef,
        declaration: &'p ImageDeclaration,
        root: Root,
        base: Base,
        below: Option<Arc<Planned>>,
    ) -> Self {
        Self {
            planner,
            image,
            declaration,
            root,
            base,
            below,
            problems: Vec::new(),
            warnings: Vec::new(),
            drafts: Vec::new(),
            secrets: BTreeMap::new(),
            payloads: BTreeMap::new(),
            inline: BTreeMap::new(),
        }
    }

    fn plan(mut self) -> Result<Planned, Diagnostics> {
        self.check_variant();
        self.check_sets();
        let used = self.components();
        let mut layers = Vec::with_capacity(used.len());
        let mut checks = self.below.as_ref().map_or_else(Vec::new, |below| below.plan.checks.clone());
        let mut parent = key::base(self.architecture(), &self.base);
        let mut upgrade = self.below.as_ref().map_or_else(Vec::new, |below| below.plan.upgrade.clone());
        for (component, used) in used {
            let Some((draft, layer)) = self.layer(&component, used, parent) else { continue };
            parent = layer.key;
            if !draft.checks.is_empty() {
                checks.push(Checks { component: component.name.clone(), operations: draft.checks.clone() });
            }
            if !draft.upgrade.is_empty() {
                let operations = draft.upgrade.clone();
                upgrade.push(Checks { component: component.name.clone(), operations });
            }
            layers.push(layer);
        }
        self.problems.extend(self.conflicts());
        if !self.problems.is_empty() {
            return Err(unique(self.problems));
        }
        Ok(self.finish(layers, checks, upgrade, parent))
    }

    fn architecture(&self) -> olbake_core::plan::Architecture {
        self.planner.inputs.architecture
    }

    fn finish(self, layers: Vec<Layer>, checks: Vec<Checks>, upgrade: Vec<Checks>, last: Digest) -> Planned {
        let seal = seal(self.declaration.leak_allow.clone());
        let further_down = self.below.as_ref().map_or_else(Vec::new, |below| self.bases_of(&below.plan));
        let below: Vec<Arc<Planned>> = self.below.iter().cloned().chain(further_down).collect();
        let architecture = self.architecture();
        let sealed = key::sealed(architecture, last, &seal);
        let plan = Plan {
            schema: PLAN_SCHEMA,
            image: self.image.clone(),
            architecture,
            base: self.base,
            layers,
            seal,
            key: key::image(architecture, self.image, sealed, &checks, &upgrade),
            checks,
            upgrade,
            payloads: self.payloads,
            secrets: self.secrets,
        };
        let mut warnings = self.warnings;
        let sources = &self.planner.workspace.sources;
        let text = |digest: &Digest| match plan.payloads.get(digest)? {
            Payload::Inline { .. } => String::from_utf8(self.inline.get(digest)?.to_vec()).ok(),
            Payload::File { path, .. } => sources.text(path.as_str()).map(|text| text.to_string()),
            Payload::Url { .. } => None,
        };
        let bases: Vec<&Plan> = below.iter().map(|below| &below.plan).collect();
        warnings.extend(lint::plan(&plan, &bases, &text).0);
        Planned { plan, inline: self.inline, warnings: unique(warnings) }
    }

    /// A variant changes components of its image only.
    fn check_variant(&mut self) {
        let overrides =
            self.image.variant.as_ref().and_then(|variant| self.declaration.variants.get(variant));
        for change in overrides.into_iter().flatten() {
            let names = self.declaration.uses.iter().map(|used| used.component.as_str());
            if !names.clone().any(|name| name == change.component) {
                let text =
                    format!("the variant changes `{}`, which the image does not use", change.component);
                let mut problem = Diagnostic::error("unknown-component", text).at(change.span.clone());
                problem.help = did_you_mean(&change.component, names);
                self.problems.push(problem);
            }
        }
    }

    /// A `--set` for this image by name must find its component there.
    fn check_sets(&mut self) {
        let named = self.planner.sets.iter().filter(|set| set.image.is_some() && self.is_for_this(set));
        let lost =
            named.filter(|set| !self.declaration.uses.iter().any(|used| used.component == set.component));
        let problem = |set: &SetOption| {
            let text = format!("`--set {}`: the image does not use `{}`", set.written, set.component);
            Diagnostic::error("unknown-component", text)
        };
        let problems: Vec<Diagnostic> = lost.map(problem).collect();
        self.problems.extend(problems);
    }

    fn is_for_this(&self, set: &SetOption) -> bool {
        let Some(image) = &set.image else { return true };
        *image == self.image.to_string() || *image == self.image.image.as_str()
    }

    /// The components of the image, with what could not be loaded among the problems.
    fn components(&mut self) -> Vec<(Arc<Component>, &'p UseDeclaration)> {
        let mut components = Vec::with_capacity(self.declaration.uses.len());
        for used in &self.declaration.uses {
            match self.planner.workspace.component(&used.component, used.span.as_ref()) {
                Ok(component) => components.push((component, used)),
                Err(problems) => self.problems.extend(problems.0),
            }
        }
        components
    }

    fn layer(
        &mut self,
        component: &Arc<Component>,
        used: &UseDeclaration,
        parent: Digest,
    ) -> Option<(Arc<LayerDraft>, Layer)> {
        let mut resolved = resolve(&component.declaration.schema, &self.given(component, used));
        if !resolved.problems.is_empty() {
            self.problems.append(&mut resolved.problems);
            return None;
        }
        let facts = Facts {
            architecture: self.architecture(),
            image: self.image.image.to_string(),
            variant: self.image.variant.as_ref().map(ToString::to_string),
            os: self.root.os.clone(),
            asked_for_image: AtomicBool::new(false),
        };
        let draft = match self.planner.layer(component, &resolved, facts, self.image, used.span.clone()) {
            Ok(draft) => draft,
            Err(Failed { problems, rest }) => {
                self.problems.extend(problems);
                self.drafts.extend(rest.map(Arc::new));
                return None;
            }
        };
        self.drafts.push(Arc::clone(&draft));
        self.take_secrets(&draft, &resolved);
        for (digest, stored) in &draft.payloads {
            self.payloads.entry(*digest).or_insert_with(|| stored.payload.clone());
            if let Some(bytes) = &stored.bytes {
                self.inline.entry(*digest).or_insert_with(|| Arc::clone(bytes));
            }
        }
        let mut settings = resolved.settings;
        for (name, value) in &draft.computed {
            settings.insert(name.clone(), computed(component, name, value.clone()));
        }
        let mut layer = Layer {
            component: component.name.clone(),
            source: component.folder.clone(),
            settings,
            operations: draft.operations.clone(),
            booted: component.declaration.booted.clone(),
            key: parent,
        };
        layer.key = key::layer(parent, self.architecture(), &layer, |id| self.secrets.get(id));
        Some((draft, layer))
    }

    /// Everything that says something about the component's settings, lowest first.
    fn given(&mut self, component: &Component, used: &UseDeclaration) -> Vec<Given> {
        let schema = &component.declaration.schema;
        let in_recipe = |layer: LayerKind, (name, value, span): &GivenInRecipe| Given {
            layer,
            name: None,
            span: span.clone(),
            path: vec![name.clone()],
            value: GivenValue::Value(value.clone()),
        };
        let own = component.declaration.values.iter().map(|value| in_recipe(LayerKind::Component, value));
        let images = used.values.iter().map(|value| in_recipe(LayerKind::Image, value));
        let mut given: Vec<Given> = own.chain(images).collect();
        let overrides =
            self.image.variant.as_ref().and_then(|variant| self.declaration.variants.get(variant));
        for change in overrides.into_iter().flatten().filter(|change| change.component == used.component) {
            given.extend(change.values.iter().map(|value| in_recipe(LayerKind::Variant, value)));
        }
        for (variables, layer) in
            [(&self.planner.dotenv, LayerKind::Dotenv), (&self.planner.environment, LayerKind::Environment)]
        {
            let (found, problems) = variables.given(schema, layer);
            given.extend(found);
            for problem in problems {
                match layer {
                    LayerKind::Environment => self.warnings.push(problem),
                    _ => self.problems.push(problem),
                }
            }
        }
        let sets =
            self.planner.sets.iter().filter(|set| set.component == used.component && self.is_for_this(set));
        given.extend(sets.map(SetOption::given));
        given
    }

    /// The sources and versions of the secrets that the operations use.
    fn take_secrets(&mut self, draft: &LayerDraft, resolved: &Resolved) {
        for id in draft.operations.iter().flat_map(|operation| operation.action.secrets()) {
            if self.secrets.contains_key(id) {
                continue;
            }
            let Some((source, span)) = resolved.secrets.get(id) else { continue };
            match self.planner.version(source) {
                Ok(version) => {
                    self.secrets.insert(id.clone(), Secret { source: source.clone(), version });
                }
                Err(reason) => self.problems.push(
                    Diagnostic::error("secret-unreadable", format!("the secret `{}` cannot be read from `{source}`: {reason}", id.0))
                        .at(span.clone())
                        .help("olbake reads secrets when it plans, to know whether they changed; their values stay out of the plan"),
                ),
            }
        }
    }

    fn conflicts(&self) -> Vec<Diagnostic> {
        let further_down = self.below.as_ref().map_or_else(Vec::new, |below| self.bases_of(&below.plan));
        let mut claims = Claims::default();
        for planned in self.below.iter().chain(&further_down) {
            claims.below(&planned.plan);
        }
        let mut problems = Vec::new();
        // What was refused may write the path that another operation follows.
        let complete = self.problems.is_empty();
        for draft in &self.drafts {
            for (operation, overriding) in draft.operations.iter().zip(&draft.overriding) {
                problems.extend(claims.add(operation, *overriding));
            }
            for (path, span) in draft.foreign.iter().filter(|_| complete) {
                problems.extend(claims.unknown_path(path, span.as_ref()));
            }
        }
        problems
    }

    fn bases_of(&self, plan: &Plan) -> Vec<Arc<Planned>> {
        let mut found = Vec::new();
        let mut base = plan.base.clone();
        while let Base::Image { image, .. } = &base {
            let Ok(planned) = self.planner.plan(image) else { break };
            base = planned.plan.base.clone();
            found.push(planned);
        }
        found
    }
}

fn computed(component: &Component, name: &str, value: Json) -> Setting {
    let span = component.declaration.schema.fields.get(name).and_then(|field| field.span.clone());
    let provenance = Provenance { layer: "computed".to_owned(), name: None, span, value: value.clone() };
    Setting { value, provenance: vec![provenance] }
}

/// The same problem, found in several images or settings, counts once.
pub(crate) fn unique(problems: Vec<Diagnostic>) -> Diagnostics {
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(problems.len());
    for problem in problems {
        if !kept.contains(&problem) {
            kept.push(problem);
        }
    }
    Diagnostics(kept)
}

/// The end of every image.
fn seal(allow: Vec<Utf8PathBuf>) -> Vec<Operation> {
    let component: ComponentName = "seal".parse().expect("a valid name");
    let steps = SealStep::ALL.iter().map(|step| {
        let name = serde_json::to_value(step)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default();
        (format!("seal {}", name.replace('_', " ")), Action::Seal { step: *step })
    });
    let steps = steps.chain([("leak scan".to_owned(), Action::LeakScan { allow, searched: None })]);
    steps
        .enumerate()
        .map(|(index, (title, action))| Operation {
            id: OperationId::new(&component, Phase::Seal, index + 1),
            phase: Phase::Seal,
            title,
            spans: Vec::new(),
            action,
            when_changed: Vec::new(),
            after: Vec::new(),
        })
        .collect()
}
