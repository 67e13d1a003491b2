//! `olbake publish IMAGE@VERSION --to ec2`: a version as images of EC2, without an instance.

use std::sync::Arc;

use olbake_aws::Account;
use olbake_aws::publish::{self, Course, Desk, Happened, Listener, Publish, PublishPlan, RegionPlan, Share};
use olbake_core::promotion::ChannelRecord;
use olbake_engine::registry::places::Place;

use super::super::Context;
use super::super::machines::block_on;
use super::super::stacks::ask;
use crate::args::PublishArgs;
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::interrupt;
use crate::ui::Ui;
use crate::ui::human;
use crate::ui::table::Table;

const DAY: u64 = 24 * 3600;

pub(in crate::commands) fn run(args: &PublishArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let registry = place.registry()?;
    let version = registry.records().resolve(&args.version)?;
    if let Some(revocation) = registry.records().forbidden_by(&version)? {
        let message = format!("`{}` is revoked: {}", args.version, revocation.why);
        return Err(CliError::new(Kind::Refused, anyhow::anyhow!(message)));
    }
    let now = human::timestamp(context.startup.now);
    let digest = version.digest;
    let channels = registry.records().channels()?.into_iter().filter(|record| record.digest == digest);
    let channels: Vec<ChannelRecord> = channels.collect();
    let records = registry.clone();
    block_on(async {
        let account = Account::find(args.regions.first().map(String::as_str)).await;
        account.check("ec2:DescribeImages").await?;
        let regions = match (args.regions.as_slice(), account.region()) {
            ([], Some(region)) => vec![region.to_owned()],
            (regions, _) => regions.to_vec(),
        };
        let publish = Publish {
            version,
            regions,
            kms_key: args.kms_key.clone(),
            share: args.share_with.iter().map(|text| share(text)).collect::<Result<_>>()?,
            deprecate: args.deprecate_after.map(|days| now.plus(u64::from(days) * DAY)),
            copy: args.copy,
            now,
        };
        let desk = Desk { account, registry, journals: place.config.cache.join("publish") };
        let plan = publish::plan(&desk, &publish).await?;
        show_plan(context, &plan);
        agree(args, context, &plan)?;
        carry_out(context, &desk, &publish, &plan).await
    })?;
    // Channels that point to it already have something to tell now.
    for ChannelRecord { image, channel, digest, .. } in &channels {
        super::tell_readers(&place, records.records(), image, channel, digest)?;
    }
    Ok(())
}

async fn carry_out(context: &Context, desk: &Desk, publish: &Publish, plan: &PublishPlan) -> Result {
    let ui = context.ui.clone();
    let cancel = interrupt::listen(move |message| ui.say(message))?;
    let listener = listener(&context.ui);
    let places = tokio::select! {
        done = publish::carry_out(desk, publish, plan, &listener) => done?,
        () = cancel.cancelled() => {
            let error = anyhow::anyhow!("interrupted");
            return Err(CliError::new(Kind::Interrupted, error).help("run it again: it goes on where it was"));
        }
    };
    tell(context, &places);
    Ok(())
}

/// An account's number, or the ARN of an organisation or of one of its units.
pub(super) fn share(text: &str) -> Result<Share> {
    let is_account = text.len() == 12 && text.chars().all(|c| c.is_ascii_digit());
    match text {
        _ if is_account => Ok(Share::Account(text.to_owned())),
        _ if text.contains(":organization/") => Ok(Share::Organization(text.to_owned())),
        _ if text.contains(":ou/") => Ok(Share::Unit(text.to_owned())),
        _ => Err(CliError::user(format!(
            "`{text}` is neither the number of an account nor the ARN of an organisation or of one of its units"
        ))),
    }
}

fn show_plan(context: &Context, plan: &PublishPlan) {
    let ui = &context.ui;
    if ui.json {
        return ui.line(&serde_json::json!({ "event": "publish_plan", "plan": plan }));
    }
    let PublishPlan { image, version, architecture: _, size, data_blocks, regions } = plan;
    ui.say(&format!(
        "publish {image}@{}: {data_blocks} blocks of data, a volume of {size} GiB",
        version.short()
    ));
    let mut table = Table::new(["REGION", "WHAT", "BLOCKS", "SIZE", "PRICE", "TIME"]);
    for region in regions {
        table.row(row(region));
    }
    ui.say(table.render(ui.drawing.palette).trim_end());
}

fn row(plan: &RegionPlan) -> [String; 6] {
    let RegionPlan { region, course, bytes, dollars, seconds, .. } = plan;
    let (what, blocks) = match course {
        Course::NotNeeded { place } => return short(region, format!("it is there: {}", place.id)),
        Course::Adopt { image } => return short(region, format!("write down {image}, which is there")),
        Course::Copy { from, .. } => return short(region, format!("copy the image of {from}")),
        Course::Upload { resumes: Some(snapshot), blocks, .. } => (format!("go on with {snapshot}"), blocks),
        Course::Upload { parent: Some(parent), blocks, .. } => {
            (format!("upload what differs from {} ({})", parent.snapshot, parent.version.short()), blocks)
        }
        Course::Upload { blocks, .. } => ("upload".to_owned(), blocks),
    };
    [
        region.clone(),
        what,
        blocks.to_string(),
        human::size(*bytes),
        format!("${dollars:.4}"),
        format!("{seconds:.0} s"),
    ]
}

fn short(region: &str, what: String) -> [String; 6] {
    let nothing = || "-".to_owned();
    [region.to_owned(), what, nothing(), nothing(), nothing(), nothing()]
}

fn agree(args: &PublishArgs, context: &Context, plan: &PublishPlan) -> Result {
    if args.yes || plan.is_empty() {
        return Ok(());
    }
    if context.ui.json || !context.startup.terminal.asks() {
        return Err(
            CliError::user("nobody is there to confirm the plan").help("`--yes` carries it out unasked")
        );
    }
    match ask("carry this out? [y/N] ")?.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::new(Kind::Refused, anyhow::anyhow!("nothing was changed"))),
    }
}

/// Says what happens: of blocks every tenth.
fn listener(ui: &Ui) -> Listener {
    let ui = ui.clone();
    Arc::new(move |region: &str, happened: Happened| {
        if ui.json {
            return ui
                .line(&serde_json::json!({ "event": "publish", "region": region, "happened": happened }));
        }
        match happened {
            Happened::Snapshot { snapshot, already: 0 } => ui.say(&format!("{region}: {snapshot}")),
            Happened::Snapshot { snapshot, already } => {
                ui.say(&format!("{region}: {snapshot}, which has {already} blocks"));
            }
            Happened::Blocks { done, total } => {
                let tenth = |count: u64| count * 10 / total.max(1);
                if tenth(done) != tenth(done.saturating_sub((total / 100).max(1))) || done == total {
                    ui.say(&format!("{region}: {done} of {total} blocks"));
                }
            }
            Happened::Waiting { id } => ui.say(&format!("{region}: waiting for {id}")),
            Happened::Image { id } => ui.say(&format!("{region}: {id} is ready")),
        }
    })
}

fn tell(context: &Context, places: &[Place]) {
    if context.ui.json {
        return context.ui.result("publish", &serde_json::json!({ "places": places }));
    }
    let mut table = Table::new(["REGION", "IMAGE", "SNAPSHOT", "NAME"]);
    for Place { region, id, snapshot, name, .. } in places {
        table.row([region.clone(), id.clone(), snapshot.clone(), name.clone()]);
    }
    context.ui.print(&table.render(context.ui.out));
}
