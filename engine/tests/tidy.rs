//! House rules that no linter can see. Each test names every place that breaks its rule, so that one run shows all of them.

use std::fs;
use std::path::{Path, PathBuf};

/// Files in which the word `unsafe` may stand. A new one needs a reason in its header and a line here. Some are
/// tests, which need system calls.
const FENCES: &[&str] = &[
    "engine/src/cli/sys.rs",
    "engine/src/driver/dpdk/plugin.rs",
    "engine/src/driver/dpdk/rings.rs",
    "engine/src/driver/packet/ring.rs",
    "engine/src/driver/sys.rs",
    "engine/src/driver/udp/batch.rs",
    "engine/src/driver/xdp/bpf.rs",
    "engine/src/driver/xdp/ring.rs",
    "engine/src/driver/xdp/sys.rs",
    "engine/src/frames.rs",
    "engine/src/sys.rs",
    "engine/tests/driver_conformance.rs",
    "engine/tests/udp_driver.rs",
    "engine/tests/hostile/sys.rs",
    "engine/tests/netns/sys.rs",
    "ffi/src/batch.rs",
    "ffi/src/boundary.rs",
    "ffi/src/cancel.rs",
    "ffi/src/channel.rs",
    "ffi/src/compat.rs",
    "ffi/src/flow.rs",
    "ffi/src/message.rs",
    "ffi/src/news.rs",
    "ffi/src/stats.rs",
    "ffi/src/stream.rs",
    "node/src/sys.rs",
    "python/src/buffer.rs",
    "python/src/fast.rs",
    "python/src/held.rs",
    "python/src/message.rs",
    "shim-core/src/shm/models.rs",
    "shim-core/src/shm/region.rs",
    "shim-core/src/socket.rs",
    "shim-core/tests/processes.rs",
];

/// The only readers of the clock: the engine's, that of the measuring commands, and the waits of the application's end.
const CLOCKS: &[&str] =
    &["engine/src/clock.rs", "engine/src/cli/clock.rs", "python/src/wait.rs", "shim-core/src/wait.rs"];

/// Where the application's end names the processor's atomics or loom: the one chooser between them, loom's models, and the
/// page by which a forked child is known, which no model touches.
const ATOMICS: &[&str] =
    &["shim-core/src/shm/atomic.rs", "shim-core/src/shm/models.rs", "shim-core/src/shm/region.rs"];

/// Most lines of a source file, its unit tests not counted.
const MOST_LINES: usize = 700;

/// Folders that hold what was built or fetched.
const NOT_OURS: &[&str] = &["target", ".git", ".venv", "node_modules"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("engine/ lies in the repository").to_path_buf()
}

/// Every file of the repository whose name ends in one of `endings`: its path from the root, and its text.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let (root, mut found, mut folders) = (root(), Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository is readable") {
            let path = entry.expect("a folder entry is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !NOT_OURS.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending))
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(&root).expect("found below the root");
                found.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no file ends in {endings:?}: the walk is broken");
    found
}

/// The sources of the libraries and of the command, not their tests (which print their seeds), benches or examples.
fn sources() -> Vec<(String, String)> {
    let of_a_crate =
        |path: &str| ["shim-core/src/", "engine/src/", "ffi/src/"].iter().any(|f| path.starts_with(f));
    files(&[".rs"]).into_iter().filter(|(path, _)| of_a_crate(path) && !path.ends_with("/tests.rs")).collect()
}

/// What stands before the unit tests of a file.
fn without_unit_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..=at])
}

/// The text with comments and the contents of literals blanked, line for line.
fn code_only(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        let length = literal_or_comment(rest, out.chars().next_back());
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// Bytes of the comment or literal that `rest` begins with, or 0.
fn literal_or_comment(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |at| at + 2);
    }
    let in_a_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_a_word && let Some(tail) = rest.strip_prefix('r') {
        let hashes = tail.len() - tail.trim_start_matches('#').len();
        if tail[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = 1 + hashes + 1;
            return rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len());
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    // A quote is a character literal and no lifetime if it is closed again at once.
    let mut after = rest.strip_prefix('\'').unwrap_or("").chars();
    match (after.next(), after.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word)
    })
}

/// `path:line: text` for each line of code that `breaks` the rule.
fn offences(path: &str, code: &str, breaks: impl Fn(&str) -> bool) -> Vec<String> {
    code.lines()
        .enumerate()
        .filter(|(_, line)| breaks(line))
        .map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim()))
        .collect()
}

#[track_caller]
fn assert_none(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

#[test]
fn wire_imports_nothing_of_ours_and_proto_imports_only_wire() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let allowed: &[&str] = match path.as_str() {
            path if path.starts_with("engine/src/wire/") => &["wire"],
            path if path.starts_with("engine/src/proto/") => &["wire", "proto"],
            _ => continue,
        };
        found.extend(offences(&path, &code_only(&text), |line| {
            has_word(line, "machnet_client")
                || line.match_indices("crate::").any(|(at, prefix)| {
                    let rest = &line[at + prefix.len()..];
                    let module = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
                    !allowed.contains(&module)
                })
        }));
    }
    assert_none(&found, "the core knows datagrams and numbers, and nothing of memory, drivers or threads");
}

#[test]
fn the_application_end_does_not_know_the_sidecar() {
    let mut found = Vec::new();
    for (path, text) in files(&["Cargo.toml"]) {
        if path.starts_with("shim-core/") || path.starts_with("ffi/") || path.starts_with("examples/") {
            let ends_at = text.find("[dev-dependencies]").unwrap_or(text.len());
            found.extend(offences(&path, &text[..ends_at], |line| line.starts_with("machnet-engine")));
        }
    }
    assert_none(&found, "shim-core, ffi and the examples depend on no crate of the sidecar");
}

#[test]
fn only_the_named_files_read_the_clock() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        if !CLOCKS.contains(&path.as_str()) {
            let code = code_only(without_unit_tests(&text));
            found.extend(offences(&path, &code, |line| {
                line.contains("Instant::now")
                    || line.contains("SystemTime::now")
                    || line.contains("clock_gettime")
            }));
        }
    }
    assert_none(&found, "time is an argument: only the named files read the clock");
}

#[test]
fn unsafe_stands_only_behind_fences_that_say_why() {
    let mut found = Vec::new();
    for (path, text) in files(&[".rs"]) {
        let uses = offences(&path, &code_only(&text), |line| has_word(line, "unsafe"));
        if !FENCES.contains(&path.as_str()) {
            found.extend(uses);
        } else if uses.is_empty() {
            found.push(format!("{path}: is on the list of fences and has nothing to fence"));
        } else if !without_space(&text).contains("#![expect(unsafe_code,reason=\"") {
            found.push(format!("{path}: lacks #![expect(unsafe_code, reason = \"...\")]"));
        }
    }
    for fence in FENCES.iter().filter(|fence| !root().join(fence).exists()) {
        found.push(format!("{fence}: is on the list of fences and does not exist"));
    }
    assert_none(&found, "unsafe stands behind a fence file that is listed in this test");
}

#[test]
fn atomics_of_the_application_end_come_from_one_file() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("shim-core/src/") && !ATOMICS.contains(&path.as_str()) {
            let code = code_only(without_unit_tests(&text));
            found.extend(offences(&path, &code, |line| {
                line.contains("sync::atomic") || line.contains("loom::")
            }));
        }
    }
    assert_none(&found, "loom can check only what takes its atomics from shm/atomic.rs");
}

#[test]
fn libraries_neither_print_nor_leave_work_undone() {
    const MACROS: [&str; 6] = ["todo!", "unimplemented!", "dbg!", "println!", "eprintln!", "print!"];
    let mut found = Vec::new();
    for (path, text) in sources() {
        let is_command = path == "engine/src/main.rs" || path.starts_with("engine/src/cli/");
        let macros = if is_command { &MACROS[..3] } else { &MACROS[..] };
        found.extend(offences(&path, &code_only(&text), |line| {
            macros.iter().any(|name| has_word(line, name))
        }));
    }
    assert_none(&found, "a library returns errors and counts; only the command prints");
}

#[test]
fn files_fit_on_a_few_screens() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let lines = without_unit_tests(&text).lines().count();
        if lines > MOST_LINES {
            found.push(format!("{path}: {lines} lines"));
        }
    }
    assert_none(&found, "a source file has at most 700 lines without its tests");
}

#[test]
fn every_crate_obeys_the_workspace_lints_and_shares_one_version() {
    let mut found = Vec::new();
    for (path, text) in files(&["Cargo.toml"]) {
        // The Python and Node.js packages have lock files of their own; their version is the workspace's all the same.
        if ["python/Cargo.toml", "node/Cargo.toml"].contains(&path.as_str())
            && !text.contains(concat!("\nversion = \"", env!("CARGO_PKG_VERSION"), "\"\n"))
        {
            found.push(format!("{path}: its version is not that of the workspace"));
        }
        let outside = ["engine/fuzz/", "benches/iceoryx2/", "python/", "node/", "csharp/bindings/"];
        let in_the_workspace = !outside.iter().any(|outside| path.starts_with(outside));
        if path == "Cargo.toml" || !in_the_workspace {
            continue;
        }
        if !text.contains("[lints]\nworkspace = true") {
            found.push(format!("{path}: lacks [lints] workspace = true"));
        }
        if !text.contains("version.workspace = true") {
            found.push(format!("{path}: has a version of its own"));
        }
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a Cargo.toml");
    for lint in
        ["missing_docs", "unsafe_code", "undocumented_unsafe_blocks", "disallowed_methods", "unwrap_used"]
    {
        if !has_word(&workspace, lint) {
            found.push(format!("Cargo.toml: the workspace lints lack {lint}"));
        }
    }
    assert_none(&found, "one set of lints, one version");
}

#[test]
fn the_changelog_speaks_of_this_version() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).expect("there is a CHANGELOG.md");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        changelog.contains("## [Unreleased]") || changelog.contains(&format!("## [{version}]")),
        "CHANGELOG.md has neither an Unreleased part nor one for {version}"
    );
}

#[test]
fn no_file_names_a_place_of_somebodys_machine() {
    // Put together here, so that this file does not name them.
    let places = ["root", "home", "work", "Users"].map(|name| format!("/{name}/"));
    let mut found = Vec::new();
    for (path, text) in
        files(&[".rs", ".toml", ".md", ".sh", ".yml", ".h", ".c", ".service", "Makefile", "run"])
    {
        found.extend(offences(&path, &text, |line| {
            places.iter().any(|place| {
                line.match_indices(place).any(|(at, _)| {
                    // As the beginning of a path only: a folder of the same name would be inside the repository.
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~/}".contains(c))
                })
            })
        }));
    }
    assert_none(&found, "no path of a developer's machine in the repository");
}

/// The targets of `[text](target)` with their line numbers, code blocks and code spans left out.
fn links(markdown: &str) -> Vec<(usize, String)> {
    let (mut found, mut in_code) = (Vec::new(), false);
    for (at, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        for (start, _) in prose.match_indices("](") {
            if let Some(length) = prose[start + 2..].find(')') {
                found.push((at + 1, prose[start + 2..start + 2 + length].to_owned()));
            }
        }
    }
    found
}

/// The names by which the headings of a page can be linked to, as GitHub makes them.
fn anchors(markdown: &str) -> Vec<String> {
    let mut in_code = false;
    let headings = markdown.lines().filter(|line| {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        !in_code && line.starts_with('#')
    });
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            text.chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let (root, mut found) = (root(), Vec::new());
    for (path, text) in files(&[".md"]) {
        for (line, link) in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(&path).parent().unwrap_or(Path::new(""));
            let target = if file.is_empty() { root.join(&path) } else { root.join(folder).join(file) };
            let missing = !target.exists()
                || (!anchor.is_empty()
                    && !fs::read_to_string(&target)
                        .is_ok_and(|page| anchors(&page).iter().any(|a| a == anchor)));
            if missing {
                found.push(format!("{path}:{line}: {link}"));
            }
        }
    }
    assert_none(&found, "a link of a page leads nowhere");
}

#[test]
fn the_scanner_of_this_test_tells_code_from_comments_and_literals() {
    let code = code_only(
        "let a = \"unsafe\"; // unsafe\nlet b = 'u'; fn f<'a>() {} r#\"unsafe \"x\" \"# /* unsafe */ end",
    );
    assert!(!has_word(&code, "unsafe"), "{code}");
    assert!(code.contains("fn f<'a>() {}") && code.ends_with("end") && code.lines().count() == 2, "{code}");
    assert!(has_word("x unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
    assert_eq!(links("a [b](c.md) `[d](e)`\n```\n[f](g)\n```"), [(1, "c.md".to_owned())]);
    assert_eq!(anchors("## How it *works*, really\n"), ["how-it-works-really"]);
}
