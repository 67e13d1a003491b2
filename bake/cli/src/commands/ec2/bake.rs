//! `olbake bake --on ec2`: images baked on instances of EC2.

use std::sync::Arc;

use olbake_aws::Account;
use olbake_aws::bake::Ec2Bake;
use olbake_engine::bake::PlannedImage;
use olbake_ssh::Agent;

use super::super::Context;
use super::super::bake::End;
use super::super::machines;
use super::super::place::Place;
use super::publish::share;
use crate::args::{BakeArgs, OnFailure, Verify};
use crate::errors::{CliError, Result};
use crate::interrupt;
use crate::ui::human;

pub(in crate::commands) fn run(
    args: &BakeArgs,
    context: &Context,
    place: &Place,
    planned: Vec<PlannedImage>,
) -> Result<Vec<End>> {
    if args.verify == Verify::Vm {
        return Err(CliError::user("`--verify vm` is for bakes on this host: on EC2 an instance is booted"));
    }
    if args.on_failure == OnFailure::Shell {
        return Err(CliError::user("`--on-failure shell` is for bakes on this host")
            .help("`--on-failure keep` leaves the instance until its deadline"));
    }
    let config = place.config.ec2.clone();
    let share = config.share_with.iter().map(|who| share(who)).collect::<Result<_>>()?;
    let agent = Agent::read(&machines::agent(context)?)?;
    let (registry, cache) = (place.registry()?, place.cache()?);
    let region = args.region.clone().or_else(|| config.region.clone());
    let reporter = context.ui.reporter("bake");
    let events = reporter.sink();
    let ends = machines::block_on(async {
        let cancel = interrupt::listen(interrupt::as_note(reporter.sink()))?;
        let account = Account::find(region.as_deref()).await;
        account.check("ec2:RunInstances").await?;
        let bake = Ec2Bake {
            account,
            registry,
            cache: cache.dir().to_owned(),
            workspace: place.root.clone(),
            secrets: Arc::new(place.secrets(&context.startup)),
            agent,
            events,
            cancel,
            config,
            share,
            now: human::timestamp(context.startup.now),
            resume: args.resume,
            keep_failed: args.on_failure == OnFailure::Keep,
        };
        Ok(bake.run(planned).await)
    });
    reporter.finish();
    Ok(ends?.into_iter().map(|(image, end)| (image, end.map_err(CliError::from))).collect())
}
