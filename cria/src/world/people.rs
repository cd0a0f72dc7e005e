//! Names. Each is always of a girl (or a female animal) or always of a boy, so that pronouns can be learned.

/// A name.
pub struct Name {
    /// With a capital.
    pub name: &'static str,
    /// Whether she or he.
    pub she: bool,
}

const fn she(name: &'static str) -> Name {
    Name { name, she: true }
}

const fn he(name: &'static str) -> Name {
    Name { name, she: false }
}

/// Children of the village.
pub const CHILDREN: [Name; 48] = [
    she("Ana"),
    she("Rosa"),
    she("Luz"),
    she("Killa"),
    she("Nina"),
    she("Wara"),
    she("Illa"),
    she("Elena"),
    she("Maya"),
    she("Tika"),
    she("Sisa"),
    she("Chaska"),
    she("Sumaq"),
    she("Illari"),
    she("Carmen"),
    she("Julia"),
    she("Paula"),
    she("Nayra"),
    she("Sara"),
    she("Clara"),
    she("Flora"),
    she("Marta"),
    she("Lidia"),
    she("Irma"),
    he("Tomas"),
    he("Inti"),
    he("Amaru"),
    he("Mateo"),
    he("Kusi"),
    he("Luis"),
    he("Rumi"),
    he("Pedro"),
    he("Sami"),
    he("Wayra"),
    he("Yaku"),
    he("Juan"),
    he("Carlos"),
    he("Pablo"),
    he("Diego"),
    he("Samuel"),
    he("Hugo"),
    he("Raul"),
    he("Felix"),
    he("Marco"),
    he("Nilo"),
    he("Andres"),
    he("Jorge"),
    he("Simon"),
];

/// Animals that people have named.
pub const ANIMAL_NAMES: [Name; 32] = [
    she("Luna"),
    she("Nube"),
    she("Nieve"),
    she("Pampa"),
    she("Yana"),
    she("Chispa"),
    she("Mota"),
    she("Lila"),
    she("Dora"),
    she("Flor"),
    she("Perla"),
    she("Estrella"),
    she("Suri"),
    she("Miski"),
    she("Lola"),
    she("Bella"),
    he("Copo"),
    he("Puka"),
    he("Rayo"),
    he("Sol"),
    he("Cielo"),
    he("Trueno"),
    he("Pirata"),
    he("Capitan"),
    he("Zorro"),
    he("Pepe"),
    he("Roco"),
    he("Tuku"),
    he("Pinto"),
    he("Bruno"),
    he("Suyo"),
    he("Tito"),
];

/// Names from elsewhere, of those who talk with cria.
pub const VISITORS: [&str; 40] = [
    "Emma", "Liam", "Anna", "Peter", "Mary", "John", "Kim", "Alex", "Noah", "Mia", "Leo", "Lena", "Max", "Eva", "Tom",
    "Sam", "Lucy", "Ben", "Lisa", "David", "Paul", "Amir", "Yuki", "Omar", "Ivan", "Olga", "Chen", "Aisha", "Daniel",
    "Laura", "Maria", "Jack", "Sophie", "Oscar", "Nora", "Jan", "Fatima", "Lukas", "Hannah", "Robin",
];
