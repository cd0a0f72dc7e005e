//! Where stories happen.

/// A place, with the words that lead to it.
pub struct Place {
    /// `the lake`
    pub name: &'static str,
    /// `by the lake`
    pub at: &'static str,
    /// `to the lake`
    pub to: &'static str,
    /// Whether one sees one's face in it.
    pub water: bool,
    /// Whether there is no water near it.
    pub dry: bool,
}

const fn plain(name: &'static str, at: &'static str, to: &'static str) -> Place {
    Place { name, at, to, water: false, dry: false }
}

const fn water(name: &'static str, at: &'static str, to: &'static str) -> Place {
    Place { name, at, to, water: true, dry: false }
}

const fn dry(name: &'static str, at: &'static str, to: &'static str) -> Place {
    Place { name, at, to, water: false, dry: true }
}

/// All places.
pub const PLACES: [Place; 22] = [
    water("the lake", "by the lake", "to the lake"),
    water("the river", "by the river", "to the river"),
    water("the pond", "by the pond", "to the pond"),
    water("the spring", "at the spring", "to the spring"),
    plain("the well", "by the well", "to the well"),
    plain("the old bridge", "by the old bridge", "to the old bridge"),
    plain("the meadow", "in the meadow", "to the meadow"),
    plain("the church", "behind the church", "to the church"),
    plain("the terraces", "on the terraces", "to the terraces"),
    plain("the potato field", "in the potato field", "to the potato field"),
    plain("the hot spring", "near the hot spring", "to the hot spring"),
    plain("the cave", "in front of the cave", "to the cave"),
    plain("the old tree", "under the old tree", "to the old tree"),
    plain("the edge of the village", "at the edge of the village", "to the edge of the village"),
    dry("the salt flat", "at the edge of the salt flat", "to the salt flat"),
    dry("the big rock", "at the big rock", "to the big rock"),
    dry("the stone wall", "by the stone wall", "to the stone wall"),
    dry("the hill", "on the hill", "to the top of the hill"),
    dry("the thorn bush", "behind the thorn bush", "to the thorn bush"),
    dry("the valley", "in the valley", "to the valley"),
    dry("the high pass", "at the high pass", "to the high pass"),
    dry("the black rocks", "between the black rocks", "to the black rocks"),
];
