//! The committed headers are the ones that the sources make. `ci/c-header.sh --write` writes them anew.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::path::{Path, PathBuf};

/// Set by `ci/c-header.sh --write`.
const WRITE_VARIABLE: &str = "MACHNET_WRITE_HEADER";

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Header {
    name: &'static str,
    about: &'static str,
    sources: &'static [&'static str],
    /// Types that no function of the header names.
    exported: &'static [&'static str],
    style: cbindgen::Style,
    includes: &'static [&'static str],
}

const HEADERS: [Header; 2] = [
    Header {
        name: "machnet_common.h",
        about: "The public structs of Machnet. Written from ffi/src/common.rs by ci/c-header.sh; do not edit.",
        sources: &["common.rs"],
        exported: &["MachnetFlow_t", "MachnetIovec_t", "MachnetMsgHdr_t"],
        // Old programs say `MachnetFlow_t` or `struct MachnetFlow`.
        style: cbindgen::Style::Both,
        includes: &[],
    },
    Header {
        name: "machnet.h",
        about: "Machnet for C and C++: whole messages between hosts, through the sidecar of each.\n \
                * Written from ffi/src/ by ci/c-header.sh; do not edit.\n *\n \
                * Link with -lmachnet. Programs for the original C library link with -lmachnet_shim: the same library.\n *\n \
                * A function that answers int32_t answers a machnet_status, 0 being success, and changes what its pointers\n \
                * name only as it says. machnet_strerror puts a status into words, machnet_last_error the last failure of the\n \
                * calling thread. A function that consumes a handle must be the last to use it. After a fork the child's\n \
                * handles answer MACHNET_STATUS_FORKED; they can still be closed. Nothing is ever printed, and SIGPIPE is\n \
                * never raised.",
        sources: &[
            "status.rs",
            "channel.rs",
            "flow.rs",
            "batch.rs",
            "message.rs",
            "cancel.rs",
            "news.rs",
            "stats.rs",
            "stream.rs",
            "compat.rs",
        ],
        exported: &["MachnetStatus"],
        style: cbindgen::Style::Type,
        includes: &["machnet_common.h"],
    },
];

fn text_of(header: &Header) -> String {
    let mut config = cbindgen::Config::from_file(package().join("cbindgen.toml")).unwrap();
    let guard = header.name.to_uppercase().replace('.', "_");
    config.include_guard = Some(guard);
    config.header = Some(format!("/*\n * {}\n */", header.about));
    config.style = header.style;
    config.export.include = header.exported.iter().map(|name| (*name).to_owned()).collect();
    config.includes = header.includes.iter().map(|include| (*include).to_owned()).collect();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in header.sources {
        builder = builder.with_src(package().join("src").join(source));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_committed_headers_are_the_ones_that_the_sources_make() {
    for header in &HEADERS {
        let path: PathBuf = package().join("include").join(header.name);
        let made = text_of(header);
        if std::env::var_os(WRITE_VARIABLE).is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == made,
            "{} differs from what the sources make; run `ci/c-header.sh --write` and read the difference",
            header.name
        );
    }
}
