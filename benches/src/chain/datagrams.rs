//! Bare datagrams: what a driver of the engine costs without the protocol above it.

use super::{Link, message, number_of};
use crate::MESSAGE_BYTES;
use machnet_engine::clock::Clock;
use machnet_engine::driver::Driver;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// A driver as a link to another one.
#[derive(Debug)]
pub struct Datagrams<D> {
    driver: D,
    clock: Clock,
    to: SocketAddr,
}

impl<D: Driver> Datagrams<D> {
    /// Datagrams to the driver at `to`.
    pub fn new(driver: D, to: SocketAddr) -> Self {
        Self { driver, clock: Clock::start(), to }
    }
}

impl<D: Driver> Link for Datagrams<D> {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        self.driver.begin_cycle(self.clock.now());
        let mut count = 0;
        self.driver.receive(|arrival| {
            if let Some(number) = number_of(arrival.bytes) {
                each(number);
                count += 1;
            }
        })?;
        // The driver may have had to say something of its own, such as where this host is.
        if self.driver.is_transmit_pending() {
            self.driver.flush()?;
        }
        Ok(count)
    }

    #[inline]
    fn put(&mut self, number: u64) -> io::Result<()> {
        let from_port = self.driver.ports().first();
        if self.driver.lend(from_port, self.to, MESSAGE_BYTES).is_none() {
            self.driver.flush()?;
        }
        // Without room it is lost, and that it is missing is noticed.
        if let Some(room) = self.driver.lend(from_port, self.to, MESSAGE_BYTES) {
            room[..MESSAGE_BYTES].copy_from_slice(&message(number));
            self.driver.commit(MESSAGE_BYTES);
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        self.driver.flush()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.driver.wait_fd()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.driver.prepare_sleep()
    }
}
