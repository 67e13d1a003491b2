//! Scripts: a request and a model in, a timeline out.

mod build;
mod properties;
mod scripts;
mod trial;
mod turns;
