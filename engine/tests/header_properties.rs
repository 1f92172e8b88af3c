//! What holds for the header whatever the bytes are.

#![expect(clippy::unwrap_used, clippy::type_complexity, reason = "helpers of tests")]

use machnet_engine::wire::header::{
    Body, Confirm, ConnectionId, Cookie, Data, Emitter, Extended, FIXED_LEN, MAX_HEADER, MAX_RANGES, Packet,
    Path, Refusal, SYN_ACK_LEN, SYN_LEN, Search, Syn, SynAck, WireLimits, WireWindow, parse,
};
use machnet_engine::wire::ports::{Pair, PortRange};
use proptest::collection::vec;
use proptest::prelude::*;

/// Reads all that can be read of a parsed packet; answers how many bytes of messages it carries.
fn walk(packet: &Packet<'_>) -> usize {
    let Packet::Data(data) = packet else { return 0 };
    let ranges = data.ack.iter().flat_map(|ack| ack.ranges.iter()).count();
    assert!(ranges <= MAX_RANGES);
    match data.body {
        Body::Whole { bytes, .. } => bytes.len(),
        Body::Segment { offset, total, bytes, .. } => {
            assert!(!bytes.is_empty() && offset as usize + bytes.len() <= total as usize);
            bytes.len()
        }
        Body::Bundle { items, .. } => {
            assert!(items.iter().count() > 0 && items.iter().all(|item| !item.is_empty()));
            items.iter().map(<[u8]>::len).sum()
        }
        Body::None | Body::Ping { .. } | Body::Nudge => 0,
    }
}

#[derive(Clone, Debug)]
enum OwnedBody {
    None,
    Whole(u32, Vec<u8>),
    Segment(u32, u32, u32, Vec<u8>),
    Bundle(u32, Vec<Vec<u8>>),
    Ping(usize),
    Nudge,
}

#[derive(Clone, Debug)]
struct OwnedData {
    id: u32,
    number: u32,
    ack: Option<(u32, u16, u16, Vec<(u16, u16)>)>,
    window: Option<(u32, u32)>,
    confirm: Option<Confirm>,
    fin: Option<u32>,
    extended: Option<Extended>,
    body: OwnedBody,
}

fn limits() -> impl Strategy<Value = WireLimits> {
    any::<(u32, u32, u32)>().prop_map(|(max_message, window_messages, window_bytes)| WireLimits {
        max_message,
        window_messages,
        window_bytes,
    })
}

fn ports() -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX, any::<u16>()).prop_map(|(one, other)| {
        PortRange::new(one.min(other.max(1)), one.max(other)).expect("the first is below the last")
    })
}

fn pair() -> impl Strategy<Value = Pair> {
    (1..=u16::MAX, 1..=u16::MAX).prop_map(|(from, to)| Pair { from, to })
}

fn extended() -> impl Strategy<Value = Extended> {
    let path = prop_oneof![Just(Path::Lost), pair().prop_map(Path::Use)];
    let search = (1..=u16::MAX, any::<u8>()).prop_map(|(port, engine)| Search { port, engine });
    (prop::option::of(path), prop::option::of(search))
        .prop_map(|(path, search)| Extended { path, search })
        .prop_filter("a block", |extended| *extended != Extended::default())
}

fn confirm() -> impl Strategy<Value = Confirm> {
    let numbers = any::<(u32, u32, u32, u16, u16, u16)>();
    (numbers, limits(), limits(), any::<(u8, u8, u32, u64)>(), ports()).prop_map(
        |(
            (client, client_number, server_number, port, flow_port, max_datagram),
            ours,
            theirs,
            rest,
            hears_at,
        )| {
            Confirm {
                client: ConnectionId(client),
                client_number,
                server_number,
                port,
                flow_port,
                client_limits: ours,
                server_limits: theirs,
                max_datagram,
                version: rest.0,
                engines: rest.1,
                hears_at,
                cookie: Cookie { issued_s: rest.2, mac: rest.3 },
            }
        },
    )
}

fn body() -> impl Strategy<Value = OwnedBody> {
    let bytes = || vec(any::<u8>(), 1..50);
    prop_oneof![
        Just(OwnedBody::None),
        Just(OwnedBody::Nudge),
        (0_usize..100).prop_map(OwnedBody::Ping),
        (any::<u32>(), bytes()).prop_map(|(message, bytes)| OwnedBody::Whole(message, bytes)),
        (any::<u32>(), vec(bytes(), 1..9)).prop_map(|(first, items)| OwnedBody::Bundle(first, items)),
        (any::<u32>(), 0..u32::MAX - 50, any::<u32>(), bytes()).prop_map(|(message, offset, more, bytes)| {
            let end = offset + u32::try_from(bytes.len()).unwrap();
            OwnedBody::Segment(message, offset, end.saturating_add(more), bytes)
        }),
    ]
}

fn data() -> impl Strategy<Value = OwnedData> {
    let ack = (any::<(u32, u16, u16)>(), vec(any::<(u16, u16)>(), 0..=MAX_RANGES))
        .prop_map(|((largest, run, delay_us), ranges)| (largest, run, delay_us, ranges));
    let blocks = (
        prop::option::of(ack),
        prop::option::of(any::<(u32, u32)>()),
        prop::option::of(confirm()),
        prop::option::of(any::<u32>()),
    );
    (any::<(u32, u32)>(), blocks, prop::option::of(extended()), body()).prop_map(
        |((id, number), (ack, window, confirm, fin), extended, body)| OwnedData {
            id,
            number,
            ack,
            window,
            confirm,
            fin,
            extended,
            body,
        },
    )
}

fn emit(data: &OwnedData) -> Vec<u8> {
    let mut emitter = Emitter::default();
    emitter.start_data(ConnectionId(data.id), data.number);
    if let Some((largest, run, delay_us, ranges)) = &data.ack {
        emitter.ack(*largest, *run, *delay_us, ranges.iter().copied());
    }
    if let Some((messages, kibibytes)) = data.window {
        emitter.window(WireWindow { messages, kibibytes });
    }
    if let Some(confirm) = &data.confirm {
        emitter.confirm(confirm);
    }
    if let Some(fin) = data.fin {
        emitter.fin(fin);
    }
    let body_at = emitter.as_bytes().len();
    let mut rest = Vec::new();
    match &data.body {
        OwnedBody::None => {}
        OwnedBody::Nudge => emitter.nudge(),
        OwnedBody::Ping(padding) => {
            emitter.ping();
            rest = vec![0; *padding];
        }
        OwnedBody::Whole(message, bytes) => {
            emitter.whole(*message);
            rest.clone_from(bytes);
        }
        OwnedBody::Segment(message, offset, total, bytes) => {
            emitter.segment(*message, *offset, *total);
            rest.clone_from(bytes);
        }
        OwnedBody::Bundle(first, items) => {
            emitter.bundle(*first);
            for item in items {
                rest.extend_from_slice(&u16::try_from(item.len()).unwrap().to_be_bytes());
                rest.extend_from_slice(item);
            }
        }
    }
    if let Some(extended) = &data.extended {
        let len = emitter.as_bytes().len() + extended.wire_len() as usize;
        emitter.extend(body_at, extended);
        assert_eq!(emitter.as_bytes().len(), len);
    }
    assert!(emitter.as_bytes().len() <= MAX_HEADER);
    [emitter.as_bytes(), &rest].concat()
}

fn same(parsed: &Data<'_>, data: &OwnedData) -> bool {
    let ack = parsed.ack.map(|ack| (ack.largest, ack.run, ack.delay_us, ack.ranges.iter().collect()));
    let body = match (&parsed.body, &data.body) {
        (Body::None, OwnedBody::None) | (Body::Nudge, OwnedBody::Nudge) => true,
        (Body::Ping { padding }, OwnedBody::Ping(expected)) => padding == expected,
        (Body::Whole { message, bytes }, OwnedBody::Whole(number, expected)) => {
            message == number && bytes == expected
        }
        (Body::Segment { message, offset, total, bytes }, OwnedBody::Segment(number, at, len, expected)) => {
            (message, offset, total) == (number, at, len) && bytes == expected
        }
        (Body::Bundle { first, items }, OwnedBody::Bundle(number, expected)) => {
            first == number && items.iter().eq(expected.iter().map(Vec::as_slice))
        }
        _ => false,
    };
    body && (parsed.id.0, parsed.number) == (data.id, data.number)
        && ack == data.ack
        && parsed.window.map(|window| (window.messages, window.kibibytes)) == data.window
        && parsed.confirm == data.confirm
        && parsed.fin == data.fin
        && parsed.extended == data.extended
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_parsed_or_refused_and_never_panic(
        kind in 0_u8..6, flags in any::<u8>(), honest in any::<bool>(), rest in vec(any::<u8>(), 0..300),
    ) {
        let bytes = if honest { [&[0x10 | kind, flags][..], &rest].concat() } else { rest };
        if let Ok(packet) = parse(&bytes) {
            prop_assert!(walk(&packet) <= bytes.len());
        }
    }

    #[test]
    fn small_arbitrary_fields_reach_every_body(flags in any::<u8>(), rest in vec(0_u8..4, 0..80)) {
        let bytes = [&[0x10, flags][..], &rest].concat();
        if let Ok(packet) = parse(&bytes) {
            prop_assert!(walk(&packet) <= bytes.len());
        }
    }

    #[test]
    fn emitted_data_is_parsed_as_the_same_values(data in data()) {
        let bytes = emit(&data);
        match parse(&bytes) {
            Ok(Packet::Data(parsed)) => prop_assert!(same(&parsed, &data), "{parsed:?}"),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn damaged_data_is_parsed_or_refused_and_never_panics(
        data in data(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = emit(&data);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(packet) = parse(&bytes) {
            prop_assert!(walk(&packet) <= bytes.len());
        }
        prop_assert!(bytes.len() >= FIXED_LEN || parse(&bytes).is_err());
    }

    #[test]
    fn emitted_handshakes_are_parsed_as_the_same_values(
        ids in any::<(u32, u32, u32, u32)>(), limits in limits(), small in any::<(u8, u8, u8, u8)>(),
        ports in any::<(u16, u16, u16)>(), wide in any::<(u64, u64, u32)>(), engine in prop::option::of(0_u8..255),
        pair in prop::option::of(pair()), heard in ports(),
    ) {
        let mut emitter = Emitter::default();
        let syn = Syn {
            client: ConnectionId(ids.0),
            number: ids.1,
            versions: (small.0.min(small.1), small.0.max(small.1)),
            port: ports.0,
            flow_port: ports.1,
            limits,
            max_datagram: ports.2,
            engines: small.2,
            stamp: wide.0,
            answer_on: pair,
            hears_at: pair.is_some().then_some(heard),
        };
        emitter.syn(&syn);
        prop_assert_eq!(parse(emitter.as_bytes()), Ok(Packet::Syn(syn)));
        prop_assert_eq!(emitter.as_bytes().len(), SYN_LEN);
        let answer = SynAck {
            client: ConnectionId(ids.0),
            echo: ids.1,
            version: small.0,
            engines: small.1,
            server: ConnectionId(ids.2),
            number: ids.3,
            limits,
            max_datagram: ports.2,
            stamp: wide.0,
            cookie: Cookie { issued_s: wide.2, mac: wide.1 },
            send_on: pair,
            hears_at: heard,
        };
        emitter.syn_ack(&answer);
        prop_assert_eq!(parse(emitter.as_bytes()), Ok(Packet::SynAck(answer)));
        prop_assert_eq!(emitter.as_bytes().len(), SYN_ACK_LEN);
        let refusal = Refusal { id: ConnectionId(ids.2), number: ids.3, reason: small.3, engine: None };
        emitter.reject(refusal);
        prop_assert_eq!(parse(emitter.as_bytes()), Ok(Packet::Reject(refusal)));
        emitter.reset(refusal, false);
        prop_assert_eq!(parse(emitter.as_bytes()), Ok(Packet::Reset { refusal, stateless: false }));
        let refusal = Refusal { engine, ..refusal };
        emitter.reset(refusal, true);
        prop_assert_eq!(parse(emitter.as_bytes()), Ok(Packet::Reset { refusal, stateless: true }));
    }
}
