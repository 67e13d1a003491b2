//! Makes many resources in a test cloud, looks at all of them, and says how many calls that took, as JSON:
//! `cargo run -p olbake-aws --features aws --example refresh_many -- ENDPOINT FOLDER 1000`. `cargo xtask bench refresh`
//! runs it, and counts the calls: it writes a line before it looks, and waits for one.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use camino::Utf8PathBuf;
use olbake_aws::provider::{AwsProvider, NoAmis};
use olbake_aws::{Account, types};
use olbake_core::stack::declare::Declared;
use olbake_core::stack::planner::Wishes;
use olbake_core::stack::value::Reference;
use olbake_core::stack::{Catalog, Declaration};
use olbake_engine::stack::{Change, Preview, Refresh, RegistryImages, Site, Stacks, inventory};
use olbake_engine::state::{HoldOptions, StateStore};
use serde_json::{Value, json};

/// Calls under way at the same time while resources are made.
const JOBS: usize = 16;
/// Where.
const REGION: &str = "eu-west-1";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, folder, count] = &arguments[..] else {
        return Err("say an endpoint, a folder and a number".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let said = runtime.block_on(run(endpoint, &Utf8PathBuf::from(folder), count.parse()?))?;
    println!("{said}");
    Ok(())
}

async fn run(endpoint: &str, folder: &camino::Utf8Path, count: usize) -> Result<Value, Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let account = Account::at(endpoint, REGION, "test", "test").await;
    let provider = Arc::new(AwsProvider::open(account, Arc::new(NoAmis))?);
    let registry = olbake_engine::registry::Registry::open("file://registry", folder)?;
    let mut site = Site::new(vec![provider.clone()], Arc::new(RegistryImages(registry)));
    site.jobs = JOBS;
    let stacks = Stacks { store: StateStore::open("file://state", folder)?, site };
    let declaration = many(count)?;
    let change = Change {
        declaration: &declaration,
        wishes: &Wishes::default(),
        refresh: Refresh::Trust,
        expected: None,
        approve: &|_: &Preview| Ok(()),
    };
    let started = Instant::now();
    stacks.change(&change, HoldOptions::here("bench", "refresh")?).await?;
    let making = started.elapsed().as_secs_f64();
    let state = stacks.read(&declaration.stack).await?.ok_or("nothing was made")?.state;
    println!("made");
    std::io::stdin().read_line(&mut String::new())?;
    let started = Instant::now();
    let seen = inventory(&stacks.site, &declaration.stack, &state).await?;
    let seconds = started.elapsed().as_secs_f64();
    let there =
        seen.values().filter(|sight| matches!(sight, olbake_core::stack::planner::Sight::There(_))).count();
    if there != count {
        return Err(format!("{there} of {count} resources were seen").into());
    }
    Ok(json!({"resources": count, "seconds": seconds, "making_seconds": making}))
}

/// Resources of the kinds that networks and services have: a VPC for every hundred, and what is in it.
fn many(count: usize) -> Result<Declaration, Box<dyn Error>> {
    let catalog = types::catalog();
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}}],
    });
    let mut resources = Vec::with_capacity(count);
    for number in 0..count {
        let hundred = number / 100;
        let vpc = output(&format!("vpc-{hundred}"), "id")?;
        let (name, ty, inputs) = match number % 100 {
            0 => (format!("vpc-{hundred}"), "aws.vpc", json!({"cidr": format!("10.{hundred}.0.0/16")})),
            rest @ 1..=15 => {
                let inputs = json!({"vpc_id": vpc, "cidr": format!("10.{hundred}.{rest}.0/24")});
                (format!("subnet-{number}"), "aws.subnet", inputs)
            }
            16..=50 => (format!("group-{number}"), "aws.security_group", json!({"vpc_id": vpc})),
            rest @ 51..=80 => {
                let group = output(&format!("group-{}", number - 35), "id")?;
                let inputs =
                    json!({"security_group_id": group, "from_port": 1000 + rest, "cidr": "10.0.0.0/8"});
                (format!("rule-{number}"), "aws.security_group_rule", inputs)
            }
            81..=85 => (format!("table-{number}"), "aws.route_table", json!({"vpc_id": vpc})),
            86..=92 => (format!("role-{number}"), "aws.role", json!({"assume_role_policy": trust})),
            93..=95 => {
                let role = output(&format!("role-{}", number - 7), "id")?;
                (format!("profile-{number}"), "aws.instance_profile", json!({"role": role}))
            }
            96 | 97 => (format!("template-{number}"), "aws.launch_template", json!({})),
            98 => (format!("targets-{number}"), "aws.target_group", json!({"vpc_id": vpc, "port": 80})),
            _ => (format!("address-{number}"), "aws.elastic_ip", json!({})),
        };
        resources.push(resource(&catalog, &name, ty, &inputs)?);
    }
    let outputs = BTreeMap::new();
    Ok(Declaration { resources, outputs, ..Declaration::new("infrastructure.aws.many.QA".parse()?) })
}

fn output(resource: &str, name: &str) -> Result<Value, Box<dyn Error>> {
    Ok(Value::String(Reference { resource: resource.parse()?, output: name.to_owned() }.marker()))
}

fn resource(catalog: &Catalog, name: &str, ty: &str, inputs: &Value) -> Result<Declared, Box<dyn Error>> {
    let ty = ty.parse()?;
    let schema = catalog.get(&ty).ok_or("there is no such type")?;
    let inputs = schema.coerce(inputs.as_object().ok_or("properties have names")?);
    Ok(Declared::new(name.parse()?, ty, inputs.map_err(|problems| format!("{problems:?}"))?))
}
