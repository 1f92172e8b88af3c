//! The sums by which receivers that share a flow show that they got each message once.

/// Of the numbers of some messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The sum of their squares.
    pub squares: u64,
}

impl Sums {
    /// Takes in another.
    pub fn add(&mut self, number: u32) {
        let number = u64::from(number);
        self.count += 1;
        self.sum += number;
        self.squares += number * number;
    }
}
