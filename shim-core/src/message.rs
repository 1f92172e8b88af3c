//! Received messages and loans of buffers to send.
use crate::error::Result;

/// A received message. Dropping it gives its buffers back, on whatever thread.
#[derive(Debug)]
pub struct Message(Vec<u8>);

impl std::ops::Deref for Message {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Message {
    /// The bytes as a vector of their own.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

/// Room for a message to be written in place. Dropped unsent, it goes back.
#[derive(Debug)]
pub struct TxLoan(Vec<u8>);

impl std::ops::Deref for TxLoan {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for TxLoan {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl TxLoan {
    /// Sends the message. Its credit was reserved when it was lent, so it does not wait for the peer.
    pub fn send(self) -> Result<()> {
        todo!()
    }
}
