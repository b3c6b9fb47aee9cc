//! Slots with generations: a key of something that is gone never finds what took its place.

use super::wheel::Key;

/// A growing array of slots that are used again. What is in has an allocation of its own: the array stays small, is cheap
/// to grow, and what is gone gives its memory back.
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<Box<T>>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Puts something in and says where.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(slot) = self.free.pop() {
            let place = &mut self.slots[slot as usize];
            place.1 = Some(Box::new(value));
            return Key { slot, generation: place.0 };
        }
        let slot = u32::try_from(self.slots.len()).expect("a process has fewer than 2^32 open files");
        self.slots.push((0, Some(Box::new(value))));
        Key { slot, generation: 0 }
    }

    /// What was put in under this key, while it is there.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.slot as usize) {
            Some((generation, value)) if *generation == key.generation => value.as_deref_mut(),
            _ => None,
        }
    }

    /// What is in a slot now, with its key.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<(Key, &mut T)> {
        let (generation, value) = self.slots.get_mut(slot as usize)?;
        let generation = *generation;
        value.as_deref_mut().map(|value| (Key { slot, generation }, value))
    }

    /// Takes it out; the slot is free from now on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, value) = self.slots.get_mut(key.slot as usize)?;
        if *generation != key.generation {
            return None;
        }
        let taken = value.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(*taken)
    }

    /// The keys of all that is in.
    pub(crate) fn keys(&self) -> Vec<Key> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, (_, value))| value.is_some())
            .map(|(slot, (generation, _))| Key { slot, generation: *generation })
            .collect()
    }

    /// How many are in.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing() {
        let mut slab = Slab::new();
        let old = slab.insert("a");
        assert_eq!(slab.remove(old), Some("a"));
        let new = slab.insert("b");
        assert_eq!(new.slot, old.slot);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut "b"));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.keys(), [new]);
    }
}
