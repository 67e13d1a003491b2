//! Settings of components: their types, the layers that give them values, and where each value came from.
//!
//! A component declares a [`Schema`]; image, environment and command line give values ([`Given`]); [`resolve`]
//! lays them over each other and reports everything that is wrong at once. Values are JSON values in a canonical
//! form that [`Type::coerce`] makes. What needs the recipe language (functions as checks, computed fields) is done
//! by `bake/lang` on the result.

mod coerce;
mod dotenv;
mod layers;
mod reference;
mod schema;
mod suggest;
mod text;
mod types;

pub use coerce::Problem;
pub use dotenv::{DotenvEntry, parse_dotenv};
pub use layers::{Given, GivenValue, LayerKind, Resolved, SetOption, Variables, is_secret_source, resolve};
pub use reference::{json_schema, markdown};
pub use schema::{Constraints, Field, Schema};
pub use suggest::{did_you_mean, nearest};
pub(crate) use text::duration as duration_milliseconds;
pub use text::{decimal_mode, octal_help};
pub use types::{RecordField, Type};
