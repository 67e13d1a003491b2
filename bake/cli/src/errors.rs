//! Errors of libraries to kinds, hints and exit codes: one `From` for each. Main type: [`CliError`].

use olbake_core::ImageRef;
use olbake_core::diagnostic::Diagnostics;
use olbake_core::rollout::PreflightError;
use olbake_engine::bake::BakeError;
use olbake_engine::config::UnknownChannel;
use olbake_engine::edit::EditError;
use olbake_engine::envelope::EnvelopeError;
use olbake_engine::machine::MachineError;
use olbake_engine::payload::PayloadError;
use olbake_engine::promotion::PromotionError;
use olbake_engine::registry::RegistryError;
use olbake_engine::registry::approvals::SignatureError;
use olbake_engine::secrets::SecretError;
use olbake_engine::session::SessionError;
use olbake_engine::stack::StackError;
use olbake_engine::stack::provider::ProviderError;
use olbake_engine::state::StateError;
use olbake_engine::store::StoreError;
use olbake_local::cloud::CloudError;
use olbake_ssh::SshError;

use crate::exit_codes::Kind;

/// What a command ended with.
#[derive(Debug)]
pub(crate) struct CliError {
    /// Who can mend it.
    pub(crate) kind: Kind,
    /// The image it is about, if about one.
    pub(crate) image: Option<ImageRef>,
    /// What went wrong, with its causes.
    pub(crate) error: anyhow::Error,
    /// What to do about it.
    pub(crate) help: Vec<String>,
    /// Mistakes in recipes: they are shown in the error's place.
    pub(crate) diagnostics: Option<Diagnostics>,
}

/// What a command gives.
pub(crate) type Result<T = ()> = std::result::Result<T, CliError>;

impl CliError {
    /// An error of a kind.
    pub(crate) fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self { kind, image: None, error: error.into(), help: Vec::new(), diagnostics: None }
    }

    /// What was asked for is not there.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(Kind::User, anyhow::Error::msg(message.into()))
    }

    /// This machine is not as it must be.
    pub(crate) fn environment(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Kind::Environment, error)
    }

    /// Says what to do.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Says which image it is about.
    #[must_use]
    pub(crate) fn about(mut self, image: ImageRef) -> Self {
        self.image = Some(image);
        self
    }

    /// The error with its causes, on one line each way it is read.
    pub(crate) fn message(&self) -> String {
        format!("{:#}", self.error)
    }
}

impl From<Diagnostics> for CliError {
    fn from(diagnostics: Diagnostics) -> Self {
        let count =
            crate::ui::diagnostics::summary(&diagnostics.0).unwrap_or_else(|| "nothing found".to_owned());
        let error = anyhow::anyhow!("the recipes have {count}");
        let kind = Kind::of_diagnostics(&diagnostics);
        Self { diagnostics: Some(diagnostics), ..Self::new(kind, error) }
    }
}

impl From<olbake_core::names::NameError> for CliError {
    fn from(error: olbake_core::names::NameError) -> Self {
        Self::new(Kind::User, error)
    }
}

impl From<MachineError> for CliError {
    fn from(error: MachineError) -> Self {
        let (kind, help) = match &error {
            MachineError::Host { help, .. } => (Kind::Environment, help.clone()),
            MachineError::Command { output, .. } => (Kind::Environment, last_lines("it wrote", output)),
            MachineError::Io { source, .. } => (Kind::Environment, disk_full(source)),
            MachineError::Boot { console, .. } => {
                (Kind::Failed, last_lines("its console ended with", console))
            }
            MachineError::Disk { .. } => (Kind::Environment, None),
        };
        Self { help: help.into_iter().collect(), ..Self::new(kind, error) }
    }
}

/// The end of what a program wrote, as a hint.
fn last_lines(what: &str, output: &str) -> Option<String> {
    const LINES: usize = 15;
    let lines: Vec<&str> = output.trim_end().lines().collect();
    let shown = &lines[lines.len().saturating_sub(LINES)..];
    (!shown.is_empty()).then(|| format!("{what}:\n  {}", shown.join("\n  ")))
}

/// A hint for a full disk.
pub(crate) fn disk_full(error: &std::io::Error) -> Option<String> {
    (error.kind() == std::io::ErrorKind::StorageFull)
        .then(|| "`olbake gc` says what can be removed to make room".to_owned())
}

impl From<BakeError> for CliError {
    fn from(error: BakeError) -> Self {
        let kind = match error {
            BakeError::Machine(error) => return error.into(),
            BakeError::Session(error) => return error.into(),
            BakeError::Store(error) => return error.into(),
            BakeError::Registry(error) => return error.into(),
            BakeError::Secret(error) => return error.into(),
            BakeError::Payload(error) => return error.into(),
            BakeError::Io { ref source, .. } => {
                let help = disk_full(source);
                return Self { help: help.into_iter().collect(), ..Self::environment(error) };
            }
            BakeError::Operation { .. } | BakeError::Verification { .. } | BakeError::Base { .. } => {
                Kind::Failed
            }
            BakeError::Busy { .. } => Kind::Environment,
            BakeError::Cancelled => Kind::Interrupted,
            BakeError::Task(_) => Kind::Bug,
        };
        Self::new(kind, error)
    }
}

impl From<SessionError> for CliError {
    fn from(error: SessionError) -> Self {
        let kind = match &error {
            SessionError::Frame(_) | SessionError::Message(_) => Kind::Bug,
            SessionError::Fault(_) => Kind::Failed,
            SessionError::Stream(_)
            | SessionError::Ended
            | SessionError::Protocol { .. }
            | SessionError::Machine(_)
            | SessionError::Blob { .. } => Kind::Environment,
        };
        Self::new(kind, error)
    }
}

impl From<SshError> for CliError {
    fn from(error: SshError) -> Self {
        let (kind, help) = match error {
            SshError::Session(error) => return error.into(),
            SshError::HostKey { .. } => (
                Kind::Refused,
                Some("`--host-key` or `--known-hosts` says which key it has; ask someone who can see the machine".to_owned()),
            ),
            SshError::Login { .. } => (Kind::Refused, Some("`--identity` names the key to log in with".to_owned())),
            SshError::Privilege { .. } => (
                Kind::Refused,
                Some("log in as root, or let the user run sudo without a password".to_owned()),
            ),
            SshError::NoClient => (Kind::Environment, Some("apt-get install openssh-client".to_owned())),
            SshError::Lost { ref output, .. } => {
                (Kind::Failed, last_lines("it wrote", output))
            }
            SshError::Freeze { ref output, .. } => (Kind::Failed, last_lines("it wrote", output)),
            SshError::Reboot { .. } => (Kind::Failed, None),
            SshError::Unreachable { .. } | SshError::Agent { .. } | SshError::Io { .. } => (Kind::Environment, None),
            SshError::Cancelled => (Kind::Interrupted, None),
        };
        Self { help: help.into_iter().collect(), ..Self::new(kind, error) }
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let (kind, help) = of_store(&error);
        Self { help: help.into_iter().collect(), ..Self::new(kind, error) }
    }
}

/// The kind of an error of the store, and what to do about it.
fn of_store(error: &StoreError) -> (Kind, Option<String>) {
    match error {
        StoreError::Io { source, .. } => (Kind::Environment, disk_full(source)),
        StoreError::Remote { help, .. } => (Kind::Cloud, help.clone()),
        StoreError::Unsure { .. } => (Kind::Cloud, None),
        _ => (Kind::Environment, None),
    }
}

impl From<RegistryError> for CliError {
    fn from(error: RegistryError) -> Self {
        if let RegistryError::Store(store) = &error {
            let (kind, help) = of_store(store);
            return Self { help: help.into_iter().collect(), ..Self::new(kind, error) };
        }
        let (kind, help) = match &error {
            RegistryError::UnknownImage { .. } => (Kind::User, Some("`olbake images` lists what there is")),
            RegistryError::EmptyChannel { .. } => {
                (Kind::User, Some("`olbake promote IMAGE@DIGEST --to CHANNEL` puts a version into a channel"))
            }
            RegistryError::ChannelMoved(_) => {
                (Kind::Refused, Some("look at `olbake history`, and run it again"))
            }
            RegistryError::Revoked { .. } | RegistryError::Unregistered { .. } => (Kind::Refused, None),
            RegistryError::UnknownVersion { .. }
            | RegistryError::Ambiguous { .. }
            | RegistryError::BadReference { .. }
            | RegistryError::BadUrl { .. } => (Kind::User, None),
            RegistryError::Missing { .. }
            | RegistryError::Torn { .. }
            | RegistryError::TornChannel { .. }
            | RegistryError::TornPlace { .. }
            | RegistryError::Schema { .. }
            | RegistryError::Busy { .. }
            | RegistryError::Store(_) => (Kind::Environment, None),
        };
        Self { help: help.map(str::to_owned).into_iter().collect(), ..Self::new(kind, error) }
    }
}

impl From<PromotionError> for CliError {
    fn from(error: PromotionError) -> Self {
        let kind = match error {
            PromotionError::Registry(error) => return error.into(),
            PromotionError::Diagnostics(diagnostics) => return diagnostics.into(),
            PromotionError::Gates(_) | PromotionError::NotAllowed { .. } => Kind::Refused,
            PromotionError::NothingBefore { .. } | PromotionError::NeverThere { .. } => Kind::User,
            PromotionError::Signature(SignatureError::Run(_) | SignatureError::Refused { .. })
            | PromotionError::AllowedSigners { .. } => Kind::Environment,
            PromotionError::Signature(_) => Kind::User,
        };
        Self::new(kind, error)
    }
}

impl From<UnknownChannel> for CliError {
    fn from(error: UnknownChannel) -> Self {
        let help = error.help.clone();
        Self { help: help.into_iter().collect(), ..Self::new(Kind::User, error) }
    }
}

impl From<StateError> for CliError {
    fn from(error: StateError) -> Self {
        let (kind, help) = match &error {
            StateError::Busy { .. } => (
                Kind::Refused,
                Some("`--wait SECONDS` waits for it; `olbake stack unlock` ends a hold that hangs"),
            ),
            StateError::Lost { .. } | StateError::Expired { .. } => (Kind::Refused, None),
            StateError::BadUrl { .. } => (Kind::User, None),
            StateError::Store(store) => {
                let (kind, help) = of_store(store);
                return Self { help: help.into_iter().collect(), ..Self::new(kind, error) };
            }
            _ => (Kind::Environment, None),
        };
        Self { help: help.map(str::to_owned).into_iter().collect(), ..Self::new(kind, error) }
    }
}

impl From<StackError> for CliError {
    fn from(error: StackError) -> Self {
        let (kind, help) = match error {
            StackError::State(error) => return error.into(),
            StackError::Registry(error) => return error.into(),
            StackError::Plan(diagnostics) => return diagnostics.into(),
            StackError::Preflight(error) => return error.into(),
            StackError::Provider { ref source, .. } => (Kind::Cloud, provider_help(source)),
            StackError::Listing { ref source, .. } => (Kind::Cloud, provider_help(source)),
            StackError::Moved { ref differences, .. } => (Kind::Refused, differences.clone()),
            StackError::Declined(_) => (Kind::Refused, Vec::new()),
            StackError::Failed { ref failures, .. } => (Kind::Failed, causes(failures)),
            StackError::Rollout { .. } => (Kind::Failed, Vec::new()),
            StackError::Cancelled => (Kind::Interrupted, Vec::new()),
            StackError::NoProvider(ref ty) if ty.provider() == "aws" => (
                Kind::User,
                vec!["this olbake was built without AWS: `cargo build --features aws`".to_owned()],
            ),
            StackError::NoProvider(_) | StackError::Value { .. } | StackError::NoOutput { .. } => {
                (Kind::Recipe, Vec::new())
            }
            StackError::Secret { .. } => (Kind::Environment, Vec::new()),
            StackError::BadRollout { .. } => (Kind::Environment, Vec::new()),
            StackError::Task(_) => (Kind::Bug, Vec::new()),
        };
        Self { help, ..Self::new(kind, error) }
    }
}

impl From<ProviderError> for CliError {
    fn from(error: ProviderError) -> Self {
        let help = provider_help(&error);
        Self { help, ..Self::new(Kind::Cloud, error) }
    }
}

/// What a provider says can be done.
fn provider_help(error: &ProviderError) -> Vec<String> {
    match error {
        ProviderError::Refused { help, .. } => help.clone().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Each action that failed, with its causes.
fn causes(failures: &[(olbake_core::stack::record::OperationKey, StackError)]) -> Vec<String> {
    let line = |(key, error): &(_, StackError)| {
        let mut text = format!("{}: {error}", crate::ui::stack::action_name(key));
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    };
    failures.iter().map(line).collect()
}

impl From<PreflightError> for CliError {
    fn from(error: PreflightError) -> Self {
        Self::new(Kind::Refused, error)
    }
}

impl From<CloudError> for CliError {
    fn from(error: CloudError) -> Self {
        match error {
            CloudError::Host(error) => error.into(),
            other => Self::environment(other),
        }
    }
}

impl From<EnvelopeError> for CliError {
    fn from(error: EnvelopeError) -> Self {
        Self::new(Kind::User, error)
    }
}

impl From<EditError> for CliError {
    fn from(error: EditError) -> Self {
        Self::new(Kind::User, error)
    }
}

impl From<SecretError> for CliError {
    fn from(error: SecretError) -> Self {
        Self::environment(error)
    }
}

impl From<PayloadError> for CliError {
    fn from(error: PayloadError) -> Self {
        let kind = match &error {
            PayloadError::Unknown(_) | PayloadError::NotInline(_) => Kind::Bug,
            PayloadError::Checksum { .. } => Kind::Failed,
            _ => Kind::Environment,
        };
        Self::new(kind, error)
    }
}

#[cfg(feature = "aws")]
impl From<olbake_aws::AwsError> for CliError {
    fn from(error: olbake_aws::AwsError) -> Self {
        use olbake_aws::AwsErrorKind;
        let kind = match error.kind {
            AwsErrorKind::Credentials | AwsErrorKind::Expired => Kind::Environment,
            _ => Kind::Cloud,
        };
        Self { help: error.help().into_iter().collect(), ..Self::new(kind, error) }
    }
}

#[cfg(feature = "aws")]
impl From<olbake_aws::publish::PublishError> for CliError {
    fn from(error: olbake_aws::publish::PublishError) -> Self {
        use olbake_aws::publish::PublishError;
        let (kind, help) = match error {
            PublishError::Registry(error) => return error.into(),
            PublishError::Store(error) => return error.into(),
            PublishError::Aws { ref source, .. } => (Kind::Cloud, source.help()),
            PublishError::NameTaken { .. } | PublishError::Busy { .. } => (Kind::Refused, None),
            PublishError::Broken { .. } | PublishError::Pending { .. } => (Kind::Cloud, None),
            PublishError::Journal { ref source, .. } => (Kind::Environment, disk_full(source)),
        };
        Self { help: help.into_iter().collect(), ..Self::new(kind, error) }
    }
}

#[cfg(feature = "aws")]
impl From<olbake_aws::import::ImportError> for CliError {
    fn from(error: olbake_aws::import::ImportError) -> Self {
        use olbake_aws::import::ImportError;
        let (kind, help) = match error {
            ImportError::Aws(error) => return error.into(),
            ImportError::Images(error) => return error.into(),
            ImportError::Registry(error) => return error.into(),
            ImportError::NoImage { .. } | ImportError::NoSnapshot { .. } => (Kind::User, None),
            ImportError::File { ref source, .. } => (Kind::Environment, disk_full(source)),
        };
        Self { help: help.into_iter().collect(), ..Self::new(kind, error) }
    }
}

#[cfg(feature = "aws")]
impl From<olbake_aws::gc::GcError> for CliError {
    fn from(error: olbake_aws::gc::GcError) -> Self {
        use olbake_aws::gc::GcError;
        match error {
            GcError::Registry(error) => error.into(),
            GcError::Aws { ref source, .. } => {
                let help = source.help();
                Self { help: help.into_iter().collect(), ..Self::new(Kind::Cloud, error) }
            }
        }
    }
}

#[cfg(feature = "aws")]
impl From<olbake_aws::bake::Ec2BakeError> for CliError {
    fn from(error: olbake_aws::bake::Ec2BakeError) -> Self {
        use olbake_aws::bake::Ec2BakeError;
        let (kind, help) = match error {
            Ec2BakeError::Aws(error) => return error.into(),
            Ec2BakeError::Publish(error) => return error.into(),
            Ec2BakeError::Blocks(error) => return error.into(),
            Ec2BakeError::Ssh(SshError::HostKey { .. }) => (
                Kind::Refused,
                Some(
                    "who answers there is not the instance that was started; nothing was sent to it"
                        .to_owned(),
                ),
            ),
            Ec2BakeError::Ssh(error) => return error.into(),
            Ec2BakeError::Bake(error) => return error.into(),
            Ec2BakeError::NoSource { .. } => (
                Kind::User,
                Some("`olbake.lock` names an image that was chosen once; remove its entry".to_owned()),
            ),
            Ec2BakeError::UnknownSuite { ref suite } => {
                (Kind::User, Some(format!("name it in `olbake.toml`: `[ec2.sources.{suite}]`")))
            }
            Ec2BakeError::DiskBase { .. } => {
                (Kind::User, Some("start from `ami(OWNER, NAME)`, or bake it here and publish it".to_owned()))
            }
            Ec2BakeError::NoNetwork { .. } => {
                (Kind::User, Some("name a subnet in `olbake.toml`: `subnet` in `[ec2]`".to_owned()))
            }
            Ec2BakeError::NoSubnet { .. } => (Kind::User, None),
            Ec2BakeError::NothingToResume(_) => {
                (Kind::User, Some("without `--resume` it is baked from the beginning".to_owned()))
            }
            Ec2BakeError::Capacity { .. } => (
                Kind::Cloud,
                Some("name further types in `olbake.toml`: `instance_types` in `[ec2]`".to_owned()),
            ),
            Ec2BakeError::Gone { .. } | Ec2BakeError::Slow { .. } => (Kind::Cloud, None),
            Ec2BakeError::Silent { ref console, .. } => {
                (Kind::Failed, last_lines("its console ended with", console))
            }
            Ec2BakeError::Journal { ref source, .. } => (Kind::Environment, disk_full(source)),
            Ec2BakeError::Lock(_) => (Kind::Environment, None),
            Ec2BakeError::Key(_) => (Kind::Bug, None),
        };
        Self { help: help.into_iter().collect(), ..Self::new(kind, error) }
    }
}
