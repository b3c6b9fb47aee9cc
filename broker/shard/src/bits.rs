//! A window of numbered truths that moves upwards.

use smallvec::SmallVec;

use crate::codec::{CodecError, Put, Reader};

/// The most words that are read: twice the window of a session's granted sequence numbers.
const MAX_WORDS: usize = 128;

/// Which numbers from some floor on are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    /// The number of the first word, of 64 bits each.
    first: u64,
    words: SmallVec<[u64; 2]>,
}

impl Bits {
    pub(crate) fn contains(&self, number: u64) -> bool {
        (number / 64)
            .checked_sub(self.first)
            .and_then(|at| self.words.get(usize::try_from(at).ok()?))
            .is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Sets a number, which is not below the floor.
    pub(crate) fn insert(&mut self, number: u64) {
        let word = number / 64;
        if self.words.is_empty() {
            self.first = word;
        }
        let at = usize::try_from(word.saturating_sub(self.first)).expect("the window is a few thousand numbers wide");
        if word < self.first {
            let missing = usize::try_from(self.first - word).expect("the window is a few thousand numbers wide");
            self.words.insert_many(0, std::iter::repeat_n(0, missing));
            self.first = word;
        } else if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (number % 64);
    }

    /// Nothing below `floor` is set any more.
    pub(crate) fn forget_below(&mut self, floor: u64) {
        let word = floor / 64;
        let gone = word.saturating_sub(self.first).min(self.words.len() as u64) as usize;
        self.words.drain(..gone);
        self.first += gone as u64;
        if self.words.is_empty() {
            self.first = 0;
        } else if self.first == word {
            self.words[0] &= u64::MAX << (floor % 64);
        }
    }

    /// Bytes outside of the value itself.
    pub(crate) fn heap(&self) -> usize {
        if self.words.spilled() { self.words.capacity() * 8 } else { 0 }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.number(self.first);
        out.count(self.words.len());
        self.words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let first = reader.number("first word of bits")?;
        let words = reader.list("words of bits", MAX_WORDS, |reader| {
            let mut word = [0; 8];
            for byte in &mut word {
                *byte = reader.byte("word of bits")?;
            }
            Ok(u64::from_le_bytes(word))
        })?;
        Ok(Self { first, words: words.into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(steps in prop::collection::vec((0_u64..600, any::<bool>()), 1..200)) {
            let (mut bits, mut model, mut floor) = (Bits::default(), BTreeSet::new(), 0);
            for (by, forget) in steps {
                if forget {
                    floor += by / 4;
                    bits.forget_below(floor);
                    model.retain(|n| *n >= floor);
                } else {
                    bits.insert(floor + by);
                    model.insert(floor + by);
                }
                let mut bytes = Vec::new();
                bits.encode(&mut bytes);
                prop_assert_eq!(&Bits::decode(&mut Reader::new(&bytes)).unwrap(), &bits);
                for n in floor.saturating_sub(70)..floor + 700 {
                    prop_assert_eq!(bits.contains(n), model.contains(&n), "{}", n);
                }
            }
        }
    }
}
