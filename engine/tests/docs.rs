//! The pages of docs/ say what the code says: every setting, every error, every counter that they name.

use machnet_client::Error;
use std::fs;
use std::path::Path;

fn page(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("engine/ lies in the repository");
    fs::read_to_string(root.join("docs").join(name)).expect("the page exists")
}

/// The first cell of each row of a table that begins with a name in backquotes.
fn rows(part: &str) -> Vec<(&str, &str)> {
    part.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches('`'), cells.next()?))
        })
        .collect()
}

/// What stands below a heading of the second level.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect("the heading exists");
    rest.split("\n## ").next().unwrap_or(rest)
}

#[test]
fn every_error_has_its_code_and_its_part_in_the_troubleshooting_page() {
    let page = page("troubleshooting.md");
    for (code, name) in Error::CODES {
        let heading = format!("\n### {code} {name}\n");
        assert_eq!(page.matches(&heading).count(), 1, "docs/troubleshooting.md: {heading:?}");
    }
    assert_eq!(
        page.matches("\n### ").count(),
        Error::CODES.len(),
        "the page has an error that the library has not"
    );
}

#[test]
fn the_texts_in_the_troubleshooting_page_are_those_of_the_library() {
    let page = page("troubleshooting.md");
    let at = |text: &str| text.parse().expect("an address");
    let socket = || "/run/machnet/machnet.sock".into();
    let errors = [
        Error::NoSidecar { socket: socket() },
        Error::SocketPermission { socket: socket() },
        Error::Version { ours: 1, text: "text".to_owned() },
        Error::AttachRefused { text: "text".to_owned() },
        Error::NoEngine { engine: 3, text: "it has engine0".to_owned() },
        Error::EngineLost,
        Error::WouldBlock,
        Error::TimedOut,
        Error::AddressNotLocal { address: at("10.0.0.9:7000") },
        Error::AddressInUse { address: at("10.0.0.5:7000") },
        Error::ListenRefused { text: "text".to_owned() },
        Error::ConnectTimedOut { peer: at("10.0.0.6:7000"), udp_port: 31580 },
        Error::Refused { peer: at("10.0.0.6:7000") },
        Error::Busy { peer: at("10.0.0.6:7000") },
        Error::ConnectFailed { peer: at("10.0.0.6:7000"), reason: machnet_client::ResetReason::NoRoute },
        Error::UnknownFlow,
        Error::Closed,
        Error::Reset { reason: machnet_client::ResetReason::ShuttingDown, unacknowledged: 2 },
        Error::MessageTooLarge { len: 9_000_000, limit: 8_388_608 },
        Error::EmptyMessage,
        Error::BufferTooSmall { needed: 4096 },
        Error::WrongMode,
        Error::Forked,
        Error::InvalidArgument { what: "what".to_owned() },
        Error::TooManyFlows,
        Error::SidecarBroken(machnet_client::shm::ring::PeerFault::Kind),
        Error::Cancelled,
        Error::NotAStream,
    ];
    for error in errors {
        let (code, name) = Error::CODES[usize::try_from(error.code()).expect("codes are positive") - 1];
        let expected = format!("\n### {code} {name}\n\n    {error}\n");
        assert!(page.contains(&expected), "docs/troubleshooting.md lacks{expected}");
    }
}

#[test]
fn every_setting_has_its_row_with_its_default() {
    let page = page("operations.md");
    let rows = rows(part(&page, "Settings"));
    let named: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    let keys: Vec<&str> = machnet_engine::config::KEYS.iter().map(|key| key.name).collect();
    assert_eq!(named, keys, "docs/operations.md lists the settings in the order of `machnet config show`");

    let defaults = machnet_engine::config::Config::default();
    for key in machnet_engine::config::KEYS {
        let (_, written) = rows.iter().find(|(name, _)| *name == key.name).expect("compared above");
        let shown = key.show(&defaults);
        let of_this_host = ["socket", "socket_mode", "socket_group", "address", "pci", "vdev", "cpus", "mtu"]
            .contains(&key.name);
        assert!(
            of_this_host || written.trim_matches('`') == shown.trim_matches('"'),
            "docs/operations.md: {} is {shown} by default, not {written}",
            key.name
        );
    }
}

#[test]
fn every_counter_that_is_named_exists() {
    use machnet_engine::driver::DriverCounters;

    let page = page("operations.md");
    let handed_over = machnet_engine::neighbours::HandOver::default();
    let labels: Vec<&str> = machnet_engine::counters::Counter::ALL
        .iter()
        .map(|counter| counter.label())
        .chain(handed_over.iter().map(|(label, _)| label))
        .chain(DriverCounters::default().iter().map(|(label, _)| label))
        .chain(["interface_"])
        .collect();
    for (names, _) in rows(part(&page, "Watching")) {
        for name in names.split('`').filter(|name| name.len() > 2) {
            let stem = name.trim_end_matches('*');
            assert!(labels.iter().any(|label| label.starts_with(stem)), "there is no counter {name}");
        }
    }
}

#[test]
fn every_test_that_the_page_on_faults_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("engine/ lies in the repository");
    let mut tests = String::new();
    for folder in ["engine/tests", "shim-core/tests"] {
        for entry in fs::read_dir(root.join(folder)).expect("the folder of tests exists") {
            let path = entry.expect("a folder entry is readable").path();
            if path.extension().is_some_and(|ending| ending == "rs") {
                tests.push_str(&fs::read_to_string(path).expect("a source file is text"));
            }
        }
    }
    let page = page("faults.md");
    // A name of a test is a sentence: many words joined by underscores.
    let named: Vec<&str> = page.split('`').filter(|name| name.matches('_').count() > 3).collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert!(
            tests.contains(&format!("fn {name}()")),
            "docs/faults.md names {name}, and there is no such test"
        );
    }
}
