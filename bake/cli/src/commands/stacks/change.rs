//! `olbake preview`, `deploy` and `destroy`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8Path;
use olbake_core::diagnostic::{Diagnostics, Severity};
use olbake_core::rollout::Wish;
use olbake_core::stack::planner::Wishes;
use olbake_core::stack::{Declaration, StackName, StackPlan};
use olbake_engine::event::Event;
use olbake_engine::stack::{Change, Changed, Preview, Refresh, Site, wish, wishes};
use olbake_engine::state::Takeover;
use olbake_lang::{Evaluated, Workspace};

use super::super::Context;
use super::super::machines::block_on;
use super::{Desk, Unsealed, ask, names};
use crate::args::{ChangeArgs, DeployArgs, DestroyArgs, PreviewArgs};
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::interrupt;
use crate::ui::stack as ui;

/// How often it is looked for what operators wish.
const WISH: Duration = Duration::from_millis(500);

pub(super) fn preview(args: &PreviewArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.change.stack, context)?;
    let evaluated = desk.evaluate(context, &stack, &args.change.settings)?;
    let stacks = desk.stacks(desk.site_with_secrets(context, &stack, &evaluated)?);
    let wishes = wished(&args.change, args.destroy)?;
    let refresh = refresh(&args.change);
    let preview = block_on(async { Ok(stacks.preview(&evaluated.declaration, &wishes, refresh).await?) })?;
    let judged = judge(&desk.workspace, &preview.plan, &evaluated.declaration)?;
    tell_plan(context, &preview, &judged);
    if let Some(file) = &args.out {
        write_plan(&preview.plan, &context.startup.cwd.join(file))?;
        context.ui.say(&format!("the plan is in `{file}`; `olbake deploy --plan {file}` carries it out"));
    }
    refused(&judged)
}

pub(super) fn deploy(args: &DeployArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let expected = args.plan.as_ref().map(|file| read_plan(&context.startup.cwd.join(file))).transpose()?;
    let stack = match &expected {
        Some(plan) => {
            let stack = desk.workspace.stack(plan.stack.as_str())?;
            if args.change.stack.stack.is_some() {
                let asked = desk.choose(&args.change.stack, context)?;
                if asked != stack {
                    return Err(CliError::user(format!("the plan is of `{stack}`, not of `{asked}`")));
                }
            }
            stack
        }
        None => desk.choose(&args.change.stack, context)?,
    };
    let evaluated = desk.evaluate(context, &stack, &args.change.settings)?;
    let wishes = wished(&args.change, false)?;
    if args.simulate {
        let stacks = desk.stacks(desk.site_with_secrets(context, &stack, &evaluated)?);
        let refresh = refresh(&args.change);
        let preview =
            block_on(async { Ok(stacks.preview(&evaluated.declaration, &wishes, refresh).await?) })?;
        return super::rollout::simulate(&stacks, context, &stack, &preview, args);
    }
    change(&desk, context, &stack, &evaluated, &wishes, expected.as_ref(), &args.change, "deploy")
}

pub(super) fn destroy(args: &DestroyArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.change.stack, context)?;
    // What is removed does not depend on what is declared, which may not even be there any more; but removing may
    // need the secrets of what is there.
    let evaluated = desk.evaluate(context, &stack, &args.change.settings).unwrap_or_else(|_| Evaluated {
        declaration: Declaration::new(stack.clone()),
        config: std::collections::BTreeMap::new(),
        sealed: std::collections::BTreeMap::new(),
        warnings: Diagnostics::default(),
    });
    let wishes = wished(&args.change, true)?;
    change(&desk, context, &stack, &evaluated, &wishes, None, &args.change, "destroy")
}

fn wished(args: &ChangeArgs, destroy: bool) -> Result<Wishes> {
    Ok(Wishes { targets: names(&args.target)?, replace: names(&args.replace)?, destroy })
}

fn refresh(args: &ChangeArgs) -> Refresh {
    if args.no_refresh { Refresh::Trust } else { Refresh::Look }
}

#[allow(clippy::too_many_arguments, reason = "each is said by one command in another way")]
fn change(
    desk: &Desk,
    context: &mut Context,
    stack: &StackName,
    evaluated: &Evaluated,
    wishes: &Wishes,
    expected: Option<&StackPlan>,
    args: &ChangeArgs,
    command: &str,
) -> Result {
    let unsealed = Arc::new(Unsealed::open(desk, context, stack, evaluated)?);
    if desk.providers_of(stack, Some(&evaluated.declaration))?.contains("local") {
        super::super::machines::cloud_preflight(context)?;
    }
    let takeover = args.wait.map_or(Takeover::Refuse, |seconds| Takeover::Wait(Duration::from_secs(seconds)));
    let hold = desk.hold(context, command, takeover)?;
    let site = desk.site(stack, Some(&evaluated.declaration))?;
    let reporter = context.ui.reporter(command);
    let sink = reporter.sink();
    let approval =
        Approval { desk, context, evaluated, yes: args.yes || expected.is_some(), refusal: Mutex::new(None) };
    let done = block_on(async {
        let cancel = interrupt::listen(interrupt::as_note(sink.clone()))?;
        let secrets = unsealed.clone();
        let site = Site {
            secrets: Arc::new(move |id| secrets.value(id)),
            listener: Arc::new(move |event| sink.send(Event::Stack(Box::new(event)))),
            cancel,
            ..site
        };
        let watched = watch_wishes(desk, stack, site).await?;
        let stacks = desk.stacks(watched);
        let change = Change {
            declaration: &evaluated.declaration,
            wishes,
            refresh: refresh(args),
            expected,
            approve: &|preview: &Preview| approval.ask(preview),
        };
        Ok(stacks.change(&change, hold).await)
    });
    reporter.finish();
    let refusal = approval.refusal.into_inner().ok().flatten();
    match (done?, refusal) {
        (Ok(changed), _) => tell(context, command, &changed),
        (Err(_), Some(refusal)) => Err(refusal),
        (Err(error), None) => Err(error.into()),
    }
}

/// Follows what operators wish of the stack's rollouts. Wishes of an earlier deploy count only for a rollout that is
/// still under way.
async fn watch_wishes(desk: &Desk, stack: &StackName, site: Site) -> Result<Site> {
    let store = desk.store.clone();
    let state = desk.stacks(site.clone()).read(stack).await?.map(|viewed| viewed.state);
    for group in wishes(&store, stack).await?.into_keys() {
        let under_way =
            state.as_ref().and_then(|state| state.resources.get(&group)?.rollout.as_ref()).is_some();
        if !under_way {
            wish(&store, stack, &group, Wish::Go).await?;
        }
    }
    let (sender, receiver) = tokio::sync::watch::channel(wishes(&store, stack).await?);
    let name = stack.clone();
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::time::sleep(WISH).await;
            // What cannot be read for now is as it was.
            if let Ok(found) = wishes(&store, &name).await {
                sender.send_replace(found);
            }
        }
    });
    let current = move |_: &StackName, group: &olbake_core::stack::ResourceName| {
        receiver.borrow().get(group).copied().unwrap_or_default()
    };
    Ok(Site { wishes: Arc::new(current), ..site })
}

/// Who is asked before anything is done.
struct Approval<'a> {
    desk: &'a Desk,
    context: &'a Context,
    evaluated: &'a Evaluated,
    yes: bool,
    /// What to say instead of that it was declined.
    refusal: Mutex<Option<CliError>>,
}

impl Approval<'_> {
    fn ask(&self, preview: &Preview) -> std::result::Result<(), String> {
        let Self { desk, context, evaluated, yes, refusal } = self;
        let judged = judge(&desk.workspace, &preview.plan, &evaluated.declaration);
        let answer = judged.and_then(|judged| {
            if !context.ui.json {
                context.ui.say(ui::plan(&preview.plan, context.ui.drawing.palette).trim_end());
                context.ui.diagnostics(&judged);
            }
            refused(&judged)?;
            if *yes || preview.plan.is_empty() { Ok(()) } else { self.person() }
        });
        answer.map_err(|error| {
            let message = error.message();
            if let Ok(mut refusal) = refusal.lock() {
                *refusal = Some(error);
            }
            message
        })
    }

    fn person(&self) -> Result {
        if self.context.ui.json || !self.context.startup.terminal.asks() {
            return Err(
                CliError::user("nobody is there to confirm the plan").help("`--yes` carries it out unasked")
            );
        }
        match ask("carry this out? [y/N] ")?.to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(CliError::new(Kind::Refused, anyhow::anyhow!("nothing was changed"))),
        }
    }
}

/// What the policies say of a plan.
fn judge(workspace: &Workspace, plan: &StackPlan, declaration: &Declaration) -> Result<Diagnostics> {
    let violations = workspace.judge(plan, declaration)?;
    Ok(Diagnostics(violations.iter().map(olbake_lang::Violation::diagnostic).collect()))
}

fn refused(judged: &Diagnostics) -> Result {
    let violated = judged.0.iter().filter(|found| found.severity == Severity::Error).count();
    match violated {
        0 => Ok(()),
        count => Err(CliError::new(
            Kind::Refused,
            anyhow::anyhow!(
                "{} of the policies stand against the plan",
                crate::ui::human::plural(count, "violation")
            ),
        )),
    }
}

fn tell_plan(context: &Context, preview: &Preview, judged: &Diagnostics) {
    let ui_ = &context.ui;
    if ui_.json {
        ui_.document(&preview.plan);
    } else {
        ui_.print(&ui::plan(&preview.plan, ui_.out));
        if let Some(holder) = &preview.holder {
            ui_.say(&format!("note: the stack is held by {holder}"));
        }
    }
    ui_.diagnostics(judged);
}

fn tell(context: &Context, command: &str, changed: &Changed) -> Result {
    let Changed { plan, outputs, seconds } = changed;
    if context.ui.json {
        let result = serde_json::json!({
            "stack": plan.stack,
            "plan": plan.digest(),
            "actions": plan.actions.len(),
            "images": plan.images,
            "outputs": outputs,
            "seconds": seconds,
        });
        context.ui.result(command, &result);
    } else {
        context.ui.print(&ui::changed(plan, outputs, *seconds, context.ui.out));
    }
    Ok(())
}

fn write_plan(plan: &StackPlan, file: &Utf8Path) -> Result {
    let text = serde_json::to_string_pretty(plan).expect("plans are expressible in JSON");
    std::fs::write(file, text + "\n").map_err(|error| {
        CliError::environment(anyhow::Error::new(error).context(format!("cannot write `{file}`")))
    })
}

fn read_plan(file: &Utf8Path) -> Result<StackPlan> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| CliError::user(format!("cannot read the plan `{file}`: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| CliError::user(format!("`{file}` is no plan of a stack: {error}")))
}
