//! The command line, as types. What each command does is in [`crate::commands`].

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};
use olbake_core::ImageRef;

use crate::ui::style::ColorChoice;

/// Bakes machine images from recipes.
///
/// Recipes are components and images written in Starlark. `bake` turns them into bootable, tested disks that are
/// known by their content: what did not change is not made again.
#[derive(Debug, Parser)]
#[command(name = "olbake", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Work in the workspace of this directory.
    #[arg(short = 'C', long = "directory", value_name = "DIR", global = true)]
    pub(crate) directory: Option<Utf8PathBuf>,
    /// When to use colours.
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto")]
    pub(crate) color: ColorChoice,
    /// Write events and results as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Find mistakes in all recipes, without running anything.
    Check(CheckArgs),
    /// Show what a bake would do.
    Plan(PlanArgs),
    /// Say why an image would be baked again.
    Why(WhyArgs),
    /// Say where a setting's value comes from.
    Explain(ExplainArgs),
    /// Write a new component, image or project.
    New(NewArgs),
    /// Bake images: only what changed, verified on a fresh boot, registered.
    Bake(BakeArgs),
    /// Configure a machine that is there already, over SSH; or say how it differs.
    Apply(ApplyArgs),
    /// List the images and their last versions.
    Images,
    /// Show a version.
    Show(ShowArgs),
    /// Make a version into images of EC2, without an instance.
    Publish(PublishArgs),
    /// Fetch a disk from elsewhere, to bake from it.
    Import(ImportArgs),
    /// Move a version into a channel, if every gate before it holds.
    Promote(PromoteArgs),
    /// Sign that a version may enter a channel.
    Approve(ApproveArgs),
    /// Take a channel back to the version before.
    Rollback(RollbackArgs),
    /// Forbid a version and all that starts from it.
    Revoke(RevokeArgs),
    /// List what an image's channels pointed to, when and why.
    History(HistoryArgs),
    /// Boot a throw-away copy of an image and open a shell on it.
    Shell(ShellArgs),
    /// Boot a version afresh and run its checks again.
    Verify(VerifyArgs),
    /// Write a version's disk to a file.
    Export(ExportArgs),
    /// Show what can be removed, or remove it.
    Gc(GcArgs),
    #[command(flatten)]
    Stacks(StackCommand),
    /// Write the table of a component's settings in Markdown.
    Reference(ReferenceArgs),
    /// Write completions for a shell.
    Completions(CompletionsArgs),
    /// Write the manual's pages.
    Man(ManArgs),
}

/// What to do with stacks.
#[derive(Debug, Subcommand)]
pub(crate) enum StackCommand {
    /// Show what a deploy would do.
    Preview(PreviewArgs),
    /// Change a stack to what is declared; instances are replaced by rollouts.
    Deploy(DeployArgs),
    /// Remove everything that a stack has.
    Destroy(DestroyArgs),
    /// Write down what is really there of a stack.
    Refresh(LookArgs),
    /// Show in what a stack differs from what was applied and from what is declared.
    Drift(LookArgs),
    /// Show what a stack gives to others.
    Outputs(OutputsArgs),
    /// Draw the resources of a stack.
    Graph(GraphArgs),
    /// Show what runs where, how old it is and how far behind.
    Status(StatusArgs),
    /// Follow a rollout, or say what is to become of it.
    Rollout(RolloutArgs),
    /// List stacks, their history, and who holds them.
    Stack(StackArgs),
    /// Look after what states know.
    State(StateArgs),
    /// Show and change a stack's configuration.
    Config(ConfigArgs),
}

/// Values that settings get from the command line.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Give a setting a value, above all other places: `caddy.version=2.7`, for one image `web:caddy.version=2.7`.
    #[arg(long = "set", value_name = "COMPONENT.SETTING=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Where a fresh boot happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verify {
    /// In a container: quick.
    #[default]
    Container,
    /// In a virtual machine, under UEFI.
    Vm,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Fail on warnings too.
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// The image, or its variant: `web`, `web/large`.
    pub(crate) image: Option<ImageRef>,
    /// Print the JSON Schema of plans.
    #[arg(long, conflicts_with = "image")]
    pub(crate) schema: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    /// The image, or its variant.
    pub(crate) image: Option<ImageRef>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The image, or its variant.
    pub(crate) image: ImageRef,
    /// The setting: `caddy.version`; a component's name alone: all of its settings.
    #[arg(value_name = "COMPONENT[.SETTING]")]
    pub(crate) setting: String,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// What to write.
    #[arg(value_enum)]
    pub(crate) what: New,
    /// Its name.
    pub(crate) name: String,
}

/// What `new` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum New {
    /// A component, in components/NAME.
    Component,
    /// An image, in images/NAME.
    Image,
    /// A project, in stacks/NAME: applications/hello.
    Project,
}

#[derive(Args, Debug)]
pub(crate) struct BakeArgs {
    /// The images, or their variants; those they start from are baked first.
    pub(crate) images: Vec<ImageRef>,
    /// All images and variants.
    #[arg(long, conflicts_with = "images")]
    pub(crate) all: bool,
    /// Where machines run that images are baked on.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on: BakeOn,
    /// With `--on ec2`: the region; by default what `olbake.toml` or the environment says.
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// With `--on ec2`: only go on with a bake that was left with its snapshot.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Where the fresh boot happens that a version must pass.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) verify: Verify,
    /// What happens to the machine of a bake that failed.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub(crate) on_failure: OnFailure,
    /// How many images bake at the same time; by default as many as there are processors.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
    /// Fail when another process bakes the same image, instead of waiting for it.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Promote what was baked into this channel, if its gates hold.
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) channel: Option<String>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// The image, or its variant, whose components the machine is to have.
    pub(crate) image: Option<ImageRef>,
    /// The machine.
    #[arg(long, value_name = "USER@ADDRESS")]
    pub(crate) host: olbake_ssh::Destination,
    /// The port of its SSH server; by default what OpenSSH's configuration says, or 22.
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Log in with this private key and no other.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<Utf8PathBuf>,
    /// The file that the machine's key must be in, instead of OpenSSH's own.
    #[arg(long, value_name = "FILE", conflicts_with = "host_key")]
    pub(crate) known_hosts: Option<Utf8PathBuf>,
    /// The machine's public key: `ssh-ed25519 AAAA…`.
    #[arg(long, value_name = "KEY")]
    pub(crate) host_key: Option<olbake_ssh::HostKey>,
    /// Change nothing, and say in what the machine differs; it is an error if it does.
    #[arg(long)]
    pub(crate) check: bool,
    /// How many seconds the machine may be away when it boots again or the connection is lost.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) patience: u64,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Where machines run that images are baked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BakeOn {
    /// This host, in containers.
    #[default]
    Local,
    /// Instances of EC2.
    Ec2,
}

/// What happens to the machine of a bake that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFailure {
    /// It is removed.
    #[default]
    Cleanup,
    /// Its disk is kept, for `olbake shell --disk`.
    Keep,
    /// You get a shell on it; then it is removed.
    Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The version: `web` (its last), `web/large`, `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE[@VERSION]")]
    pub(crate) version: String,
}

/// Where a version is published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Images of EC2.
    Ec2,
}

#[derive(Args, Debug)]
pub(crate) struct PublishArgs {
    /// The version: `web` (its last), `web/large`, `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE[@VERSION]")]
    pub(crate) version: String,
    /// Where to.
    #[arg(long, value_enum)]
    pub(crate) to: Target,
    /// The regions, all at once; by default that of the environment.
    #[arg(long = "region", value_name = "REGION", value_delimiter = ',')]
    pub(crate) regions: Vec<String>,
    /// Encrypt the snapshots with this KMS key: its ARN.
    #[arg(long, value_name = "ARN")]
    pub(crate) kms_key: Option<String>,
    /// Let this account, organisation or unit of one start the images: a number or an ARN.
    #[arg(long, value_name = "WHO")]
    pub(crate) share_with: Vec<String>,
    /// Have AWS call the images deprecated in so many days.
    #[arg(long, value_name = "DAYS")]
    pub(crate) deprecate_after: Option<u16>,
    /// Upload to the first region only; AWS copies to the others, which takes minutes.
    #[arg(long)]
    pub(crate) copy: bool,
    /// Carry the plan out without asking.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PromoteArgs {
    /// The image with `--from`, or else an exact version: `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE[@VERSION]")]
    pub(crate) version: String,
    /// The channel whose version it is.
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) from: Option<String>,
    /// The channel that it enters.
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) to: String,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Say what the gates say, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("how").required(true).args(["key", "signature", "statement"]))]
pub(crate) struct ApproveArgs {
    /// The exact version: `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE@VERSION")]
    pub(crate) version: String,
    /// The channel that it may enter.
    #[arg(long = "for", value_name = "CHANNEL")]
    pub(crate) channel: String,
    /// Sign with this SSH key: a private one, or a public one whose private half an agent holds.
    #[arg(long, value_name = "FILE", env = "OLBAKE_APPROVAL_KEY")]
    pub(crate) key: Option<Utf8PathBuf>,
    /// Take a signature that was made elsewhere.
    #[arg(long, value_name = "FILE")]
    pub(crate) signature: Option<Utf8PathBuf>,
    /// Print what is to be signed, for `ssh-keygen -Y sign -n olbake-approval`.
    #[arg(long)]
    pub(crate) statement: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    /// The image, or its variant.
    pub(crate) image: ImageRef,
    /// The channel.
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) channel: String,
    /// Go back to this version, which the channel pointed to once; by default to the nearest that may be deployed.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) to: Option<String>,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The exact version: `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE@VERSION")]
    pub(crate) version: String,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// The image, or its variant.
    pub(crate) image: ImageRef,
    /// Only this channel.
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) channel: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ShellArgs {
    /// The version: `web` (its last), `web/large`, `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE[@VERSION]", required_unless_present = "disk")]
    pub(crate) version: Option<String>,
    /// A disk that a failed bake left, instead of an image.
    #[arg(long, value_name = "FILE", conflicts_with = "which")]
    pub(crate) disk: Option<Utf8PathBuf>,
    /// Boot it in a virtual machine instead of a container.
    #[arg(long)]
    pub(crate) vm: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The version: `web` (its last), `web/large`, `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE[@VERSION]")]
    pub(crate) version: String,
    /// Boot it in a virtual machine instead of a container.
    #[arg(long)]
    pub(crate) vm: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The version: `web` (its last), `web/large`, `web@DIGEST`, `sha256:DIGEST`; a digest may be cut.
    #[arg(id = "which", value_name = "IMAGE[@VERSION]")]
    pub(crate) version: String,
    /// The form of the file.
    #[arg(long, value_enum)]
    pub(crate) format: Format,
    /// The file; one that is there is replaced.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Utf8PathBuf,
}

/// Forms of exported disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The disk, byte by byte, with holes.
    Raw,
    /// QEMU's format.
    Qcow2,
    /// The root file system as an archive.
    #[value(name = "tar.zst")]
    TarZst,
}

#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// Remove what the plan names.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Remove versions too: all but the newest N of each image and variant, and what those start from.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) keep: Option<u16>,
    /// Keep layers, downloads and failed disks that are younger than so many days, needed or not.
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) days: u16,
    /// Check every block that is needed, and give up those that are corrupt, so that they are made again.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Clean there instead: images, snapshots and machines of olbake's that nothing needs.
    #[arg(long, value_enum, conflicts_with = "repair")]
    pub(crate) on: Option<Target>,
    /// With `--on`: the regions; by default that of the environment and those where versions are.
    #[arg(long = "region", value_name = "REGION", value_delimiter = ',', requires = "on")]
    pub(crate) regions: Vec<String>,
}

/// What is imported.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// What to import.
    #[command(subcommand)]
    pub(crate) what: Import,
}

/// What can be imported.
#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// The disk of an image of EC2, as a base for recipes: `bases/NAME.raw`.
    Ami {
        /// The image: `ami-…`.
        ami: String,
        /// The name of the base.
        #[arg(long)]
        name: olbake_core::ImageName,
        /// The region; by default that of the environment.
        #[arg(long, value_name = "REGION")]
        region: Option<String>,
    },
}

/// Which stack is meant.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StackArg {
    /// The stack: `applications.hello.QA`; in a project's folder `QA` is enough. Where several could be meant, you are
    /// asked.
    #[arg(long = "stack", short = 's', value_name = "STACK", global = true)]
    pub(crate) stack: Option<String>,
}

/// What a change of a stack is to be.
#[derive(Args, Clone, Debug)]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    pub(crate) stack: StackArg,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Only this resource, and what it needs that is not there.
    #[arg(long, value_name = "RESOURCE")]
    pub(crate) target: Vec<String>,
    /// Replace this resource, changed or not.
    #[arg(long, value_name = "RESOURCE")]
    pub(crate) replace: Vec<String>,
    /// Take what was applied to be there, without looking.
    #[arg(long)]
    pub(crate) no_refresh: bool,
    /// Carry the plan out without asking.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Wait so many seconds for whoever holds the stack.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct PreviewArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Show what a destroy would do.
    #[arg(long)]
    pub(crate) destroy: bool,
    /// Write the plan to a file, for `olbake deploy --plan`.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<Utf8PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Carry out this plan of `olbake preview --out` and nothing else.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "replace"])]
    pub(crate) plan: Option<Utf8PathBuf>,
    /// Run the plan's rollouts in virtual time against a model of a fleet, and print the capacity over time.
    #[arg(long, conflicts_with = "plan")]
    pub(crate) simulate: bool,
    /// What all draws of the simulation depend on.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "simulate")]
    pub(crate) seed: u64,
    /// Have instances of the new release fail in the simulation, all or PERCENT of them: `boot`, `health`, `digest`
    /// (another image than they should run), `later` (checks fail after a while), `crash` or `killed`; or `step`:
    /// calls of the provider.
    #[arg(long, value_name = "WHAT[=PERCENT]", requires = "simulate")]
    pub(crate) fail: Vec<Failing>,
}

/// A failure for a simulation: what fails, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    pub(crate) what: Fails,
    pub(crate) percent: u16,
}

/// What fails in a simulation.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    Boot,
    Health,
    Digest,
    Later,
    Crash,
    Killed,
    Step,
}

impl std::str::FromStr for Failing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, percent) = text.split_once('=').unwrap_or((text, "100"));
        let what = <Fails as clap::ValueEnum>::from_str(what, false).map_err(|_| {
            let all = <Fails as clap::ValueEnum>::value_variants().iter();
            let names: Vec<_> =
                all.filter_map(|what| Some(what.to_possible_value()?.get_name().to_owned())).collect();
            format!("`{what}` cannot be made to fail: there are {}", names.join(", "))
        })?;
        let percent = percent.trim_end_matches('%').parse().ok().filter(|percent| *percent <= 100);
        Ok(Self { what, percent: percent.ok_or("how many fail is a whole number of percent, up to 100")? })
    }
}

#[derive(Args, Debug)]
pub(crate) struct DestroyArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    pub(crate) stack: StackArg,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct OutputsArgs {
    #[command(flatten)]
    pub(crate) stack: StackArg,
    /// One output: its value alone.
    pub(crate) name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pub(crate) stack: StackArg,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// The form of the picture.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: GraphFormat,
    /// The file; none: standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<Utf8PathBuf>,
}

/// Forms of pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// A picture, for browsers and documents.
    #[default]
    Svg,
    /// Text that many wikis and code hosts draw.
    Mermaid,
    /// Text for Graphviz.
    Dot,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) stack: StackArg,
}

#[derive(Args, Debug)]
pub(crate) struct RolloutArgs {
    /// What to do.
    #[arg(value_enum)]
    pub(crate) act: RolloutAct,
    /// The group; none: all of the stack.
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) stack: StackArg,
    /// With `abort`: stop where it is instead of going back to what ran before.
    #[arg(long)]
    pub(crate) hold: bool,
    /// With `status`: go on until no rollout is under way, a line for each instance that gets further.
    #[arg(long)]
    pub(crate) follow: bool,
}

/// What to do about a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RolloutAct {
    /// Say where it is.
    Status,
    /// Begin nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Go back to what ran before.
    Abort,
}

#[derive(Args, Debug)]
pub(crate) struct StackArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) act: StackAct,
}

/// What to do about stacks.
#[derive(Debug, Subcommand)]
pub(crate) enum StackAct {
    /// List the stacks.
    List,
    /// Show who changed a stack, and how.
    History {
        #[command(flatten)]
        stack: StackArg,
    },
    /// End the hold of a process that hangs or is out of reach; one that still works is stopped at its next step.
    Unlock {
        #[command(flatten)]
        stack: StackArg,
    },
}

#[derive(Args, Debug)]
pub(crate) struct StateArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) act: StateAct,
}

/// What to do about states.
#[derive(Debug, Subcommand)]
pub(crate) enum StateAct {
    /// List objects that carry the stack's name and that its state does not know of.
    Orphans {
        #[command(flatten)]
        stack: StackArg,
        /// Remove them.
        #[arg(long)]
        remove: bool,
        /// Remove them without asking.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) stack: StackArg,
    /// What to do.
    #[command(subcommand)]
    pub(crate) act: ConfigAct,
}

/// What to do about a stack's configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAct {
    /// Show every value and where it comes from.
    List,
    /// Set a value in the stack's file; comments and order stay.
    Set {
        /// The setting: `instances`.
        key: String,
        /// The value, as TOML writes it; anything else is a text. A secret's comes from standard input.
        value: Option<String>,
        /// Encrypt the value in place.
        #[arg(long)]
        secret: bool,
        /// For the first secret of a stack: who may open them, by their age recipient, or one KMS key, `kms:ARN`; none: a
        /// passphrase opens them.
        #[arg(long = "recipient", value_name = "WHO", requires = "secret")]
        recipients: Vec<String>,
    },
    /// Have the stack's secrets opened by another passphrase or by other recipients. The values stay as they are
    /// sealed: nothing is rolled out. The new passphrase is typed, or comes by OLBAKE_NEW_PASSPHRASE or
    /// OLBAKE_NEW_PASSPHRASE_FILE.
    Rewrap {
        /// Who may open them from now on, by their age recipient; none: a passphrase does.
        #[arg(long = "recipient", value_name = "WHO")]
        recipients: Vec<String>,
    },
    /// Take a value out of the stack's file.
    Unset {
        /// The setting.
        key: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ReferenceArgs {
    /// The component; or a provider of resources, `local`, or one of its types, `local.volume`; none: all components,
    /// which takes `--write` or `--check`.
    pub(crate) component: Option<String>,
    /// Bring the marked section of components/*/README.md up to date.
    #[arg(long, conflicts_with = "check")]
    pub(crate) write: bool,
    /// Fail where that section is out of date.
    #[arg(long)]
    pub(crate) check: bool,
    /// Print the JSON Schema of the component's settings instead.
    #[arg(long, conflicts_with_all = ["write", "check"], requires = "component")]
    pub(crate) schema: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The directory: `/usr/local/share/man/man1`.
    pub(crate) directory: Utf8PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
