//! Scripts: a request and a model in, a timeline out.

mod build;
mod scripts;
