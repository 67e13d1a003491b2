//! Stacks: plans carried out through providers, with every step written down before and after.
//!
//! | file | what it has |
//! |---|---|
//! | `deploy.rs` | a change from hold to history: [`Stacks`] |
//! | `look.rs` | what is there; what became of calls whose end nobody saw |
//! | `carry_out.rs` | the actions of a plan, in order, many at a time |
//! | `roll.rs` | the rollout of a group |
//! | `rehearse.rs` | how the rollouts of a plan would begin |
//! | `group.rs` | what groups have in common: size, image, health, strategy |
//! | `secrets.rs` | secrets put into properties |
//! | `provider.rs` | what a provider can do |
//! | `wish.rs` | what operators wish of a rollout |
//! | `site.rs` | providers, secrets, images and listeners around a change |

mod carry_out;
mod deploy;
mod error;
mod event;
mod fold;
pub mod group;
mod images;
mod look;
pub mod provider;
mod rehearse;
mod roll;
mod secrets;
mod site;
mod wish;

pub use deploy::{Change, Changed, Preview, Refresh, Stacks};
pub use error::StackError;
pub use event::StackEvent;
pub use images::RegistryImages;
pub use look::inventory;
pub use site::{HookCommand, Images, Listener, SecretValues, Site, Wishes};
pub use wish::{wish, wishes};
