//! Random text of the operating system, for secrets and for names that nobody can guess.

use crate::database::Error;

/// Digits and letters, but for 0, O, I and l, which people take for one another.
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// The largest multiple of the alphabet's length that a byte can count to: bytes from here on would make the first
/// characters likelier than the others, so they are drawn again.
const FAIR: u8 = 58 * 4;

/// Text of `n` characters, each with 5.85 random bits.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn text(n: usize) -> Result<String, Error> {
    let mut text = String::with_capacity(n);
    let mut bytes = [0; 64];
    while text.len() < n {
        getrandom::fill(&mut bytes).map_err(Error::Random)?;
        let characters =
            bytes.iter().filter(|byte| **byte < FAIR).map(|byte| char::from(ALPHABET[usize::from(byte % 58)]));
        text.extend(characters.take(n - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_about_as_likely() {
        let text = text(58_000).unwrap();
        assert_eq!(text.len(), 58_000);
        for character in ALPHABET {
            let n = text.bytes().filter(|byte| byte == character).count();
            // Of 1,000 expected; thirteen standard deviations.
            assert!((600..1400).contains(&n), "{n} of {}", char::from(*character));
        }
    }
}
