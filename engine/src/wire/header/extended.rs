//! The EXTENDED body: what only flows between several engines have to tell, in front of the body proper.
//!
//! ```text
//!   | kind of the body, and which blocks | PATH 4: pair, or zeros | SEARCH 3: port, engine | body |
//! ```

use super::{BODY_SHIFT, Body, Emitter, KIND_EXTENDED, ParseError, Reader, parse_body};
use crate::wire::ports::Pair;

/// Most bytes of the EXTENDED body in front of the body proper.
pub(super) const MAX_EXTENDED_LEN: usize = 1 + PATH_LEN as usize + SEARCH_LEN as usize;

const PATH_LEN: u32 = 4;
const SEARCH_LEN: u32 = 3;

/// The low bits of the first byte: the kind of the body proper.
const KIND_MASK: u8 = 7;
const HAS_PATH: u8 = 8;
const HAS_SEARCH: u8 = 16;

/// News about the ports on which the receiver of the packet sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// On this pair of the receiver's datagrams land at the engine that owns the flow.
    Use(Pair),
    /// The one that it uses no longer does, and none is known that does.
    Lost,
}

/// The sender of the packet knows no pair on which it lands, or doubts the one that it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Search {
    /// A UDP port at which the sender hears: it may have sent from one at which it does not.
    pub port: u16,
    /// The engine of the sender that owns the flow.
    pub engine: u8,
}

/// Blocks in front of the body. At least one is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extended {
    /// News for the receiver.
    pub path: Option<Path>,
    /// The state of the sender.
    pub search: Option<Search>,
}

impl Extended {
    /// Bytes that it adds to a packet.
    #[must_use]
    pub const fn wire_len(&self) -> u32 {
        let path = if self.path.is_some() { PATH_LEN } else { 0 };
        let search = if self.search.is_some() { SEARCH_LEN } else { 0 };
        1 + path + search
    }
}

#[cold]
pub(super) fn parse_extended(mut r: Reader<'_>) -> Result<(Extended, Body<'_>), ParseError> {
    let first = r.u8()?;
    let kind = first & KIND_MASK;
    if first & !(KIND_MASK | HAS_PATH | HAS_SEARCH) != 0
        || first & (HAS_PATH | HAS_SEARCH) == 0
        || kind >= KIND_EXTENDED
    {
        return Err(ParseError::Flags);
    }
    let path = if first & HAS_PATH != 0 { Some(r.pair()?.map_or(Path::Lost, Path::Use)) } else { None };
    let search = if first & HAS_SEARCH != 0 {
        let search = Search { port: r.u16()?, engine: r.u8()? };
        if search.port == 0 {
            return Err(ParseError::Field);
        }
        Some(search)
    } else {
        None
    };
    Ok((Extended { path, search }, parse_body(r, kind)?))
}

impl Reader<'_> {
    /// Two ports, or none if both are zero.
    pub(super) fn pair(&mut self) -> Result<Option<Pair>, ParseError> {
        match (self.u16()?, self.u16()?) {
            (0, 0) => Ok(None),
            (0, _) | (_, 0) => Err(ParseError::Field),
            (from, to) => Ok(Some(Pair { from, to })),
        }
    }
}

impl Emitter {
    pub(super) fn pair(&mut self, pair: Option<Pair>) {
        let (from, to) = pair.map_or((0, 0), |pair| (pair.from, pair.to));
        self.put(from.to_be_bytes());
        self.put(to.to_be_bytes());
    }

    /// Makes the packet, which is complete but for bytes that follow its header, an extended one. `body_at` is where the
    /// header of its body begins: as long as the packet was when its blocks were written.
    #[cold]
    pub fn extend(&mut self, body_at: usize, extended: &Extended) {
        let mut body = [0; super::SEGMENT_LEN];
        let body_len = self.len - body_at;
        body[..body_len].copy_from_slice(&self.bytes[body_at..self.len]);
        self.len = body_at;
        let path = if extended.path.is_some() { HAS_PATH } else { 0 };
        let search = if extended.search.is_some() { HAS_SEARCH } else { 0 };
        self.put([self.bytes[1] >> BODY_SHIFT | path | search]);
        self.bytes[1] = self.bytes[1] & ((1 << BODY_SHIFT) - 1) | KIND_EXTENDED << BODY_SHIFT;
        match extended.path {
            Some(Path::Use(pair)) => self.pair(Some(pair)),
            Some(Path::Lost) => self.pair(None),
            None => {}
        }
        if let Some(search) = extended.search {
            self.put(search.port.to_be_bytes());
            self.put([search.engine]);
        }
        self.bytes[self.len..self.len + body_len].copy_from_slice(&body[..body_len]);
        self.len += body_len;
    }
}
