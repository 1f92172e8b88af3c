//! The command without a sidecar: help, usage, configuration, and what it says when nothing is there.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cli_support;
use cli_support::{Directory, finish, machnet, run};

#[test]
fn every_subcommand_explains_itself_with_examples_and_exit_code_zero() {
    for arguments in [
        &["--help"][..],
        &["up", "--help"],
        &["status", "--help"],
        &["ping", "--help"],
        &["bench", "--help"],
        &["bench", "client", "--help"],
        &["bench", "server", "--help"],
        &["demo", "--help"],
        &["config", "--help"],
        &["config", "check", "--help"],
    ] {
        let (code, out, _) = run(arguments);
        assert_eq!(code, 0, "{arguments:?}");
        assert!(out.contains("Usage: machnet"), "{out}");
        assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    }
    let (_, out, _) = run(&["--help"]);
    assert!(out.contains("Exit codes:") && out.contains("machnet demo"), "{out}");
    let (code, out, _) = run(&["--version"]);
    assert_eq!((code, out.trim()), (0, concat!("machnet ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_misspelt_subcommand_or_flag_gets_a_suggestion_and_exit_code_two() {
    let (code, _, err) = run(&["stats"]);
    assert_eq!(code, 2);
    assert!(err.contains("'status'"), "{err}");
    let (code, _, err) = run(&["up", "--adress", "10.0.0.1"]);
    assert_eq!(code, 2);
    assert!(err.contains("--address"), "{err}");
    let (code, _, err) = run(&["bench", "client", "127.0.0.1", "--size", "9M"]);
    assert_eq!(code, 2);
    assert!(err.contains("from 1 to 8M bytes"), "{err}");
}

#[test]
fn an_unknown_key_of_the_file_is_named_with_line_and_nearest_valid_one() {
    let directory = Directory::new("unknown-key");
    let file = directory.file("machnet.toml", "idle = \"auto\"\n\nkeep_alive_ms = 5\n");
    for arguments in
        [&["config", "check", &file][..], &["config", "show", "--config", &file], &["up", "--config", &file]]
    {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        let expected = format!(
            "machnet: {file} line 3: unknown setting `keep_alive_ms`; did you mean `keepalive_ms`?\n"
        );
        assert_eq!(err, expected);
    }
}

#[test]
fn a_bad_value_is_named_with_its_origin_and_range_wherever_it_comes_from() {
    let directory = Directory::new("bad-value");
    let file = directory.file("machnet.toml", "udp_port = 80\n");
    let (code, _, err) = run(&["config", "check", &file]);
    assert_eq!(code, 2);
    let expected = "line 1: udp_port = \"80\" is not allowed: it must be a number from 1024 to 65535";
    assert!(err.contains(expected), "{err}");

    let mut command = machnet(&["up"]);
    command.env("MACHNET_IDLE", "never");
    let (code, _, err) = finish(command);
    assert_eq!(code, 2);
    assert!(err.contains("environment variable MACHNET_IDLE: idle = \"never\" is not allowed"), "{err}");

    let (code, _, err) = run(&["up", "--engines", "17"]);
    assert_eq!(code, 2);
    assert!(err.contains("flag --engines") && err.contains("from 1 to 16"), "{err}");

    let (code, _, err) = run(&["config", "check", "/nonexistent.toml"]);
    assert_eq!(code, 2);
    assert!(err.contains("/nonexistent.toml"), "{err}");
}

#[test]
fn config_show_prints_a_valid_file_with_the_origin_of_each_value() {
    let directory = Directory::new("show");
    let file = directory.file("machnet.toml", "udp_port = 4000\nidle = \"block\"\n");
    let mut command = machnet(&["config", "show", "--address", "127.0.0.9", "--linger-ms", "7"]);
    command.env("MACHNET_CONFIG", &file).env("MACHNET_IDLE", "yield");
    let (code, out, err) = finish(command);
    assert_eq!((code, err.as_str()), (0, ""));
    let line = |key: &str| out.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(
        line("udp_port").starts_with("udp_port = 4000") && line("udp_port").ends_with("machnet.toml line 1")
    );
    assert!(line("idle").starts_with("idle = \"yield\"") && line("idle").ends_with("MACHNET_IDLE"));
    assert!(
        line("linger_ms").starts_with("linger_ms = 7") && line("linger_ms").ends_with("flag --linger-ms")
    );
    assert!(line("engines").ends_with("# default"));
    let shown = directory.file("shown.toml", &out);
    assert_eq!(run(&["config", "check", &shown]).0, 0, "{out}");
}

#[test]
fn without_a_sidecar_the_text_names_the_socket_and_the_command() {
    for arguments in [
        &["status", "--socket", "/nonexistent/m.sock"][..],
        &["ping", "127.0.0.1", "--socket", "/nonexistent/m.sock"],
        &["bench", "client", "127.0.0.1", "--socket", "/nonexistent/m.sock"],
        &["bench", "server", "--socket", "/nonexistent/m.sock"],
    ] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (3, ""), "{arguments:?}");
        assert_eq!(err, "machnet: no sidecar at /nonexistent/m.sock; start one with `machnet up`\n");
    }
    let mut command = machnet(&["status"]);
    command.env("MACHNET_SOCKET", "/nonexistent/other.sock");
    let (code, _, err) = finish(command);
    assert_eq!(code, 3);
    assert!(err.contains("/nonexistent/other.sock"), "{err}");
}
