//! Things by number.

/// What JavaScript names by a number that it was given. A number is given anew only after what it named was removed.
#[derive(Debug)]
pub(crate) struct Table<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Puts something in; says its number.
    pub(crate) fn insert(&mut self, thing: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(thing);
            return number;
        }
        self.places.push(Some(thing));
        u32::try_from(self.places.len() - 1).expect("memory for 2^32 things is not there")
    }

    /// What has this number.
    #[inline]
    pub(crate) fn find(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }

    /// What has this number, to change it.
    pub(crate) fn find_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut(number as usize)?.as_mut()
    }

    /// Takes out what has this number.
    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let taken = self.places.get_mut(number as usize)?.take();
        if taken.is_some() {
            self.free.push(number);
        }
        taken
    }
}
