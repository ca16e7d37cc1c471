//! What the architecture chapter of the guide claims about the source, checked by reading the source.

mod imports;
mod layers;
mod limits;
mod places;
mod source;
