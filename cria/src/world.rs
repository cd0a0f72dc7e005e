//! What there is on the puna: the one table of facts, and the names that stories use.

pub mod animals;
pub mod things;

mod people;
mod places;

pub use animals::{ANIMALS, Animal};
pub use people::{ANIMAL_NAMES, CHILDREN, Name, VISITORS};
pub use places::{PLACES, Place};
pub use things::{THINGS, Thing};
