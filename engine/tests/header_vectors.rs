//! The golden vectors of docs/protocol.md, read both ways: bytes to fields and fields to bytes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use machnet_engine::wire::header::{
    Ack, Body, Confirm, ConnectionId, Cookie, Data, Emitter, Extended, Packet, Path, Refusal, Search, Syn,
    SynAck, WireLimits, WireWindow, parse,
};
use machnet_engine::wire::ports::{Pair, PortRange};
use serde_json::{Map, Value, json};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/header.json")).expect("the vectors are JSON")
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    vectors[name].as_array().expect("a list of vectors")
}

fn from_hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "bytes have two digits");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// Fields to JSON.

fn limits_to_json(limits: &WireLimits) -> Value {
    json!({
        "max_message": limits.max_message,
        "window_messages": limits.window_messages,
        "window_bytes": limits.window_bytes,
    })
}

fn cookie_to_json(cookie: Cookie) -> Value {
    json!({ "issued_s": cookie.issued_s, "mac": format!("{:016x}", cookie.mac) })
}

fn pair_to_json(pair: Option<Pair>) -> Value {
    pair.map_or(Value::Null, |pair| json!([pair.from, pair.to]))
}

fn ports_to_json(ports: Option<PortRange>) -> Value {
    ports.map_or(Value::Null, |ports| json!([ports.first(), ports.last()]))
}

fn extended_to_json(extended: Extended) -> Value {
    let mut fields = Map::new();
    match extended.path {
        Some(Path::Use(pair)) => {
            fields.insert("path".into(), json!({ "use": pair_to_json(Some(pair)) }));
        }
        Some(Path::Lost) => {
            fields.insert("path".into(), json!("lost"));
        }
        None => {}
    }
    if let Some(Search { port, engine }) = extended.search {
        fields.insert("search".into(), json!({ "port": port, "engine": engine }));
    }
    Value::Object(fields)
}

fn confirm_to_json(confirm: &Confirm) -> Value {
    json!({
        "client": confirm.client.0,
        "client_number": confirm.client_number,
        "server_number": confirm.server_number,
        "port": confirm.port,
        "flow_port": confirm.flow_port,
        "client_limits": limits_to_json(&confirm.client_limits),
        "server_limits": limits_to_json(&confirm.server_limits),
        "max_datagram": confirm.max_datagram,
        "version": confirm.version,
        "engines": confirm.engines,
        "hears_at": ports_to_json(Some(confirm.hears_at)),
        "cookie": cookie_to_json(confirm.cookie),
    })
}

fn body_to_json(body: &Body<'_>) -> Value {
    match *body {
        Body::None => json!({ "kind": "none" }),
        Body::Whole { message, bytes } => {
            json!({ "kind": "whole", "message": message, "bytes": to_hex(bytes) })
        }
        Body::Segment { message, offset, total, bytes } => json!({
            "kind": "segment", "message": message, "offset": offset, "total": total, "bytes": to_hex(bytes),
        }),
        Body::Bundle { first, items } => {
            json!({ "kind": "bundle", "first": first, "items": items.iter().map(to_hex).collect::<Vec<_>>() })
        }
        Body::Ping { padding } => json!({ "kind": "ping", "padding": padding }),
        Body::Nudge => json!({ "kind": "nudge" }),
    }
}

fn data_to_json(data: &Data<'_>) -> Value {
    let mut fields = Map::new();
    fields.insert("type".into(), json!("data"));
    fields.insert("id".into(), json!(data.id.0));
    fields.insert("number".into(), json!(data.number));
    if let Some(Ack { largest, run, delay_us, ranges }) = data.ack {
        let ranges: Vec<_> = ranges.iter().collect();
        let ack = json!({ "largest": largest, "run": run, "delay_us": delay_us, "ranges": ranges });
        fields.insert("ack".into(), ack);
    }
    if let Some(WireWindow { messages, kibibytes }) = data.window {
        fields.insert("window".into(), json!({ "messages": messages, "kibibytes": kibibytes }));
    }
    if let Some(confirm) = &data.confirm {
        fields.insert("confirm".into(), confirm_to_json(confirm));
    }
    if let Some(fin) = data.fin {
        fields.insert("fin".into(), json!(fin));
    }
    if let Some(extended) = data.extended {
        fields.insert("extended".into(), extended_to_json(extended));
    }
    fields.insert("body".into(), body_to_json(&data.body));
    Value::Object(fields)
}

fn packet_to_json(packet: &Packet<'_>) -> Value {
    match packet {
        Packet::Data(data) => data_to_json(data),
        Packet::Syn(syn) => json!({
            "type": "syn",
            "client": syn.client.0,
            "number": syn.number,
            "versions": [syn.versions.0, syn.versions.1],
            "port": syn.port,
            "flow_port": syn.flow_port,
            "max_datagram": syn.max_datagram,
            "limits": limits_to_json(&syn.limits),
            "stamp": format!("{:016x}", syn.stamp),
            "engines": syn.engines,
            "answer_on": pair_to_json(syn.answer_on),
            "hears_at": ports_to_json(syn.hears_at),
        }),
        Packet::SynAck(answer) => json!({
            "type": "syn_ack",
            "client": answer.client.0,
            "echo": answer.echo,
            "version": answer.version,
            "engines": answer.engines,
            "server": answer.server.0,
            "number": answer.number,
            "max_datagram": answer.max_datagram,
            "limits": limits_to_json(&answer.limits),
            "stamp": format!("{:016x}", answer.stamp),
            "cookie": cookie_to_json(answer.cookie),
            "send_on": pair_to_json(answer.send_on),
            "hears_at": ports_to_json(Some(answer.hears_at)),
        }),
        Packet::Reject(Refusal { id, number, reason, .. }) => {
            json!({ "type": "reject", "id": id.0, "number": number, "reason": reason })
        }
        Packet::Reset { refusal: Refusal { id, number, reason, engine }, stateless } => {
            let mut fields = json!({
                "type": "reset", "id": id.0, "number": number, "reason": reason, "stateless": stateless,
            });
            if *stateless {
                fields["engine"] = json!(engine);
            }
            fields
        }
    }
}

// JSON to fields.

fn number<T: TryFrom<u64>>(fields: &Value, name: &str) -> T {
    let number = fields[name].as_u64().unwrap_or_else(|| panic!("no number `{name}` in {fields}"));
    T::try_from(number).unwrap_or_else(|_| panic!("`{name}` is too large in {fields}"))
}

fn id(fields: &Value, name: &str) -> ConnectionId {
    ConnectionId(number(fields, name))
}

fn text<'a>(fields: &'a Value, name: &str) -> &'a str {
    fields[name].as_str().unwrap_or_else(|| panic!("no text `{name}` in {fields}"))
}

fn wide(fields: &Value, name: &str) -> u64 {
    u64::from_str_radix(text(fields, name), 16).expect("64 bits in hex")
}

fn limits(fields: &Value) -> WireLimits {
    WireLimits {
        max_message: number(fields, "max_message"),
        window_messages: number(fields, "window_messages"),
        window_bytes: number(fields, "window_bytes"),
    }
}

fn cookie(fields: &Value) -> Cookie {
    Cookie { issued_s: number(fields, "issued_s"), mac: wide(fields, "mac") }
}

fn two(fields: &Value, name: &str) -> Option<(u16, u16)> {
    serde_json::from_value(fields[name].clone()).expect("two ports or null")
}

fn pair(fields: &Value, name: &str) -> Option<Pair> {
    two(fields, name).map(|(from, to)| Pair::new(from, to).expect("a pair"))
}

fn ports(fields: &Value, name: &str) -> Option<PortRange> {
    two(fields, name).map(|(first, last)| PortRange::new(first, last).expect("ports"))
}

fn extended(fields: &Value) -> Extended {
    let path = fields.get("path").map(|path| {
        if path.as_str() == Some("lost") { Path::Lost } else { Path::Use(pair(path, "use").expect("a pair")) }
    });
    let search = fields
        .get("search")
        .map(|search| Search { port: number(search, "port"), engine: number(search, "engine") });
    Extended { path, search }
}

fn confirm(fields: &Value) -> Confirm {
    Confirm {
        client: id(fields, "client"),
        client_number: number(fields, "client_number"),
        server_number: number(fields, "server_number"),
        port: number(fields, "port"),
        flow_port: number(fields, "flow_port"),
        client_limits: limits(&fields["client_limits"]),
        server_limits: limits(&fields["server_limits"]),
        max_datagram: number(fields, "max_datagram"),
        version: number(fields, "version"),
        engines: number(fields, "engines"),
        hears_at: ports(fields, "hears_at").expect("ports"),
        cookie: cookie(&fields["cookie"]),
    }
}

fn refusal(fields: &Value) -> Refusal {
    let engine = fields.get("engine").and_then(Value::as_u64).map(|engine| u8::try_from(engine).unwrap());
    Refusal {
        id: id(fields, "id"),
        number: number(fields, "number"),
        reason: number(fields, "reason"),
        engine,
    }
}

/// Writes the body's header fields and answers the bytes that follow them.
fn emit_body(emitter: &mut Emitter, body: &Value) -> Vec<u8> {
    match text(body, "kind") {
        "none" => Vec::new(),
        "whole" => {
            emitter.whole(number(body, "message"));
            from_hex(text(body, "bytes"))
        }
        "segment" => {
            emitter.segment(number(body, "message"), number(body, "offset"), number(body, "total"));
            from_hex(text(body, "bytes"))
        }
        "bundle" => {
            emitter.bundle(number(body, "first"));
            let items = body["items"].as_array().expect("items").iter();
            let items = items.map(|item| from_hex(item.as_str().expect("bytes")));
            items
                .flat_map(|item| [&u16::try_from(item.len()).unwrap().to_be_bytes()[..], &item[..]].concat())
                .collect()
        }
        "ping" => {
            emitter.ping();
            vec![0; number(body, "padding")]
        }
        "nudge" => {
            emitter.nudge();
            Vec::new()
        }
        other => panic!("no body `{other}`"),
    }
}

fn emit_data(emitter: &mut Emitter, fields: &Value) -> Vec<u8> {
    emitter.start_data(id(fields, "id"), number(fields, "number"));
    if let Some(ack) = fields.get("ack") {
        let ranges: Vec<(u16, u16)> = serde_json::from_value(ack["ranges"].clone()).expect("ranges");
        emitter.ack(
            number(ack, "largest"),
            number(ack, "run"),
            number(ack, "delay_us"),
            ranges.iter().copied(),
        );
    }
    if let Some(window) = fields.get("window") {
        let (messages, kibibytes) = (number(window, "messages"), number(window, "kibibytes"));
        emitter.window(WireWindow { messages, kibibytes });
    }
    if let Some(fields) = fields.get("confirm") {
        emitter.confirm(&confirm(fields));
    }
    if fields.get("fin").is_some() {
        emitter.fin(number(fields, "fin"));
    }
    let body_at = emitter.as_bytes().len();
    let body = emit_body(emitter, &fields["body"]);
    if let Some(fields) = fields.get("extended") {
        emitter.extend(body_at, &extended(fields));
    }
    body
}

fn emit(fields: &Value) -> Vec<u8> {
    let mut emitter = Emitter::default();
    let mut rest = Vec::new();
    match text(fields, "type") {
        "data" => rest = emit_data(&mut emitter, fields),
        "syn" => emitter.syn(&Syn {
            client: id(fields, "client"),
            number: number(fields, "number"),
            versions: serde_json::from_value(fields["versions"].clone()).expect("two versions"),
            port: number(fields, "port"),
            flow_port: number(fields, "flow_port"),
            limits: limits(&fields["limits"]),
            max_datagram: number(fields, "max_datagram"),
            engines: number(fields, "engines"),
            stamp: wide(fields, "stamp"),
            answer_on: pair(fields, "answer_on"),
            hears_at: ports(fields, "hears_at"),
        }),
        "syn_ack" => emitter.syn_ack(&SynAck {
            client: id(fields, "client"),
            echo: number(fields, "echo"),
            version: number(fields, "version"),
            engines: number(fields, "engines"),
            server: id(fields, "server"),
            number: number(fields, "number"),
            limits: limits(&fields["limits"]),
            max_datagram: number(fields, "max_datagram"),
            stamp: wide(fields, "stamp"),
            cookie: cookie(&fields["cookie"]),
            send_on: pair(fields, "send_on"),
            hears_at: ports(fields, "hears_at").expect("ports"),
        }),
        "reject" => emitter.reject(refusal(fields)),
        "reset" => emitter.reset(refusal(fields), fields["stateless"].as_bool().expect("a flag")),
        other => panic!("no packet type `{other}`"),
    }
    [emitter.as_bytes(), &rest].concat()
}

#[test]
fn every_valid_vector_parses_to_its_fields() {
    let vectors = vectors();
    for vector in list(&vectors, "valid") {
        let name = text(vector, "name");
        let bytes = from_hex(text(vector, "hex"));
        let packet = parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(packet_to_json(&packet), vector["packet"], "{name}");
    }
}

#[test]
fn the_fields_of_every_valid_vector_are_emitted_as_its_bytes() {
    let vectors = vectors();
    for vector in list(&vectors, "valid") {
        let expected = vector.get("emits").unwrap_or(&vector["hex"]);
        let bytes = emit(&vector["packet"]);
        assert_eq!(Value::from(to_hex(&bytes)), *expected, "{}", text(vector, "name"));
    }
}

#[test]
fn every_malformed_vector_is_refused_for_its_reason() {
    let vectors = vectors();
    for vector in list(&vectors, "malformed") {
        let bytes = from_hex(text(vector, "hex"));
        let refused = parse(&bytes).map_err(|error| format!("{error:?}"));
        let expected = text(vector, "error").to_owned();
        assert_eq!(refused, Err(expected), "{}", text(vector, "name"));
    }
}
