//! The providers that a stack needs, opened: AWS is asked for credentials only for stacks that have something there.

use std::collections::BTreeSet;
use std::sync::Arc;

use olbake_core::stack::{Declaration, StackName, StackState};
use olbake_engine::stack::provider::Provider;
use olbake_engine::stack::{RegistryImages, Site};
use olbake_engine::state::SystemClock;
use olbake_lang::Evaluated;
use olbake_local::LocalProvider;
use olbake_postgresql::PostgreSql;

use super::{Context, Desk, RegistryDisks, Unsealed, catalog, wait};
use crate::errors::Result;

impl Desk {
    /// The names of the providers that a stack has objects of, or is to have.
    pub(super) fn providers_of(
        &self,
        stack: &StackName,
        declaration: Option<&Declaration>,
    ) -> Result<BTreeSet<String>> {
        let viewed = wait(self.store.read::<StackState>(stack, &SystemClock))?;
        let state = viewed.map(|viewed| viewed.state).unwrap_or_default();
        let declared = declaration.into_iter().flat_map(|declaration| &declaration.resources);
        let types = declared
            .map(|resource| &resource.ty)
            .chain(state.resources.values().map(|applied| &applied.ty))
            .chain(state.deposed.values().map(|deposed| &deposed.was.ty))
            .chain(state.pending.values().map(|intent| &intent.ty));
        Ok(types.map(|ty| ty.provider().to_owned()).collect())
    }

    /// The providers of a stack and everything around them, for looking.
    pub(super) fn site(&self, stack: &StackName, declaration: Option<&Declaration>) -> Result<Site> {
        let disks = RegistryDisks { registry: self.registry.clone(), cache: Arc::new(self.place.cache()?) };
        let local = LocalProvider::open(&self.place.config.local, Arc::new(disks))?;
        let mut providers: Vec<Arc<dyn Provider>> = vec![Arc::new(local), Arc::new(PostgreSql::new())];
        if self.providers_of(stack, declaration)?.contains("aws") {
            providers.extend(aws()?);
        }
        let site = Site::new(providers, Arc::new(RegistryImages(self.registry.clone())));
        // Plans can be made for what cannot be carried out here.
        Ok(Site { catalog: Arc::new(catalog()), ..site })
    }

    /// The same, with the secrets of a stack: some objects cannot be looked at without.
    pub(super) fn site_with_secrets(
        &self,
        context: &Context,
        stack: &StackName,
        evaluated: &Evaluated,
    ) -> Result<Site> {
        let unsealed = Unsealed::open(self, context, stack, evaluated)?;
        let site = self.site(stack, Some(&evaluated.declaration))?;
        Ok(Site { secrets: Arc::new(move |id| unsealed.value(id)), ..site })
    }
}

/// The provider of AWS, with the credentials and the region that the environment has.
#[cfg(feature = "aws")]
fn aws() -> Result<Option<Arc<dyn Provider>>> {
    let account = wait(olbake_aws::Account::find(None));
    let amis = olbake_aws::provider::TaggedAmis::new(&account);
    let provider = olbake_aws::AwsProvider::open(account, Arc::new(amis));
    Ok(Some(Arc::new(provider.map_err(crate::errors::CliError::from)?)))
}

/// Nothing is known of AWS; what asks for it is told so.
#[cfg(not(feature = "aws"))]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn aws() -> Result<Option<Arc<dyn Provider>>> {
    Ok(None)
}
