//! The claims of the guide's chapter on architecture, checked against the source.

mod dependencies;
mod imports;
mod layers;
mod limits;
mod places;
mod source;
mod stability;
